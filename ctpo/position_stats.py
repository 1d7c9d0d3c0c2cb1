"""How the cumulative log-ratio behaves at every position: sums that merge exactly, however a batch was split.

`ctpo.position_moments` says how the sums are exact, `ctpo.position_staging` how they are fast.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
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
from ctpo.position_staging import Staging, Tokens

__all__ = ["COUNTERFACTUAL_WINDOWS", "Moments", "PositionRecorder", "PositionStats", "histogram_edges"]

COUNTERFACTUAL_WINDOWS: tuple[Window, ...] = (RatioWindow(0.5, 5.0), PositionAdaptiveWindow(0.025, 0.05, 0.5))
"""What the paper's clip-rate figure compares, on one and the same run."""

_WINDOW_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (RatioWindow, LogWindow, PositionAdaptiveWindow)}


class PositionStats:
    """Sums of the cumulative log-ratio `S` and the token log-ratio `d` at every model-token position.

    Everything but `updates` and `overflow` leaves out the first update of each step, whose ratios are exactly
    1.
    """

    def __init__(self, layout: Layout, device: torch.device | str = "cpu"):
        self.layout = layout
        self._positions = layout.moments(layout.max_position, device=device)
        self._updates = layout.moments(layout.max_updates, layout.bins, device=device)
        self._folds = layout.moments(layout.folds, layout.bins, device=device)
        self._histogram = torch.zeros(2, layout.bins, 2 * pm.BUCKETS, dtype=torch.int64, device=device)
        self._overflow = torch.zeros(layout.max_updates, dtype=torch.int64, device=device)
        self._staging = Staging(layout, device)
        slots = self._staging.capacity * layout.width
        self._ones = torch.ones(2, slots, dtype=torch.int64, device=device)
        self._staged_update = 0

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
            log_ratio: the *cumulative* log-ratio `S_t`, `[batch, response_length]`, whatever the run's
                method.
            advantages, response_mask: of the same shape; where the mask is 0, anything may stand in the
                others.
            token_log_ratio: `d_t`; by default the differences of `log_ratio` along the positions.
            clipped_high, clipped_low, dual_clipped: bool, what the run's own method clipped, on the ratio
                that it clips (see `Surrogate`); by default nothing.
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
        if update_index != self._staged_update:
            self._settle()
            self._staged_update = update_index
        mask = response_mask.bool()
        positions = token_positions(mask) if positions is None else positions
        own = (clipped_high, clipped_low, dual_clipped)
        tokens = Tokens(log_ratio, token_log_ratio, advantages, mask, positions, own, folds)
        start, batch = 0, len(mask) if mask.numel() else 0
        while start < batch:
            stop = min(start + self._staging.free, batch)
            overflow = self._staging.add(tokens if stop - start == batch else tokens.rows(start, stop))
            if overflow is not None:
                self._overflow[update_index] += overflow
            if not self._staging.free:
                self._settle()
            start = stop

    def _settle(self) -> None:
        """Add what is staged to the sums."""
        if not self._staging.rows:
            return
        first = self._staged_update == 0
        rows, part = self._staging.rows, self._staging.take(None if first else self._positions)
        counts = part.counts.sum(1)
        self._updates.sums[:, self._staged_update, : part.bins] += part.sums.sum(1)
        self._updates.counts[:, self._staged_update, : part.bins] += counts
        if first:
            return
        if part.folds is not None:
            self._folds.sums[:, :, : part.bins].index_add_(1, part.folds, part.sums)
            self._folds.counts[:, :, : part.bins].index_add_(1, part.folds, part.counts)
        self._histogram.view(2, -1).scatter_add_(1, part.buckets, self._ones[:, : part.buckets.shape[1]])
        # Slots without a token hold 0 and were counted there.
        self._histogram[:, : part.bins, pm.BUCKETS] -= rows * self.layout.bin_width - counts[pm.TOKENS]

    @property
    def positions(self) -> Moments:
        """By position, `[max_position]`."""
        self._settle()
        self._staging.settle_counts(self._positions)
        return self._positions

    @property
    def updates(self) -> Moments:
        """By mini-batch update and position bin, `[max_updates, bins]`; row 0 is a step's first update."""
        self._settle()
        return self._updates

    @property
    def folds(self) -> Moments:
        """By prompt fold and position bin, `[folds, bins]`; of the micro-batches that came with folds."""
        self._settle()
        return self._folds

    @property
    def histogram(self) -> Tensor:
        """Tokens per `histogram_edges` bucket of S and of d, by position bin: int64 `[2, bins, 152]`."""
        self._settle()
        return self._histogram

    @property
    def overflow(self) -> Tensor:
        """Tokens beyond `max_position` by update, int64 `[max_updates]`; nothing else counts them."""
        return self._overflow

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
            "windows": [{"kind": type(window).__name__} | vars(window) for window in self.layout.windows]
        }
        arrays: dict[str, NDArray[Any]] = {"layout": np.array(json.dumps(layout))}
        for name, tensor in self._tensors().items():
            array = np.array(tensor.cpu())
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


class PositionRecorder:
    """The observer (`ctpo.policy_loss.LossObserver`) that feeds a `PositionStats`.

    Who owns the training loop calls `begin_step` before each step's updates, `begin_update` before each
    mini-batch update, and sets `folds` (int64 `[batch]`) before each micro-batch.
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

    def observe(self, method: Method, surrogate: Surrogate, advantages: Tensor, response_mask: Tensor) -> None:
        """Add a micro-batch; tensors are `[batch, response_length]`."""
        is_cumulative = method.log_ratio == cumulative_log_ratio
        self.stats.update(
            surrogate.log_ratio if is_cumulative else surrogate.token_log_ratio.cumsum(-1),
            advantages,
            response_mask,
            token_log_ratio=surrogate.token_log_ratio,
            clipped_high=surrogate.clipped_high,
            clipped_low=surrogate.clipped_low,
            dual_clipped=surrogate.dual_clipped,
            positions=surrogate.positions,
            update_index=max(self._updates_begun - 1, 0),
            folds=self.folds,
        )
