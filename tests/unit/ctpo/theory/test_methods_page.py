from __future__ import annotations

import numpy as np
import pytest
import torch

from ctpo.methods import METHODS
from ctpo.methods.objective import clipped_surrogate
from ctpo.methods.windows import CalibratedWindow, LogWindow, NoWindow, PositionAdaptiveWindow
from ctpo.theory import methods_page
from ctpo.theory.estimators import log_ratio_deviations
from ctpo.theory.family import family_rows, scaled
from ctpo.theory.study import WINDOW_DEVIATIONS, DecisionProcess

PROBLEM = DecisionProcess.random(0, 2, 4)
PAIR = PROBLEM.pair(0.2)


def test_the_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert methods_page.main(["--check"]) == 0, capsys.readouterr().out


def test_the_page_lists_every_method_with_its_settings() -> None:
    text = methods_page.PAGE.read_text(encoding="utf-8")
    for name, method in METHODS.items():
        assert f"\n## {name}\n" in text
        assert methods_page.section(method) in text


def test_an_outdated_page_is_noticed(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "methods.md"  # type: ignore[operator]
    path.write_text("old")
    monkeypatch.setattr(methods_page, "PAGE", path)
    monkeypatch.setattr(methods_page, "page", lambda: "new")
    assert methods_page.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().out
    assert methods_page.main([]) == 0
    assert path.read_text() == "new"


@pytest.mark.parametrize("name", METHODS)
def test_windows_are_scaled_to_the_same_number_of_deviations(name: str) -> None:
    method, small = METHODS[name], scaled(METHODS[name], PAIR)
    if isinstance(method.window, NoWindow):
        assert small == method
        return
    deviations, _ = log_ratio_deviations(method.log_ratio, PAIR)
    positions = torch.arange(1, 5)
    low, high = (bound.double().numpy() for bound in small.window.log_bounds(positions))
    own_low, own_high = (bound.double().numpy() for bound in method.window.log_bounds(positions))
    if isinstance(method.window, CalibratedWindow):
        share = 2 * WINDOW_DEVIATIONS / (method.window.low + method.window.high)
        np.testing.assert_allclose(high, share * method.window.high * deviations, rtol=1e-6)
        np.testing.assert_allclose(low, -share * method.window.low * deviations, rtol=1e-6)
        return
    if own_low[0] > -15:  # there is a lower bound: asymmetry and growth are the method's
        np.testing.assert_allclose(low / high, own_low / own_high, rtol=1e-5)
        np.testing.assert_allclose(high / high[0], own_high / own_high[0], rtol=1e-5)
    half = (high - low) / 2 if own_low[0] > -15 else high
    assert 0.5 < np.sqrt((half**2).mean() / (deviations**2).mean()) / WINDOW_DEVIATIONS < 1.5
    assert isinstance(small.window, LogWindow | PositionAdaptiveWindow)


def test_what_is_enumerated_is_what_the_training_code_gives() -> None:
    """For one method, by a loop over responses."""
    row = next(row for row in family_rows([PROBLEM], 0.2, [METHODS["ctpo_cispo"]]) if row["advantage"] == "outcome")
    rewards = PROBLEM.rewards - PAIR.old_probabilities @ PROBLEM.rewards
    method, responses = scaled(METHODS["ctpo_cispo"], PAIR), PAIR.tree.responses
    mean = np.zeros(PAIR.parameters)
    for index, probability in enumerate(PAIR.old_probabilities):
        log_prob = torch.from_numpy(PAIR.new_log_probs[index : index + 1].copy()).requires_grad_()
        old = torch.from_numpy(PAIR.old_log_probs[index : index + 1].copy())
        mask = torch.ones_like(old, dtype=torch.bool)
        clipped_surrogate(method, log_prob, old, torch.full_like(old, rewards[index]), mask).objective.sum().backward()
        assert log_prob.grad is not None
        scores = PAIR.score_table[responses.prefixes[index], responses.tokens[index]]
        mean += probability * log_prob.grad[0].numpy() @ scores
    gradient = _true_gradient()
    length = mean @ gradient / (gradient @ gradient)
    assert row["length"] == pytest.approx(length, rel=1e-9)
    assert row["bias"] == pytest.approx(np.linalg.norm(mean / length - gradient) / np.linalg.norm(gradient), rel=1e-9)


def _true_gradient() -> np.ndarray:
    """Of the expected reward at the trained policy, response by response."""
    responses = PAIR.tree.responses
    total = np.zeros(PAIR.parameters)
    for index, probability in enumerate(PAIR.new_probabilities):
        scores = PAIR.score_table[responses.prefixes[index], responses.tokens[index]].sum(axis=0)
        total += probability * PROBLEM.rewards[index] * scores
    return total
