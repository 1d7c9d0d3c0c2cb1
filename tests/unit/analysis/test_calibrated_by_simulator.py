"""The analysis' growth exponents against simulated laws whose exact standard deviations are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.growth import measure_growth
from ctpo.positions import PositionStats
from ctpo.theory.random_walk import SCENARIOS, Scenario, fit_exponent

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
RESPONSES, POSITIONS, WIDTH = 1024, 256, 8


def measured(scenario: Scenario) -> tuple[float, float, float]:
    """Exponent and its interval, as a run's records would give them."""
    increments, lengths = scenario.draw(np.random.default_rng(5), RESPONSES, POSITIONS)
    d = torch.from_numpy(increments).float()
    mask = torch.arange(POSITIONS) < torch.from_numpy(lengths)[:, None]
    stats = PositionStats.zeros(POSITIONS, bin_width=WIDTH, folds=32, max_updates=2)
    stats.update(
        torch.where(mask, d, 0.0).cumsum(-1), torch.ones_like(d), mask, token_log_ratio=d,
        folds=torch.arange(RESPONSES) % 32,
    )  # fmt: skip
    free = measure_growth(stats.read()).free[1]
    return float(free.estimate), float(free.low), float(free.high)


@pytest.mark.parametrize("name", ["independent", "heavy_tailed", "stops_whenever"])
def test_where_the_assumptions_hold_the_interval_has_one_half(name: str) -> None:
    _, low, high = measured(BY_NAME[name])
    assert low <= 0.5 <= high
    assert high - low < 0.3


@pytest.mark.parametrize(
    "name", ["long_memory", "shared_drift", "mean_reverting", "growing_increments", "shrinking_increments"]
)
def test_a_broken_assumption_is_found_and_its_exponent_too(name: str) -> None:
    scenario = BY_NAME[name]
    value, low, high = measured(scenario)
    assert not low <= 0.5 <= high
    # A law that is no power has no one exponent: over the middle of the positions the fit must be near.
    assert scenario.variance is not None
    positions = np.arange(1, POSITIONS + 1).astype(np.float64)
    exact = fit_exponent(positions, np.sqrt(scenario.variance(positions)), 8)
    assert value == pytest.approx(exact, abs=0.12)
