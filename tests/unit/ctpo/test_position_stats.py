from __future__ import annotations

import io
import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from ctpo.clipping import LogWindow, PositionAdaptiveWindow, RatioWindow, Window
from ctpo.position_stats import COUNTERFACTUAL_WINDOWS, PositionStats, histogram_edges
from tests.unit.ctpo.naive_method import random_mask

FIXED, ADAPTIVE = COUNTERFACTUAL_WINDOWS


@dataclass
class Recorded:
    """Inputs of `PositionStats.update`, `[batch, length]`, with the folds `[batch]`."""

    log_ratio: Tensor
    token: Tensor
    advantages: Tensor
    mask: Tensor
    high: Tensor
    low: Tensor
    folds: Tensor

    def add_to(self, stats: PositionStats, rows: slice = slice(None), update_index: int = 1) -> None:
        stats.update(
            self.log_ratio[rows],
            self.advantages[rows],
            self.mask[rows],
            token_log_ratio=self.token[rows],
            clipped_high=self.high[rows],
            clipped_low=self.low[rows],
            update_index=update_index,
            folds=self.folds[rows],
        )

    def tokens(self) -> Iterator[tuple[int, int, int]]:
        """(row, column, position) of every model token."""
        for row, mask in enumerate(self.mask.tolist()):
            columns = [column for column, m in enumerate(mask) if m]
            yield from ((row, column, t) for t, column in enumerate(columns, start=1))


def recorded(seed: int, batch: int = 11, length: int = 50, scale: float = 0.3, folds: int = 4) -> Recorded:
    generator = torch.Generator().manual_seed(seed)
    mask = random_mask(generator, batch, length)
    mask[0], mask[1] = True, False
    token = scale * torch.randn(batch, length, generator=generator) * mask
    garbage = torch.where(torch.rand(mask.shape, generator=generator) < 0.5, torch.nan, torch.inf)
    log_ratio = torch.where(mask, token.cumsum(-1), garbage)
    advantages = torch.randn(batch, length, generator=generator)
    advantages[torch.rand(mask.shape, generator=generator) < 0.2] = 0.0
    advantages[~mask] = torch.nan
    high = (torch.rand(mask.shape, generator=generator) < 0.2) & mask
    low = (torch.rand(mask.shape, generator=generator) < 0.1) & mask & ~high
    return Recorded(
        log_ratio,
        torch.where(mask, token, garbage),
        advantages,
        mask,
        high,
        low,
        torch.randint(0, folds, (batch,), generator=generator),
    )


def small(**changes: int) -> PositionStats:
    return PositionStats.zeros(50, **({"bin_width": 8, "folds": 4, "max_updates": 3} | changes))


def arrays_equal(left: PositionStats, right: PositionStats) -> bool:
    a, b = left.to_arrays(), right.to_arrays()
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def naive_clipped(window: Window, data: Recorded, row: int, column: int, t: int) -> tuple[bool, bool]:
    low, high = (bound.item() for bound in window.log_bounds(torch.tensor([t])))
    value, advantage = data.log_ratio[row, column].item(), data.advantages[row, column].item()
    return advantage > 0 and value > high, advantage < 0 and value < low


# ---------------------------------------------------------------------------- against loops


@pytest.mark.parametrize("seed", range(5))
def test_every_position_equals_a_loop_over_the_matrix(seed: int) -> None:
    data, stats = recorded(seed), small()
    data.add_to(stats)
    for t in range(1, 51):
        cells = [(row, column) for row, column, position in data.tokens() if position == t]
        assert stats.count[t - 1] == len(cells)
        for values, mean, std in (
            (data.log_ratio, stats.mean, stats.std),
            (data.token, stats.positions.token_mean, stats.positions.token_std),
        ):
            at_t = [values[cell].item() for cell in cells]
            expected_mean = statistics.fmean(at_t) if at_t else math.nan
            expected_std = statistics.stdev(at_t) if len(at_t) > 1 else math.nan
            assert mean[t - 1].item() == pytest.approx(expected_mean, abs=1e-6, nan_ok=True)
            assert std[t - 1].item() == pytest.approx(expected_std, abs=1e-6, nan_ok=True)
        for window in (FIXED, ADAPTIVE):
            flags = [naive_clipped(window, data, *cell, t) for cell in cells]
            high, low = stats.positions.clip_counts(window)
            assert (high[t - 1], low[t - 1]) == (sum(h for h, _ in flags), sum(b for _, b in flags))
            rate = sum(h or b for h, b in flags) / len(cells) if cells else math.nan
            assert stats.clip_rate(window)[t - 1].item() == pytest.approx(rate, nan_ok=True)
        own_high, own_low = stats.positions.clip_counts()
        assert own_high[t - 1] == sum(data.high[cell].item() for cell in cells)
        assert own_low[t - 1] == sum(data.low[cell].item() for cell in cells)


