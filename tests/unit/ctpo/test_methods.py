from __future__ import annotations

import dataclasses
import pickle

import pytest

from ctpo.clipping import DualClip, LogWindow, PositionAdaptiveWindow, RatioWindow
from ctpo.log_ratios import (
    cumulative_log_ratio,
    length_normalized_log_ratio,
    sequence_log_ratio,
    token_log_ratio,
)
from ctpo.methods import METHODS, MethodError, configure


def test_methods_are_those_of_the_papers_table() -> None:
    table = {
        name: (method.log_ratio, method.window, method.aggregation, method.dual_clip)
        for name, method in METHODS.items()
    }
    paper, adaptive = "seq-mean-token-mean", PositionAdaptiveWindow(0.025, 0.05, 0.5)
    assert table == {
        "grpo": (token_log_ratio, RatioWindow(0.8, 1.2), paper, None),
        "gspo": (length_normalized_log_ratio, RatioWindow(1 - 3e-4, 1 + 4e-4), paper, None),
        "ctpo": (cumulative_log_ratio, adaptive, paper, None),
        "ctpo_fixed": (cumulative_log_ratio, RatioWindow(0.5, 5.0), paper, None),
        "ctpo_released": (cumulative_log_ratio, adaptive, "token-mean", DualClip(0.05, 0.5)),
        "full_sequence": (sequence_log_ratio, LogWindow(-0.3, 0.4), paper, None),
    }


def test_a_method_can_be_varied_and_sent_to_another_process() -> None:
    varied = dataclasses.replace(METHODS["ctpo"], window=RatioWindow(0.5, 2.0))
    assert varied.window != METHODS["ctpo"].window
    assert pickle.loads(pickle.dumps(varied)) == varied


def test_overrides_change_only_what_they_name() -> None:
    method = configure("ctpo", {"window": {"power": 1}, "dual_clip": None})
    assert method == dataclasses.replace(METHODS["ctpo"], window=PositionAdaptiveWindow(0.025, 0.05, 1.0))
    released = configure("ctpo_released", {"dual_clip": {"scale": 0.1}})
    assert released.dual_clip == DualClip(0.1, 0.5)
    assert configure("gspo") == METHODS["gspo"]
    assert configure("full_sequence", {"window": {"low": -1.0}}).window == LogWindow(-1.0, 0.4)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("cpto", {}, "unknown method 'cpto'; known: grpo, gspo, ctpo"),
        (
            "ctpo",
            {"window": {"eps": 0.1}},
            "method.window.eps: unknown field; known: eps_low, eps_high, power",
        ),
        ("grpo", {"window": {"power": 0.5}}, "method.window.power: unknown field; known: low, high"),
        (
            "ctpo",
            {"dual_clip": {"scale": 0.1}},
            "method.dual_clip: 'ctpo' has no such setting; known: window",
        ),
        ("ctpo", {"windows": {}}, "method.windows: 'ctpo' has no such setting"),
        ("ctpo", {"window": 0.5}, "method.window: expected a mapping"),
        ("ctpo", {"window": {"power": "half"}}, "method.window.power: expected a number, got 'half'"),
        ("ctpo", {"window": {"power": True}}, "method.window.power: expected a number, got True"),
        ("ctpo", {"window": {"eps_low": -1}}, "eps_low=-1.0"),
        ("grpo", {"window": {"low": 1.5}}, "low=1.5"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(
    name: str, overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(MethodError) as caught:
        configure(name, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
