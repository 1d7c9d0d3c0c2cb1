"""The simulator's scenarios have the laws that they claim, and the analysis measures them as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.growth import Growth as MeasuredGrowth
from analysis.growth import measure_growth
from ctpo.positions import PositionStats
from ctpo.theory.random_walk import SCENARIOS, Scenario, fit_exponent, growth

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
WITH_VARIANCE = [scenario for scenario in SCENARIOS if scenario.variance is not None]


@pytest.mark.parametrize("scenario", WITH_VARIANCE, ids=lambda scenario: scenario.name)
def test_the_spread_is_the_closed_form(scenario: Scenario) -> None:
    assert scenario.variance is not None
    found = growth(scenario.draw(np.random.default_rng(5), 4000, 512))
    exact = np.sqrt(scenario.variance(found.positions))
    # A standard deviation of n values is off by 1 / sqrt(2 n), more with heavy tails or mixed variances.
    errors = (found.std / exact - 1) * np.sqrt(2 * found.responses)
    heavy = scenario.name in ("heavy_tailed", "volatile_live_longer", "volatile_die_sooner")
    assert np.abs(errors).max() < (12 if heavy else 4)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_late_exponent_goes_to_the_limit(scenario: Scenario) -> None:
    found = growth(scenario.draw(np.random.default_rng(6), 3000, 2048))
    spread = found.robust if scenario.name == "infinite_variance" else found.std
    late = fit_exponent(found.positions, spread, first=512)
    # Which stays behind where survivors change slowly: half of the way from 0.5 is what 4 lengths give.
    slow = scenario.name.startswith("volatile")
    assert late == pytest.approx(scenario.exponent, abs=0.25 if slow else 0.11)
    if scenario.exponent != 0.5:
        assert (late > 0.5) == (scenario.exponent > 0.5)


def test_only_these_assumptions_give_sqrt_t() -> None:
    assert {scenario.name for scenario in SCENARIOS if scenario.exponent == 0.5} == {
        "independent",
        "heavy_tailed",
        "autocorrelated",
        "stops_whenever",
    }


def test_correlation_looks_like_a_higher_exponent_until_it_has_died_out() -> None:
    found = growth(BY_NAME["autocorrelated"].draw(np.random.default_rng(0), 2000, 1024))
    assert fit_exponent(found.positions, found.std, last=16) > 0.85
    assert fit_exponent(found.positions, found.std, first=256) == pytest.approx(0.5, abs=0.06)


def test_a_fit_needs_two_positions() -> None:
    with pytest.raises(ValueError, match="two are the least"):
        fit_exponent(np.array([1.0, 2.0]), np.array([1.0, 1.4]), first=2)


def measured(name: str, responses: int = 1024, positions: int = 512) -> MeasuredGrowth:
    """A scenario through the training side's statistics and the analysis's fit."""
    increments, lengths = BY_NAME[name].draw(np.random.default_rng(9), responses, positions)
    stats = PositionStats.zeros(positions, bin_width=16, folds=32, max_updates=2)
    mask = torch.from_numpy(np.arange(positions) < lengths[:, None])
    ratios = torch.from_numpy(increments.cumsum(axis=1))
    folds = torch.arange(responses) % 32
    stats.update(ratios, torch.ones_like(ratios), mask, update_index=1, folds=folds)
    return measure_growth(stats.read())


@pytest.mark.parametrize("name", ["independent", "heavy_tailed", "stops_whenever", "growing_increments", "long_memory"])
def test_the_analysis_interval_covers_a_power_law_that_is_one(name: str) -> None:
    exponent = measured(name).free[1]
    truth = BY_NAME[name].exponent
    if name == "growing_increments":
        # A sum of t^0.5 is a power law only as t grows.
        assert float(exponent.estimate) == pytest.approx(0.75, abs=0.05)
    else:
        assert float(exponent.low) - 0.01 <= truth <= float(exponent.high) + 0.01


@pytest.mark.parametrize(
    ("name", "above"),
    [
        ("shared_drift", True),
        ("long_memory", True),
        ("growing_increments", True),
        ("volatile_live_longer", True),
        ("shrinking_increments", False),
        ("mean_reverting", False),
        ("stops_when_far", False),
    ],
)
def test_the_analysis_tells_other_laws_from_sqrt_t(name: str, above: bool) -> None:
    exponent = measured(name).free[1]
    assert float(exponent.low) > 0.5 if above else float(exponent.high) < 0.5


def test_summed_increment_variances_tell_correlation_from_size() -> None:
    """Both grow faster than sqrt(t), but only correlated increments leave the curve that their sizes predict."""
    for name, matches in (("growing_increments", True), ("long_memory", False), ("shared_drift", False)):
        found = measured(name)
        ratio = float(found.std.estimate[-1] / found.predicted[-1])
        assert (abs(ratio - 1) < 0.1) == matches, (name, ratio)