def test_random_data_clips_under_every_window() -> None:
    stats = small()
    recorded(0).add_to(stats)
    for window in (FIXED, ADAPTIVE, None):
        high, low = stats.positions.clip_counts(window)
        assert high.sum() > 5, window
        assert low.sum() > 5, window


def test_bins_by_update_and_by_fold_equal_loops_and_the_first_update_is_apart() -> None:
    updates = [recorded(seed) for seed in (20, 21, 22)]
    stats = small()
    for index, data in enumerate(updates):
        data.add_to(stats, update_index=index)
    expected_updates, expected_folds = torch.zeros(2, 3, 7), torch.zeros(2, 4, 7)
    for index, data in enumerate(updates):
        for row, column, t in data.tokens():
            flags = naive_clipped(FIXED, data, row, column, t)
            addend = torch.tensor([data.log_ratio[row, column].item(), float(any(flags))])
            expected_updates[:, index, (t - 1) // 8] += addend
            if index > 0:
                expected_folds[:, data.folds[row], (t - 1) // 8] += addend
    for grid, expected in ((stats.updates, expected_updates), (stats.folds, expected_folds)):
        torch.testing.assert_close(grid.mean.nan_to_num() * grid.count, expected[0].double(), atol=1e-3, rtol=1e-5)
        high, low = grid.clip_counts(FIXED)
        assert torch.equal(high + low, expected[1].long())
    later = sum(int(data.mask.sum()) for data in updates[1:])
    assert int(stats.count.sum()) == int(stats.folds.count.sum()) == later
    assert int(stats.histogram[0].sum()) == int(stats.histogram[1].sum()) == later
    assert int(stats.updates.count.sum()) == later + int(updates[0].mask.sum())
    assert torch.equal(stats.folds.sums.sum(1), stats.updates.sums[:, 1:].sum(1))
    assert torch.equal(stats.folds.counts.sum(1), stats.updates.counts[:, 1:].sum(1))


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
            side = "right" if value >= 0 else "left"
            expected[plane, (t - 1) // 8, np.searchsorted(edges, value, side=side) - 1] += 1
    assert np.array_equal(stats.histogram.numpy(), expected)


def test_without_token_log_ratios_they_are_the_differences_of_the_cumulative_one() -> None:
    data = recorded(6)
    given, derived = small(), small()
    data.add_to(given)
    derived.update(data.log_ratio, data.advantages, data.mask)
    assert torch.equal(given.count, derived.count)
    assert torch.equal(given.histogram.sum(-1), derived.histogram.sum(-1))
    assert derived.histogram.min() == 0
    for attribute in ("token_mean", "token_std"):
        torch.testing.assert_close(
            getattr(given.positions, attribute),
            getattr(derived.positions, attribute),
            atol=1e-6,
            rtol=1e-5,
            equal_nan=True,
        )


def test_std_of_uncorrelated_increments_is_predicted_by_their_summed_variances() -> None:
    generator = torch.Generator().manual_seed(0)
    token = 0.01 * torch.randn(4000, 64, generator=generator)
    stats = PositionStats.zeros(64, bin_width=8)
    mask = torch.ones_like(token, dtype=torch.bool)
    stats.update(token.cumsum(-1), torch.ones_like(token), mask, token_log_ratio=token)
    predicted = stats.positions.token_std.square().cumsum(0).sqrt()
    torch.testing.assert_close(stats.std, predicted, rtol=0.05, atol=0)


# ---------------------------------------------------------------------------- exactness


def splits(batch: int) -> list[list[slice]]:
    sizes = [[batch], [1] * batch, [2] * (batch // 2) + [batch % 2], [5, 1, batch - 6]]
    bounds = [[0, *itertools.accumulate(size)] for size in sizes]
    return [[slice(a, b) for a, b in itertools.pairwise(bound)] for bound in bounds]


@pytest.mark.parametrize("scale", [1e-4, 0.3, 15.0])
def test_any_split_over_micro_batches_ranks_and_merges_gives_identical_sums(scale: float) -> None:
    data = recorded(9, scale=scale)
    whole = small()
    data.add_to(whole)
    for parts in splits(len(data.mask)):
        one_rank, ranks = small(), [small(), small(), small()]
        for number, rows in enumerate(parts):
            data.add_to(one_rank, rows)
            data.add_to(ranks[number % 3], rows)
        for order in itertools.permutations(ranks):
            merged = small()
            for rank in order:
                merged.merge(rank)
            assert arrays_equal(merged, whole)
        assert arrays_equal(one_rank, whole)


def test_order_of_rows_and_padding_do_not_change_a_bit() -> None:
    data, whole = recorded(12), small()
    data.add_to(whole)
    order = torch.randperm(len(data.mask), generator=torch.Generator().manual_seed(1))
    shuffled = Recorded(*(getattr(data, name)[order] for name in Recorded.__dataclass_fields__))
    one_by_one = small()
    for row in range(len(order)):
        end = int(shuffled.mask[row].nonzero().max()) + 1 if shuffled.mask[row].any() else 1
        cut = {
            name: getattr(shuffled, name)[row : row + 1, :end]
            for name in ("log_ratio", "advantages", "token", "high", "low")
        }
        one_by_one.update(
            cut["log_ratio"],
            cut["advantages"],
            shuffled.mask[row : row + 1, :end],
            token_log_ratio=cut["token"],
            clipped_high=cut["high"],
            clipped_low=cut["low"],
            folds=shuffled.folds[row : row + 1],
        )
    assert arrays_equal(one_by_one, whole)


def test_reading_in_between_does_not_change_the_sums() -> None:
    data, whole, read = recorded(13), small(), small()
    data.add_to(whole)
    for row in range(len(data.mask)):
        data.add_to(read, slice(row, row + 1))
        assert read.count.sum() == data.mask[: row + 1].sum()
    assert arrays_equal(read, whole)


def test_sums_stay_exact_at_paper_scale_with_the_largest_possible_values() -> None:
    """4,096 responses of 8,000 tokens at the clamp: the sums must still be whole multiples of their units."""
    rows, length = 64, 8000
    token = torch.full((rows, length), -20.0)
    token[::2] = 20.0
    token[:, 1] = 2.0**-34  # one unit of d, next to the largest values
    stats = PositionStats.zeros(length)
    ones = torch.ones_like(token)
    stats.update(token.double().cumsum(-1).float(), ones, ones.bool(), token_log_ratio=token)
    arrays = stats.to_arrays()
    total, doubled = stats, PositionStats.from_arrays(arrays)
    for _ in range(6):  # 64 * 2**6 = 4,096 responses
        total.merge(doubled)
        doubled = PositionStats.from_arrays(total.to_arrays())
    sums = total.positions.sums
    assert int(total.count.min()) == 4096
    assert torch.equal(sums[1][1], torch.tensor(4096 * 2.0**-34, dtype=torch.float64))
    assert torch.equal(sums, 64 * torch.from_numpy(arrays["position_sums"]))
    assert total.std[-1].item() == pytest.approx(20 * 7999, rel=1e-3)
    units = torch.tensor([2.0**-21, 2.0**-34, 2.0**-3, 2.0**-30, 2.0**-42, 2.0**-68], dtype=torch.float64)
    assert (sums.abs() / units[:, None]).max() < 2.0**53


def test_rounding_error_is_what_the_module_states() -> None:
    values = torch.randn(2000, 1, generator=torch.Generator().manual_seed(3)) * 1e-4
    stats = PositionStats.zeros(8, bin_width=8)
    ones = torch.ones_like(values)
    stats.update(values, ones, ones.bool(), token_log_ratio=values)
    exact = values.double()
    assert abs(stats.mean[0].item() - exact.mean().item()) < 2.0**-22
    assert abs(stats.positions.token_mean[0].item() - exact.mean().item()) < 2.0**-35
    assert stats.std[0].item() == pytest.approx(exact.std().item(), rel=1e-4)
    assert stats.positions.token_std[0].item() == pytest.approx(exact.std().item(), rel=1e-9)


# ---------------------------------------------------------------------------- edges


def test_tokens_beyond_the_last_position_are_counted_not_dropped() -> None:
    data = recorded(14)
    full, cut = small(), PositionStats.zeros(20, bin_width=8, folds=4, max_updates=3)
    for index in (0, 2):
        data.add_to(full, update_index=index)
        data.add_to(cut, update_index=index)
    assert torch.equal(cut.count, full.count[:20])
    assert torch.equal(cut.positions.sums, full.positions.sums[:, :20])
    beyond = int(full.count[20:].sum())
    assert beyond > 0
    assert cut.overflow.tolist() == [beyond, 0, beyond]
    assert int(cut.folds.count.sum()) == int(cut.histogram[0].sum()) == int(cut.count.sum())
    assert full.overflow.sum() == 0


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


def test_small_positions_and_large_batches_do_not_overflow_a_byte() -> None:
    ones = torch.ones(1000, 8)
    stats = PositionStats.zeros(8, bin_width=8)
    stats.update(2 * ones, ones, ones.bool(), clipped_high=ones.bool(), folds=torch.zeros(1000, dtype=torch.int64))
    assert stats.count.tolist() == [1000] * 8
    assert stats.clip_rate(FIXED).tolist() == stats.clip_rate(None).tolist() == [1.0] * 8
    assert int(stats.folds.count[0, 0]) == 8000


def test_widest_bins_do_not_overflow_a_byte() -> None:
    ones = torch.ones(2, 2040)
    stats = PositionStats.zeros(2040, bin_width=2040, folds=1)
    stats.update(ones, ones, ones.bool(), clipped_low=ones.bool(), folds=torch.zeros(2, dtype=torch.int64))
    assert stats.folds.clip_counts()[1].tolist() == [[4080]]


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


def test_windows_are_ones_choice() -> None:
    windows = (LogWindow(-0.1, 0.2), RatioWindow(0.9, 1.1), PositionAdaptiveWindow(0.01, 0.02, 1.0))
    data, stats = recorded(16), PositionStats.zeros(50, windows, bin_width=8)
    data.add_to(stats)
    for window in windows:
        expected = sum(any(naive_clipped(window, data, *cell)) for cell in data.tokens())
        assert sum(int(part.sum()) for part in stats.positions.clip_counts(window)) == expected > 0
    with pytest.raises(ValueError, match="was not recorded"):
        stats.clip_rate(FIXED)


# ---------------------------------------------------------------------------- storage and errors


def test_arrays_bring_everything_back_and_merge_exactly() -> None:
    first, second = small(), small()
    recorded(17).add_to(first)
    recorded(18).add_to(second, update_index=0)
    file = io.BytesIO()
    np.savez_compressed(file, **first.to_arrays())
    file.seek(0)
    restored = PositionStats.from_arrays(np.load(file))
    assert arrays_equal(restored, first)
    assert restored.layout == first.layout
    restored.merge(second)
    first.merge(second)
    assert arrays_equal(restored, first)


def test_a_paper_scale_step_is_stored_in_less_than_a_megabyte() -> None:
    generator = torch.Generator().manual_seed(0)
    stats = PositionStats.zeros(8000)
    for update in range(16):  # the numbers, not their count, decide how well they compress
        lengths = torch.randint(500, 8001, (8, 1), generator=generator)
        mask = torch.arange(8000) < lengths
        token = 0.01 * torch.randn(8, 8000, generator=generator) * mask
        advantages = torch.randn(8, 1, generator=generator).expand(-1, 8000)
        flags = (torch.rand(8, 8000, generator=generator) < 0.1) & mask
        stats.update(
            token.cumsum(-1),
            advantages,
            mask,
            token_log_ratio=token,
            clipped_high=flags & (advantages > 0),
            clipped_low=flags & (advantages < 0),
            update_index=update,
            folds=torch.randint(0, 32, (8,), generator=generator),
        )
    arrays = stats.to_arrays()
    for name in arrays:  # as many low bits set as 4,096 responses would set
        if name.endswith("_sums"):
            noise = np.random.default_rng(0).random(arrays[name].shape)
            arrays[name] = np.where(arrays[name] != 0, arrays[name] * (1 + 1e-3 * noise), 0)
        if name.endswith("_counts"):
            arrays[name] = arrays[name] * np.uint32(32)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    assert file.tell() < 1_000_000


def test_wrong_arguments_are_refused_with_the_fix() -> None:
    stats, ones = small(), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"share one \[batch, length\] shape"):
        stats.update(ones, ones, torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"update_index 3 is outside 0\.\.2; set method\.position_stats\.max_updates"):
        stats.update(ones, ones, ones, update_index=3)
    with pytest.raises(ValueError, match="different layouts"):
        stats.merge(small(folds=8))
    for field, value in (("bin_width", 12), ("bin_width", 4096), ("folds", 0), ("max_updates", 0)):
        with pytest.raises(ValueError, match=rf"position_stats\.{field}: must be"):
            small(**{field: value})
