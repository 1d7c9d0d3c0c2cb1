"""The cumulative ratio's mean, variance and effective sample size, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.position_sums import PositionSums
from analysis.ratio_moments import measure_ratios
from ctpo.positions import PositionStats

SIGMA, RESPONSES, LENGTH = 0.05, 4000, 64


def sums_of(shift: float, seed: int = 0, large: float = 0.0) -> PositionSums:
    """Normal increments of mean `shift - SIGMA**2 / 2`; with `shift` 0 the mean of rho_t is 1 at every position."""
    generator = np.random.default_rng(seed)
    d = torch.from_numpy(SIGMA * generator.normal(size=(RESPONSES, LENGTH)) + shift - SIGMA**2 / 2)
    d[0, 0] += large
    stats = PositionStats.zeros(LENGTH, bin_width=4, folds=32, max_updates=2)
    mask, folds = torch.ones(RESPONSES, LENGTH, dtype=torch.bool), torch.arange(RESPONSES) % 32
    stats.update(d.cumsum(-1), torch.ones_like(d), mask, token_log_ratio=d, folds=folds)
    return stats.read()


def test_an_honest_ratio_has_mean_one_and_the_product_formulas_variance() -> None:
    moments = measure_ratios(sums_of(0.0))
    inside = (moments.mean.low <= 1) & (moments.mean.high >= 1)
    assert inside.mean() >= 0.8  # of 16 bins that share their responses
    np.testing.assert_allclose(moments.mean.estimate, 1, atol=0.02)
    np.testing.assert_allclose(moments.variance.estimate, moments.product, rtol=0.15)
    np.testing.assert_allclose(moments.effective_share.estimate, 1 / (1 + moments.variance.estimate), rtol=0.02)
    assert moments.guarded == 0


def test_a_sampler_that_does_not_draw_from_the_old_policy_is_seen() -> None:
    moments = measure_ratios(sums_of(-0.01))
    assert (moments.mean.high[4:] < 1).all()
    assert moments.mean.estimate[-1] == pytest.approx(np.exp(-0.01 * 62.5), rel=0.03)


def test_guarded_tokens_are_counted_and_cut() -> None:
    moments = measure_ratios(sums_of(0.0, large=12.0))
    assert moments.guarded == LENGTH
    assert moments.mean.estimate.max() < 1 + 1.05 * np.exp(10) / RESPONSES
    assert moments.effective_share.estimate.max() < 0.01
