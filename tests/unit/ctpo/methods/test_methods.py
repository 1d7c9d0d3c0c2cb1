from __future__ import annotations

import dataclasses
import math
import pickle
import sys
from pathlib import Path

import pytest

from ctpo.methods import METHODS, Method, MethodError, configure
from ctpo.methods.log_ratios import (
    MAX_ABS_TOKEN_LOG_RATIO,
    cumulative_log_ratio,
    length_normalized_log_ratio,
    minimum_prefix_log_ratio,
    running_mean_log_ratio,
    sequence_log_ratio,
    token_log_ratio,
)
from ctpo.methods.objective import ClippedMin
from ctpo.methods.rules import BinaryKLMask, BinaryTVMask, ClippedWeight, GeometricMean, PrefixBudget, SoftGate
from ctpo.methods.windows import CalibratedWindow, DualClip, LogWindow, NoWindow, PositionAdaptiveWindow, RatioWindow

PAPER, CONSTANT = "seq-mean-token-mean", "seq-mean-token-sum-norm"
ADAPTIVE = PositionAdaptiveWindow(0.025, 0.05, 0.5)


def test_methods_are_those_of_the_papers_table() -> None:
    table = {
        name: (method.log_ratio, method.window, method.aggregation, method.dual_clip)
        for name, method in METHODS.items()
        if method.rule == ClippedMin() and method.std_normalised
    }
    assert table == {
        "grpo": (token_log_ratio, RatioWindow(0.8, 1.2), PAPER, None),
        "gspo": (length_normalized_log_ratio, RatioWindow(1 - 3e-4, 1 + 4e-4), PAPER, None),
        "ctpo": (cumulative_log_ratio, ADAPTIVE, PAPER, None),
        "ctpo_fixed": (cumulative_log_ratio, RatioWindow(0.5, 5.0), PAPER, None),
        "ctpo_released": (cumulative_log_ratio, ADAPTIVE, "token-mean", DualClip(0.05, 0.5)),
        "full_sequence": (sequence_log_ratio, LogWindow(-0.3, 0.4), PAPER, None),
        "dapo": (token_log_ratio, RatioWindow(0.8, 1.28), "token-mean", None),
        "ctpo_geomean": (running_mean_log_ratio, PositionAdaptiveWindow(0.025, 0.05, -0.5), PAPER, None),
        "ctpo_calibrated": (cumulative_log_ratio, CalibratedWindow(1.25, 2.5, 0.9), PAPER, None),
    }


def test_the_other_relatives_have_their_papers_rules_and_defaults() -> None:
    table = {
        name: (method.log_ratio, method.window, method.rule, method.aggregation, method.std_normalised)
        for name, method in METHODS.items()
        if method.rule != ClippedMin() or not method.std_normalised
    }
    above = RatioWindow(1e-9, 1.2)
    assert table == {
        "dr_grpo": (token_log_ratio, RatioWindow(0.8, 1.2), ClippedMin(), CONSTANT, False),
        "gmpo": (token_log_ratio, LogWindow(-0.4, 0.4), GeometricMean(), PAPER, True),
        "cispo": (token_log_ratio, above, ClippedWeight(), "token-mean", True),
        "sapo": (token_log_ratio, NoWindow(), SoftGate(1.0, 1.05), PAPER, True),
        "dppo_tv": (token_log_ratio, NoWindow(), BinaryTVMask(0.15, 0.15, 20.0), PAPER, True),
        "dppo_kl": (token_log_ratio, NoWindow(), BinaryKLMask(0.05, 0.05, 20.0), PAPER, True),
        "minpro": (minimum_prefix_log_ratio, above, ClippedWeight(), PAPER, True),
        "cppo": (token_log_ratio, NoWindow(), PrefixBudget(0.2, 0.02, 0.8), PAPER, True),
        "ctpo_cispo": (cumulative_log_ratio, ADAPTIVE, ClippedWeight(), PAPER, True),
    }
    # Below every clamped token log-ratio: no bound.
    assert math.log(above.low) < -MAX_ABS_TOKEN_LOG_RATIO


