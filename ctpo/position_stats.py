"""How the cumulative log-ratio behaves at every position: sums that merge exactly, however a batch was split.

How `update` is fast: tokens are first moved from their columns to their positions (a few scatters). After that a
window is a fixed vector, every sum is dense, and a token's clip flags are the eight bytes of one integer, which are
summed together. Nothing in it waits for the device; `to_arrays` is the one fetch of a step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctpo import position_moments as pm
from ctpo.clipping import LogWindow, PositionAdaptiveWindow, RatioWindow, Window
from ctpo.log_ratios import cumulative_log_ratio, token_positions
from ctpo.methods import Method
from ctpo.objectives import Surrogate
from ctpo.position_moments import Layout, Moments, histogram_edges

__all__ = ["COUNTERFACTUAL_WINDOWS", "Moments", "PositionRecorder", "PositionStats", "histogram_edges"]

COUNTERFACTUAL_WINDOWS: tuple[Window, ...] = (RatioWindow(0.5, 5.0), PositionAdaptiveWindow(0.025, 0.05, 0.5))
"""What the paper's clip-rate figure compares, on one and the same run."""

_WINDOW_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (RatioWindow, LogWindow, PositionAdaptiveWindow)}
_CHUNK_TOKENS = 65_536  # a chunk's temporaries stay in the processor's cache
_MAX_ROWS = 255  # a byte's worth of flags


class _Constants:
    """What `update` needs at every call and never changes, on the accumulators' device."""

    def __init__(self, layout: Layout, device: torch.device | str):
        def rounding(units: tuple[float, ...]) -> Tensor:
            # Adding and subtracting 1.5 * 2**52 units rounds a float64 to the nearest multiple of the unit.
            return torch.tensor([1.5 * 2.0**52 * unit for unit in units], dtype=torch.float64, device=device)

        self.first = rounding(pm.FIRST_UNITS).view(2, 1, 1)
        self.square = rounding(pm.SQUARE_UNITS).view(2, 1, 1)
        self.fine = rounding(pm.FINE_UNITS).view(2, 1, 1)
        positions = torch.arange(1, layout.bins * layout.bin_width + 1, device=device)
        self.bounds = [window.log_bounds(positions) for window in layout.windows]
        first_bucket = (positions - 1) // layout.bin_width * (2 * pm.BUCKETS)
        self.bucket_of_zero = (first_bucket + pm.BUCKETS).to(torch.int32)


@dataclass(frozen=True)
class _Tokens:
    """Arguments of `PositionStats.update`; all tensors have the same rows."""

    log_ratio: Tensor
    advantages: Tensor
    mask: Tensor
    positions: Tensor
    token_log_ratio: Tensor | None
    clipped_high: Tensor | None
    clipped_low: Tensor | None
    dual_clipped: Tensor | None
    folds: Tensor | None

    def rows(self, start: int, stop: int) -> _Tokens:
        values = [getattr(self, item.name) for item in fields(self)]
        return _Tokens(*(None if value is None else value[start:stop] for value in values))


