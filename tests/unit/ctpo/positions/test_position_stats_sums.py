"""Sums of the position statistics are exact: whatever the split, the order, the merge and the store."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from ctpo.methods import METHODS, clipped_surrogate
from ctpo.positions import PositionStats
from ctpo.records import RecordError
from ctpo.records.position_stats import SUM_UNITS, PositionSums
from tests.unit.ctpo.recorded_batch import Recorded, arrays_equal, recorded, small


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
    folds = torch.arange(rows) % 32
    stats.update(token.double().cumsum(-1).float(), ones, ones.bool(), token_log_ratio=token, folds=folds)
    part = stats.read()
    for _ in range(6):  # 64 * 2**6 = 4,096 responses
        other = PositionStats.zeros(length)
        other.merge(stats)
        stats.merge(other)
    total = stats.read()
    assert total.positions.count.min() == 4096
    assert total.positions.sums[1][1] == 4096 * 2.0**-34
    np.testing.assert_array_equal(total.positions.sums, 64 * part.positions.sums)
    np.testing.assert_array_equal(total.folds.sums, 64 * part.folds.sums)
    assert stats.std[-1].item() == pytest.approx(20 * 7999, rel=1e-3)
    for grid in (total.positions, total.folds):
        units = np.array(SUM_UNITS).reshape(-1, *[1] * (grid.sums.ndim - 1))
        assert (np.abs(grid.sums) / units).max() < 2.0**53
        np.testing.assert_array_equal(grid.sums / units, np.round(grid.sums / units))


@pytest.mark.parametrize("rows_at_once", [1, 3, 2**20])
def test_how_many_rows_are_summed_at_once_does_not_change_a_bit(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, whole = recorded(21), small()
    data.add_to(whole)
    monkeypatch.setattr("ctpo.positions.stats._CELLS_AT_ONCE", rows_at_once * 50)
    chunked = small()
    data.add_to(chunked)
    assert arrays_equal(chunked, whole)


def test_recording_needs_nothing_from_the_device() -> None:
    """On the meta device there are no values: code that waits for one fails."""
    stats, ones = PositionStats.zeros(8, device="meta"), torch.ones(3, 8, device="meta")
    folds = torch.zeros(3, dtype=torch.int64, device="meta")
    stats.update(ones, ones, ones.bool(), token_log_ratio=ones, clipped_high=ones.bool(), folds=folds)
    surrogate = clipped_surrogate(METHODS["ctpo_released"], ones, ones, ones, ones)
    assert surrogate.objective.device.type == "meta"
    with pytest.raises((NotImplementedError, RuntimeError)):
        ones.sum().item()


def test_rounding_error_is_what_the_module_states() -> None:
    values = torch.randn(2000, 1, generator=torch.Generator().manual_seed(3)) * 1e-4
    stats = PositionStats.zeros(8, bin_width=8)
    ones = torch.ones_like(values)
    stats.update(values, ones, ones.bool(), token_log_ratio=values)
    exact = values.double()
    assert abs(stats.mean[0].item() - exact.mean().item()) < 2.0**-22
    assert abs(stats.read().positions.token_mean[0] - exact.mean().item()) < 2.0**-35
    assert stats.std[0].item() == pytest.approx(exact.std().item(), rel=1e-4)
    assert np.sqrt(stats.read().positions.token_variance[0]) == pytest.approx(exact.std().item(), rel=1e-9)


def test_arrays_bring_everything_back_and_merge_exactly() -> None:
    first, second = small(), small()
    recorded(17).add_to(first)
    recorded(18).add_to(second, update_index=0)
    file = io.BytesIO()
    arrays: dict[str, Any] = first.to_arrays()
    np.savez_compressed(file, **arrays)
    file.seek(0)
    restored = PositionSums.from_arrays(np.load(file))
    assert arrays_equal(restored, first)
    assert restored.layout == first.layout
    first.merge(second)
    assert arrays_equal(restored + second.read(), first)
    broken = first.to_arrays()
    broken["position_sums"][0, 3] = np.nan
    with pytest.raises(RecordError, match="position sums hold NaN"):
        PositionSums.from_arrays(broken)


def test_a_paper_scale_step_is_stored_in_one_and_a_half_megabytes() -> None:
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
    arrays: dict[str, Any] = stats.to_arrays()
    for name in arrays:  # as many low bits set as 4,096 responses would set
        if name.endswith("_sums"):
            noise = np.random.default_rng(0).random(arrays[name].shape)
            arrays[name] = np.where(arrays[name] != 0, arrays[name] * (1 + 1e-3 * noise), 0)
        if name.endswith("_counts"):
            arrays[name] = arrays[name] * np.uint32(32)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    assert file.tell() < 1_500_000


def test_wrong_arguments_are_refused_with_the_fix() -> None:
    stats, ones = small(), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"share one \[batch, length\] shape"):
        stats.update(ones, ones, torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"update_index 3 is outside 0\.\.2; set method\.position_stats\.max_updates"):
        stats.update(ones, ones, ones, update_index=3)
    with pytest.raises(ValueError, match="different layouts"):
        stats.merge(small(folds=8))
    for field, value in (("bin_width", 0), ("folds", 0), ("max_updates", 0)):
        with pytest.raises(ValueError, match=rf"position_stats\.{field}: must be"):
            small(**{field: value})
