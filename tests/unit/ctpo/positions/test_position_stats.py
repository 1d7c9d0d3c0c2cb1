"""What is recorded of every position, against loops over the matrix."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from ctpo.methods.windows import LogWindow, PositionAdaptiveWindow, RatioWindow, describe
from ctpo.positions import COUNTERFACTUAL_WINDOWS, PositionStats
from ctpo.records.position_stats import GUARDED, OWN, histogram_edges
from tests.unit.ctpo.recorded_batch import arrays_equal, naive_clipped, recorded, small

FIXED, ADAPTIVE = COUNTERFACTUAL_WINDOWS


@pytest.mark.parametrize("seed", range(5))
def test_every_position_equals_a_loop_over_the_matrix(seed: int) -> None:
    data, stats = recorded(seed), small()
    data.add_to(stats)
    positions = stats.read().positions
    for t in range(1, 51):
        cells = [(row, column) for row, column, position in data.tokens() if position == t]
        assert stats.count[t - 1] == len(cells)
        for values, mean, std in (
            (data.log_ratio, stats.mean, stats.std),
            (data.token, positions.token_mean, np.sqrt(positions.token_variance)),
        ):
            at_t = [values[cell].item() for cell in cells]
            expected_mean = statistics.fmean(at_t) if at_t else math.nan
            expected_std = statistics.stdev(at_t) if len(at_t) > 1 else math.nan
            assert mean[t - 1].item() == pytest.approx(expected_mean, abs=1e-6, nan_ok=True)
            assert std[t - 1].item() == pytest.approx(expected_std, abs=1e-6, nan_ok=True)
        for window in (FIXED, ADAPTIVE):
            flags = [naive_clipped(window, data, *cell, t) for cell in cells]
            high, low = positions.clip_counts(describe(window))
            assert (high[t - 1], low[t - 1]) == (sum(h for h, _ in flags), sum(b for _, b in flags))
            rate = sum(h or b for h, b in flags) / len(cells) if cells else math.nan
            assert stats.clip_rate(window)[t - 1].item() == pytest.approx(rate, nan_ok=True)
        own_high, own_low = positions.clip_counts()
        assert own_high[t - 1] == sum(data.high[cell].item() for cell in cells)
        assert own_low[t - 1] == sum(data.low[cell].item() for cell in cells)


def test_random_data_clips_under_every_window() -> None:
    stats = small()
    recorded(0).add_to(stats)
    for window in (describe(FIXED), describe(ADAPTIVE), OWN):
        high, low = stats.read().positions.clip_counts(window)
        assert high.sum() > 5, window
        assert low.sum() > 5, window


def test_bins_by_update_and_by_fold_equal_loops_and_the_first_update_is_apart() -> None:
    updates = [recorded(seed) for seed in (20, 21, 22)]
    stats = small()
    for index, data in enumerate(updates):
        data.add_to(stats, update_index=index)
    sums = stats.read()
    expected_updates, expected_folds = np.zeros((2, 3, 7)), np.zeros((2, 4, 7))
    for index, data in enumerate(updates):
        for row, column, t in data.tokens():
            flags = naive_clipped(FIXED, data, row, column, t)
            addend = np.array([data.log_ratio[row, column].item(), float(any(flags))])
            expected_updates[:, index, (t - 1) // 8] += addend
            if index > 0:
                expected_folds[:, data.folds[row], (t - 1) // 8] += addend
    for grid, expected in ((sums.updates, expected_updates), (sums.folds, expected_folds)):
        np.testing.assert_allclose(np.nan_to_num(grid.mean) * grid.count, expected[0], atol=1e-3, rtol=1e-5)
        high, low = grid.clip_counts(describe(FIXED))
        np.testing.assert_array_equal(high + low, expected[1])
    later = sum(int(data.mask.sum()) for data in updates[1:])
    assert stats.count.sum() == sums.folds.count.sum() == later
    assert sums.histogram[0].sum() == sums.histogram[1].sum() == later
    assert sums.updates.count.sum() == later + int(updates[0].mask.sum())
    np.testing.assert_array_equal(sums.folds.sums.sum(1), sums.updates.sums[:, 1:].sum(1))
    np.testing.assert_array_equal(sums.folds.counts.sum(1), sums.updates.counts[:, 1:].sum(1))
    first = small()
    updates[0].add_to(first)
    np.testing.assert_array_equal(sums.first.sums, first.read().positions.sums)
    np.testing.assert_array_equal(sums.first.counts, first.read().positions.counts)


@pytest.mark.parametrize("scale", [1e-4, 0.3, 8.0])
def test_moments_of_the_ratio_itself_are_those_of_a_naive_loop_with_the_objectives_guard(scale: float) -> None:
    data, stats = recorded(40, scale=scale), small()
    data.add_to(stats)
    cells = stats.read().positions
    by_position: dict[int, list[float]] = {}
    guarded = 0
    for row, column, t in data.tokens():
        log_ratio = data.log_ratio[row, column].double().item()
        guarded += log_ratio > 10
        by_position.setdefault(t, []).append(math.exp(min(log_ratio, 10.0)))
    assert cells.counts[GUARDED].sum() == guarded
    for t, rho in by_position.items():
        assert cells.ratio_mean[t - 1] == pytest.approx(np.mean(rho), rel=1e-5, abs=1e-6)
        share = sum(rho) ** 2 / (len(rho) * sum(value**2 for value in rho))
        assert cells.effective_share[t - 1] == pytest.approx(share, rel=1e-4)
        if len(rho) > 1:
            assert cells.ratio_variance[t - 1] == pytest.approx(np.var(rho, ddof=1), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 0.3, 8.0])
def test_histogram_is_numpys_on_the_stated_edges(scale: float) -> None:
    data, stats = recorded(5, scale=scale), small()
    data.add_to(stats)
    edges = histogram_edges()
    assert len(edges) == 153
    assert (np.diff(edges) > 0).all()
    expected = np.zeros((2, 7, 152), dtype=np.int64)
    for row, column, t in data.tokens():
        for plane, values in enumerate((data.log_ratio, data.token)):
            value = values[row, column].item()
            # Buckets below zero are mirrored: closed at the end away from zero.
            bucket = np.searchsorted(edges, value, side="right" if value >= 0 else "left") - 1
            expected[plane, (t - 1) // 8, int(bucket)] += 1
    assert np.array_equal(stats.read().histogram, expected)


def test_without_token_log_ratios_they_are_the_differences_of_the_cumulative_one() -> None:
    data = recorded(6)
    given, derived = small(), small()
    data.add_to(given)
    derived.update(data.log_ratio, data.advantages, data.mask)
    one, other = given.read(), derived.read()
    np.testing.assert_array_equal(one.positions.count, other.positions.count)
    np.testing.assert_array_equal(one.histogram.sum(-1), other.histogram.sum(-1))
    assert other.histogram.min() == 0
    for attribute in ("token_mean", "token_variance"):
        expected, found = (getattr(sums.positions, attribute) for sums in (one, other))
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-5)


def test_std_of_uncorrelated_increments_is_predicted_by_their_summed_variances() -> None:
    generator = torch.Generator().manual_seed(0)
    token = 0.01 * torch.randn(4000, 64, generator=generator)
    stats = PositionStats.zeros(64, bin_width=8)
    mask = torch.ones_like(token, dtype=torch.bool)
    stats.update(token.cumsum(-1), torch.ones_like(token), mask, token_log_ratio=token)
    positions = stats.read().positions
    np.testing.assert_allclose(positions.std, np.sqrt(positions.token_variance.cumsum()), rtol=0.05)


def test_tokens_beyond_the_last_position_are_counted_not_dropped() -> None:
    data = recorded(14)
    full, cut = small(), PositionStats.zeros(20, bin_width=8, folds=4, max_updates=3)
    for index in (0, 2):
        data.add_to(full, update_index=index)
        data.add_to(cut, update_index=index)
    whole, part = full.read(), cut.read()
    np.testing.assert_array_equal(part.positions.count, whole.positions.count[:20])
    np.testing.assert_array_equal(part.positions.sums, whole.positions.sums[:, :20])
    beyond = int(whole.positions.count[20:].sum())
    assert beyond > 0
    assert part.overflow.tolist() == [beyond, 0, beyond]
    assert part.folds.count.sum() == part.histogram[0].sum() == part.positions.count.sum()
    assert whole.overflow.sum() == 0


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (3, 5)])
def test_batches_without_model_tokens_add_nothing(shape: tuple[int, int]) -> None:
    stats, nan = small(), torch.full(shape, torch.nan)
    stats.update(nan, nan, torch.zeros(shape), folds=torch.zeros(shape[0], dtype=torch.int64))
    assert arrays_equal(stats, small())
    assert stats.mean.isnan().all()
    assert stats.std.isnan().all()
    assert stats.clip_rate(FIXED).isnan().all()


def test_std_has_one_degree_of_freedom_less_than_tokens() -> None:
    stats = PositionStats.zeros(8, bin_width=8)
    for value in (1.0, 2.0, 4.0):
        one = torch.ones(1, 1)
        stats.update(value * one, one, one)
    assert stats.std[0].item() == pytest.approx(statistics.stdev([1.0, 2.0, 4.0]))
    assert stats.std[1].isnan()


def test_many_responses_and_wide_bins_lose_no_count() -> None:
    ones = torch.ones(1000, 8)
    stats = PositionStats.zeros(8, bin_width=8)
    stats.update(2 * ones, ones, ones.bool(), clipped_high=ones.bool(), folds=torch.zeros(1000, dtype=torch.int64))
    assert stats.count.tolist() == [1000] * 8
    assert stats.clip_rate(FIXED).tolist() == stats.clip_rate(None).tolist() == [1.0] * 8
    assert stats.read().folds.count[0, 0] == 8000
    wide, ones = PositionStats.zeros(2040, bin_width=2040, folds=1), torch.ones(2, 2040)
    wide.update(ones, ones, ones.bool(), clipped_low=ones.bool(), folds=torch.zeros(2, dtype=torch.int64))
    assert wide.read().folds.clip_counts()[1].tolist() == [[4080]]


@pytest.mark.parametrize("bin_width", [1, 7, 50, 64])
def test_any_bin_width_gives_the_same_sums_by_position(bin_width: int) -> None:
    data, stats, other = recorded(19), small(), small(bin_width=bin_width)
    data.add_to(stats)
    data.add_to(other)
    one, two = stats.read(), other.read()
    np.testing.assert_array_equal(one.positions.sums, two.positions.sums)
    np.testing.assert_array_equal(one.updates.counts.sum(-1), two.updates.counts.sum(-1))
    np.testing.assert_array_equal(one.histogram.sum(1), two.histogram.sum(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_recorded_as_float32(dtype: torch.dtype) -> None:
    data = recorded(15)
    data.log_ratio, data.token = data.log_ratio.to(dtype), data.token.to(dtype)
    cast, stats = small(), small()
    data.add_to(stats)
    data.log_ratio, data.token = data.log_ratio.float(), data.token.float()
    data.add_to(cast)
    torch.testing.assert_close(stats.mean, cast.mean, equal_nan=True, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(stats.std, cast.std, equal_nan=True, atol=1e-6, rtol=1e-6)


def test_other_windows_can_be_recorded() -> None:
    windows = (LogWindow(-0.1, 0.2), RatioWindow(0.9, 1.1), PositionAdaptiveWindow(0.01, 0.02, 1.0))
    data, stats = recorded(16), PositionStats.zeros(50, windows, bin_width=8)
    data.add_to(stats)
    for window in windows:
        expected = sum(any(naive_clipped(window, data, *cell)) for cell in data.tokens())
        assert sum(int(part.sum()) for part in stats.read().positions.clip_counts(describe(window))) == expected > 0
    with pytest.raises(ValueError, match="was not recorded"):
        stats.clip_rate(FIXED)