class PositionStats:
    """Sums of the cumulative log-ratio `S` and the token log-ratio `d` at every model-token position.

    Attributes:
        positions: `Moments` `[max_position]`, without the first update of each step.
        updates: `Moments` `[max_updates, bins]`; row 0 is the first update of a step, whose ratios are exactly 1.
        folds: `Moments` `[folds, bins]`, without the first update; empty unless `update` is given folds.
        histogram: int64 `[2, bins, 152]`, tokens per `histogram_edges` bucket of S and d, without the first update.
        overflow: int64 `[max_updates]`, tokens beyond `max_position`; nothing else counts them.
    """

    def __init__(self, layout: Layout, device: torch.device | str = "cpu"):
        self.layout = layout
        self.positions = layout.moments(layout.max_position, device=device)
        self.updates = layout.moments(layout.max_updates, layout.bins, device=device)
        self.folds = layout.moments(layout.folds, layout.bins, device=device)
        self.histogram = torch.zeros(2, layout.bins, 2 * pm.BUCKETS, dtype=torch.int64, device=device)
        self.overflow = torch.zeros(layout.max_updates, dtype=torch.int64, device=device)
        self._constants = _Constants(layout, device)

    @classmethod
    def zeros(
        cls,
        max_position: int,
        windows: tuple[Window, ...] = COUNTERFACTUAL_WINDOWS,
        *,
        bin_width: int = 64,
        folds: int = 32,
        max_updates: int = 16,
        device: torch.device | str = "cpu",
    ) -> PositionStats:
        """Empty statistics for positions 1..max_position. Raises ValueError for a size out of range."""
        return cls(Layout(max_position, tuple(windows), bin_width, folds, max_updates), device)

    @torch.no_grad()
    def update(
        self,
        log_ratio: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        *,
        token_log_ratio: Tensor | None = None,
        clipped_high: Tensor | None = None,
        clipped_low: Tensor | None = None,
        dual_clipped: Tensor | None = None,
        positions: Tensor | None = None,
        update_index: int = 1,
        folds: Tensor | None = None,
    ) -> None:
        """Add the tokens of a micro-batch, in place and without waiting for the device.

        Args:
            log_ratio: the *cumulative* log-ratio `S_t`, `[batch, response_length]`, whatever the run's method.
            advantages, response_mask: of the same shape; where the mask is 0, anything may stand in the others.
            token_log_ratio: `d_t`; by default the differences of `log_ratio` along the positions.
            clipped_high, clipped_low, dual_clipped: bool, what the run's own method clipped, on the ratio that it
                clips (see `Surrogate`); by default nothing.
            positions: `token_positions(response_mask)`, if already known.
            update_index: which mini-batch update of the step; 0 is the first, kept apart.
            folds: int64 `[batch]` in `[0, folds)`, the prompt's fold of each response.

        Raises:
            ValueError: shapes differ or `update_index` is out of range.
        """
        if not (log_ratio.shape == advantages.shape == response_mask.shape and log_ratio.dim() == 2):
            shapes = [tuple(tensor.shape) for tensor in (log_ratio, advantages, response_mask)]
            raise ValueError(f"log_ratio, advantages, response_mask must share one [batch, length] shape: {shapes}")
        if not 0 <= update_index < self.layout.max_updates:
            raise ValueError(
                f"update_index {update_index} is outside 0..{self.layout.max_updates - 1}; set "
                "method.position_stats.max_updates to the number of mini-batch updates in a step"
            )
        mask = response_mask.bool()
        positions = token_positions(mask) if positions is None else positions
        tokens = _Tokens(
            log_ratio, advantages, mask, positions, token_log_ratio, clipped_high, clipped_low, dual_clipped, folds
        )
        batch, length = log_ratio.shape
        if length == 0:
            return
        rows = min(_MAX_ROWS, max(1, _CHUNK_TOKENS // length))
        for start in range(0, batch, rows):
            self._add(tokens if batch <= rows else tokens.rows(start, start + rows), update_index)

    def _add(self, tokens: _Tokens, update_index: int) -> None:
        layout = self.layout
        bins = -(-min(tokens.log_ratio.shape[1], layout.max_position) // layout.bin_width)
        width = bins * layout.bin_width
        slots = self._slots(tokens, update_index)
        values, flags = self._at_positions(tokens, slots, width)
        addends = self._addends(values[:, :, 1:])
        packed = flags.view(torch.int64)[:, 1:]

        sums, counts = addends.sum(1), _unpack(packed.sum(0))
        update = self.updates
        update.sums[:, update_index, :bins] += sums.unflatten(1, (bins, -1)).sum(-1)
        update.counts[update_index, :bins] += counts.unflatten(0, (bins, -1)).sum(1)
        if update_index == 0:
            return
        width = min(width, layout.max_position)
        self.positions.sums[:, :width] += sums[:, :width]
        self.positions.counts[:width] += counts[:width]
        if tokens.folds is not None:
            per_row = addends.unflatten(2, (bins, -1)).sum(-1)
            self.folds.sums[:, :, :bins].index_add_(1, tokens.folds, per_row)
            per_row_counts = _unpack(packed.unflatten(1, (bins, -1)).sum(2))
            self.folds.counts[:, :bins].index_add_(0, tokens.folds, per_row_counts)
        self._add_to_histogram(values, flags[:, 1:, pm.TOKENS])

    def _slots(self, tokens: _Tokens, update_index: int) -> Tensor:
        """Column of each token in the position-aligned buffers: its position, or 0 for whatever is not counted."""
        slots = tokens.positions * tokens.mask
        limit = self.layout.max_position
        if slots.shape[1] > limit:
            beyond = slots > limit
            self.overflow[update_index] += beyond.sum()
            slots.masked_fill_(beyond, 0)
        return slots

    def _at_positions(self, tokens: _Tokens, slots: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """`(S, d)` `[2, batch, 1 + width]` and flags, bool `[batch, 1 + width, features]`, by position.

        Column 0 is a dump. Flags of a token are one byte each, in the order of `Moments.counts`.
        """
        ratio, batch = tokens.log_ratio, len(slots)
        dtype = ratio.dtype if ratio.dtype == torch.float64 else torch.float32
        values = torch.zeros(2, batch, 1 + width, dtype=dtype, device=ratio.device)
        flags = torch.zeros(batch, 1 + width, self.layout.features, dtype=torch.bool, device=ratio.device)
        flags[..., pm.TOKENS].scatter_(1, slots, True)
        values[0].scatter_(1, slots, ratio.to(dtype))
        if tokens.token_log_ratio is None:
            steps = torch.sub(values[0, :, 1:], values[0, :, :-1], out=values[1, :, 1:])
            steps[:, 0] = values[0, :, 1]  # column 0 is the dump, not position 0
            steps.mul_(flags[:, 1:, pm.TOKENS])
        else:
            values[1].scatter_(1, slots, tokens.token_log_ratio.to(dtype))
        own = ((pm.OWN_HIGH, tokens.clipped_high), (pm.OWN_LOW, tokens.clipped_low), (pm.OWN_DUAL, tokens.dual_clipped))
        for feature, clipped in own:
            if clipped is not None:
                flags[..., feature].scatter_(1, slots, clipped)
        # A window clips high only where A > 0 and low only where A < 0: elsewhere the candidate is 0, in every window.
        agrees = torch.mul(ratio, tokens.advantages) > 0
        candidates = torch.zeros_like(values[0]).scatter_(1, slots, (ratio * agrees).to(dtype))[:, 1:]
        for i, (low, high) in enumerate(self._constants.bounds):
            feature = pm.FIRST_WINDOW + 2 * i
            torch.gt(candidates, high[:width], out=flags[:, 1:, feature])
            torch.lt(candidates, low[:width], out=flags[:, 1:, feature + 1])
        return values, flags

    def _addends(self, values: Tensor) -> Tensor:
        """The rows of `Moments.sums` per token, each rounded to its unit: float64 `[6, batch, width]`."""
        constants, exact = self._constants, values.double()
        addends = exact.new_empty(6, *exact.shape[1:])
        torch.add(exact, constants.first, out=addends[:2]).sub_(constants.first)
        squares = exact.mul_(exact)
        torch.add(squares, constants.square, out=addends[2:4]).sub_(constants.square)
        torch.sub(squares, addends[2:4], out=addends[4:]).add_(constants.fine).sub_(constants.fine)
        return addends

    def _add_to_histogram(self, values: Tensor, filled: Tensor) -> None:
        # The bits of a positive float32 grow with it: shifted, they number the buckets; a negative one's complement
        # mirrors the number below zero.
        bits = values.float().view(torch.int32)[:, :, 1:]
        bucket = (bits & 0x7FFFFFFF) >> (23 - pm.MANTISSA_BITS)
        bucket.sub_((127 + pm.SMALLEST_EXPONENT) << pm.MANTISSA_BITS).clamp_(0, pm.BUCKETS - 1)
        bucket.bitwise_xor_(bits >> 31).add_(self._constants.bucket_of_zero[: bucket.shape[2]])
        weights = filled.reshape(1, -1).long().expand(2, -1)
        self.histogram.view(2, -1).scatter_add_(1, bucket.view(2, -1).long(), weights)

    def merge(self, other: PositionStats) -> None:
        """Add another's sums, in place, on this one's device. Raises ValueError if the layouts differ."""
        if other.layout != self.layout:
            raise ValueError(f"cannot merge position statistics of different layouts: {self.layout}, {other.layout}")
        for mine, theirs in zip(self._tensors().values(), other._tensors().values(), strict=True):
            mine += theirs.to(mine.device)

    @property
    def count(self) -> Tensor:
        """Model tokens at positions 1..max_position, int64 `[max_position]`."""
        return self.positions.count

    @property
    def mean(self) -> Tensor:
        """Mean cumulative log-ratio by position; NaN where there is no token."""
        return self.positions.mean

    @property
    def std(self) -> Tensor:
        """Standard deviation (ddof=1) of the cumulative log-ratio by position; NaN below two tokens."""
        return self.positions.std

    def clip_rate(self, window: Window | None = None) -> Tensor:
        """Share of tokens clipped under one of the windows (None: by the run's own method), by position."""
        return self.positions.clip_rate(window)

    def _tensors(self) -> dict[str, Tensor]:
        grids = {"position": self.positions, "update": self.updates, "fold": self.folds}
        tensors = {f"{name}_{part}": getattr(grid, part) for name, grid in grids.items() for part in ("sums", "counts")}
        return tensors | {"histogram": self.histogram, "overflow": self.overflow}

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as named arrays for `numpy.savez_compressed`; the one fetch from the device.

        Raises:
            OverflowError: a count exceeds 32 bits.
        """
        layout = asdict(self.layout) | {
            "windows": [{"kind": type(window).__name__} | asdict(window) for window in self.layout.windows]
        }
        arrays: dict[str, NDArray[Any]] = {"layout": np.array(json.dumps(layout))}
        for name, tensor in self._tensors().items():
            array = tensor.cpu().numpy()
            if array.dtype == np.int64:
                if array.size and array.max() > np.iinfo(np.uint32).max:
                    raise OverflowError(f"position statistics: a count in {name} exceeds 32 bits; merge fewer steps")
                array = array.astype(np.uint32)
            arrays[name] = array
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> PositionStats:
        """Inverse of `to_arrays`, on the CPU."""
        layout = json.loads(str(arrays["layout"]))
        windows = [_WINDOW_KINDS[window.pop("kind")](**window) for window in layout.pop("windows")]
        stats = cls(Layout(windows=tuple(windows), **layout))
        for name, tensor in stats._tensors().items():
            tensor.copy_(torch.from_numpy(arrays[name].astype(tensor.numpy().dtype)))
        return stats


def _unpack(packed: Tensor) -> Tensor:
    """Byte counts packed in int64 `[..., n]` to int64 `[..., 8 n]`."""
    return packed.contiguous().view(torch.uint8).long()


class PositionRecorder:
    """The observer (`ctpo.policy_loss.LossObserver`) that feeds a `PositionStats`.

    Who owns the training loop calls `begin_step` before each step's updates, `begin_update` before each mini-batch
    update, and sets `folds` (int64 `[batch]`) before each micro-batch.
    """

    def __init__(self, stats: PositionStats):
        self.stats = stats
        self.folds: Tensor | None = None
        self._updates_begun = 0

    def begin_step(self) -> None:
        """The next update is the first of a step: its ratios are exactly 1."""
        self._updates_begun = 0

    def begin_update(self) -> None:
        """All micro-batches until the next call belong to one mini-batch update."""
        self._updates_begun += 1

    def observe(
        self, method: Method, surrogate: Surrogate, token_log_ratio: Tensor, advantages: Tensor, response_mask: Tensor
    ) -> None:
        """Add a micro-batch; tensors are `[batch, response_length]`, `token_log_ratio` without gradient."""
        is_cumulative = method.log_ratio is cumulative_log_ratio
        self.stats.update(
            surrogate.log_ratio if is_cumulative else token_log_ratio.cumsum(-1),
            advantages,
            response_mask,
            token_log_ratio=token_log_ratio,
            clipped_high=surrogate.clipped_high,
            clipped_low=surrogate.clipped_low,
            dual_clipped=surrogate.dual_clipped,
            positions=surrogate.positions,
            update_index=max(self._updates_begun - 1, 0),
            folds=self.folds,
        )