def test_every_method_says_where_it_is_from() -> None:
    for method in METHODS.values():
        assert all((method.citation, method.notes.ratio, method.notes.defaults, method.notes.differences)), method.name
        assert all((method.rule.formula, method.rule.gradient, method.rule.clipped)), method.name


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
        ("sapo", {"window": {"low": 0.5}}, "method.window: 'sapo' has no such setting; known: rule"),
        ("sapo", {"rule": {"tau": 1.0}}, "method.rule.tau: unknown field; known: tau_pos, tau_neg"),
        ("sapo", {"rule": {"tau_neg": 0}}, "tau_neg=0.0 must be finite and above 0"),
        ("dppo_tv", {"rule": {"low": -1}}, "low=-1.0 must be finite and at least 0"),
        ("dppo_kl", {"rule": {"max_ratio": 0.5}}, "max_ratio=0.5 must be finite and at least 1"),
        ("cppo", {"rule": {"w_min": 0}}, "w_min=0.0 must lie in (0, 1]"),
        ("cppo", {"rule": {"delta": -1}}, "delta=-1.0 must be finite"),
        ("ctpo", {"rule": {}}, "method.rule: 'ctpo' has no such setting; known: window"),
        ("ctpo_calibrated", {"window": {"deviations": 1}}, "deviations: unknown field; known: low, high, decay"),
        ("ctpo_calibrated", {"window": {"decay": 1}}, "decay=1.0 must lie in [0, 1)"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(
    name: str, overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(MethodError) as caught:
        configure(name, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------- one's own

EXAMPLE = Path(__file__).resolve().parents[4] / "experiments" / "examples"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_the_example_is_15_lines_of_code_and_loads() -> None:
    method = configure("custom", {"import_path": "my_ratio:method", "search_path": str(EXAMPLE)})
    assert (method.name, method.log_ratio.name) == ("custom", "recent")
    lines = [line for line in (EXAMPLE / "my_ratio.py").read_text().splitlines() if line.strip()]
    assert len(lines) <= 15
    assert pickle.loads(pickle.dumps(method)) == method
    narrower = {"import_path": "my_ratio:method", "search_path": str(EXAMPLE), "window": {"eps_high": 0.01}}
    assert configure("custom", narrower).window == PositionAdaptiveWindow(0.025, 0.01, 0.5)


@pytest.mark.parametrize(
    ("text", "import_path", "message"),
    [
        ("", None, "method.import_path: missing"),
        ("", "mine_a", "method.import_path=mine_a: expected module:attribute"),
        ("", "nowhere_b:method", "no module 'nowhere_b' in "),
        ("", "mine_c:method", "has no 'method'"),
        ("from ctpo.methods import METHODS\nmine = METHODS['ctpo']", "mine_d:method", "it defines mine"),
        ("method = 3", "mine_e:method", "method is a int; it must be a ctpo.methods.Method"),
        ("import nowhere_f", "mine_f:method", "mine_f needs nowhere_f, which is not installed"),
        ("1 / 0", "mine_g:method", "mine_g does not load: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_does_not_serve_is_refused_in_one_line(
    folder: Path, text: str, import_path: str | None, message: str
) -> None:
    if import_path and "nowhere" not in import_path:
        (folder / f"{import_path.partition(':')[0]}.py").write_text(text)
    with pytest.raises(MethodError) as caught:
        configure("custom", {"import_path": import_path, "search_path": str(folder)})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"log_ratio": lambda *_: None}, "log_ratio must be a ctpo.methods.LogRatio"),
        ({"window": (0.8, 1.2)}, "window must have log_bounds"),
        ({"rule": "min"}, "rule must be a function"),
        ({"aggregation": "mean"}, "aggregation 'mean'; known: seq-mean-token-mean"),
        ({"rule": ClippedWeight(), "dual_clip": DualClip()}, "ClippedWeight has no dual clip"),
    ],
)
def test_a_method_of_wrong_parts_cannot_be_made(fields: dict[str, object], message: str) -> None:
    parts = {"name": "mine", "log_ratio": token_log_ratio, "window": NoWindow(), "citation": "me"} | fields
    with pytest.raises(MethodError) as caught:
        Method(**parts)  # type: ignore[arg-type]
    assert message in str(caught.value)
