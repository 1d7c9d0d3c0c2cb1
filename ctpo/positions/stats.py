"""Sums by position that merge exactly, however a batch was split; on the device, without waiting for it.

`ctpo.records.position_stats` says what is summed and why it is exact. Tool output sits between a response's model
tokens, so each row is first moved from its columns to its positions; from then on every sum is dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ctpo.methods import PositionAdaptiveWindow, RatioWindow, Window, token_positions
from ctpo.methods.rules import MAX_LOG_RATIO
from ctpo.methods.windows import describe
from ctpo.records import position_stats as record
from ctpo.records.position_stats import SUM_UNITS, PositionSums, StatsLayout, Sums

COUNTERFACTUAL_WINDOWS: tuple[Window, ...] = (RatioWindow(0.5, 5.0), PositionAdaptiveWindow(0.025, 0.05, 0.5))
"""What the paper's clip-rate figure compares, on one and the same run."""

_CELLS_AT_ONCE = 2**20  # rows times columns: bounds the memory that `update` takes for itself


class PositionStats:
    """Sums of the cumulative log-ratio `S` and the token log-ratio `d` at every model-token position of a step."""

    def __init__(self, layout: StatsLayout, windows: tuple[Window, ...], device: torch.device | str = "cpu"):
        self.layout = layout
        rows = len(SUM_UNITS) + layout.features
        self._grids = {
            name: torch.zeros(rows, *grid, dtype=torch.float64, device=device) for name, grid in layout.grids.items()
        }
        edges = torch.from_numpy(record.histogram_edges()).float().to(device)
        self._edges = edges[len(edges) // 2 + 1 : -1]  # above 0, finite
        self._histogram = torch.zeros(2, layout.bins, len(edges) - 1, dtype=torch.int64, device=device)
        self._overflow = torch.zeros(layout.max_updates, dtype=torch.int64, device=device)
        positions = torch.arange(1, layout.bins * layout.bin_width + 1, device=device)
        self._bounds = [window.log_bounds(positions) for window in windows]
        self._first_bucket = (positions - 1) // layout.bin_width * self._histogram.shape[2]

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
        described = tuple(describe(window) for window in windows)
        return cls(StatsLayout(max_position, described, bin_width, folds, max_updates), tuple(windows), device)

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
        update_index: int = 1,
        folds: Tensor | None = None,
    ) -> None:
        """Add the tokens of a micro-batch, in place and without waiting for the device.

        Args:
            log_ratio: the *cumulative* log-ratio `S_t`, whatever the run's method; recorded as float32.
                `[batch, response_length]`, as all but `folds`. Where the mask is 0, anything may stand.
            token_log_ratio: `d_t`; by default the differences of `log_ratio` along the positions.
            clipped_high, clipped_low, dual_clipped: bool, what the run's own method clipped (see `Surrogate`).
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
        tensors = {"s": log_ratio, "advantages": advantages, "mask": response_mask.bool()}
        optional = {
            "d": token_log_ratio,
            "high": clipped_high,
            "low": clipped_low,
            "dual": dual_clipped,
            "folds": folds,
        }
        tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        rows = max(1, _CELLS_AT_ONCE // max(log_ratio.shape[1], 1))
        for start in range(0, len(log_ratio), rows):
            self._add(update_index, {name: tensor[start : start + rows] for name, tensor in tensors.items()})

    def _add(self, update: int, tensors: Mapping[str, Tensor]) -> None:
        """`update` for some of the responses."""
        layout, mask = self.layout, tensors["mask"]
        positions, last = token_positions(mask), min(mask.shape[1], layout.max_position)
        bins = -(-last // layout.bin_width)
        width = bins * layout.bin_width
        counted = mask & (positions <= layout.max_position)
        self._overflow[update] += (mask & ~counted).sum()
        slots = torch.where(counted, positions, 0)  # column 0 takes what is not counted

        def placed(values: Tensor) -> Tensor:
            return values.new_zeros(len(values), 1 + width).scatter(1, slots, values)[:, 1:]

        tokens, s, advantages = placed(counted), placed(tensors["s"].float()), placed(tensors["advantages"])
        differences = torch.where(tokens, s.diff(dim=1, prepend=s.new_zeros(len(s), 1)), 0.0)
        d = placed(tensors["d"].float()) if "d" in tensors else differences

        cells = self._exact(s, d)  # [rows, responses, positions], the rows of sums and then of counts
        counts = cells[len(SUM_UNITS) :]
        counts[record.TOKENS] = tokens
        for row, name in ((record.OWN_HIGH, "high"), (record.OWN_LOW, "low"), (record.OWN_DUAL, "dual")):
            counts[row] = placed(tensors[name].bool()) if name in tensors else 0
        counts[record.GUARDED] = s > MAX_LOG_RATIO
        for row, (low, high) in enumerate(self._bounds):
            counts[record.FIRST_WINDOW + 2 * row] = (advantages > 0) & (s > high[:width])
            counts[record.FIRST_WINDOW + 2 * row + 1] = (advantages < 0) & (s < low[:width])

        self._grids["position" if update else "first"][:, :last] += cells.sum(1)[:, :last]
        by_bin = cells.unflatten(2, (bins, layout.bin_width)).sum(3)  # [rows, responses, bins]
        self._grids["update"][:, update, :bins] += by_bin.sum(1)
        if update:
            if "folds" in tensors:
                self._grids["fold"][:, :, :bins].index_add_(1, tensors["folds"], by_bin)
            half = len(self._edges) + 1  # buckets below 0
            for plane, values in enumerate((s, d)):
                size = torch.bucketize(values.abs(), self._edges, right=True)
                bucket = self._first_bucket[:width] + torch.where(values < 0, half - 1 - size, half + size)
                self._histogram[plane].view(-1).scatter_add_(0, bucket.flatten(), tokens.flatten().long())

    def _exact(self, s: Tensor, d: Tensor) -> Tensor:
        """The rows of sums in whole numbers of their units, and room for the counts: float64 `[rows, *shape]`."""
        cells = torch.empty(len(SUM_UNITS) + self.layout.features, *s.shape, dtype=torch.float64, device=s.device)
        above_one = s.clamp(max=MAX_LOG_RATIO).expm1()
        for values, first in ((s, record.S_SUM), (d, record.D_SUM), (above_one, record.R_SUM)):
            square, fine = first + record.S_SQUARE, first + record.S_SQUARE_FINE
            units = (values.double() / SUM_UNITS[first]).round()
            squares = (units * SUM_UNITS[first]).square()  # exact: of a float32's 24 bits
            coarse = (squares / SUM_UNITS[square]).round()
            cells[first], cells[square] = units, coarse
            cells[fine] = (squares - coarse * SUM_UNITS[square]) / SUM_UNITS[fine]
        return cells

    def read(self) -> PositionSums:
        """Everything, fetched from the device."""
        units = torch.tensor(SUM_UNITS, dtype=torch.float64)

        def fetched(name: str) -> Sums:
            grid = self._grids[name].cpu()
            sums = grid[: len(units)] * units.view(-1, *[1] * (grid.dim() - 1))
            return Sums(sums.numpy(), grid[len(units) :].long().numpy(), self.layout.windows)

        positions, first, updates, folds = (fetched(name) for name in ("position", "first", "update", "fold"))
        histogram, overflow = (tensor.cpu().numpy().copy() for tensor in (self._histogram, self._overflow))
        return PositionSums(self.layout, positions, first, updates, folds, histogram, overflow)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """`read` as named arrays: what a record holds. Raises OverflowError if a count exceeds 32 bits."""
        return self.read().to_arrays()

    def merge(self, other: PositionStats) -> None:
        """Add another's sums, in place, on this one's device. Raises ValueError if the layouts differ."""
        if other.layout != self.layout:
            raise ValueError(f"cannot merge position statistics of different layouts: {self.layout}, {other.layout}")
        for total, part in zip(*([*s._grids.values(), s._histogram, s._overflow] for s in (self, other)), strict=True):
            total += part.to(total.device)

    @property
    def count(self) -> Tensor:
        """Model tokens at positions 1..max_position, int64 `[max_position]`; all but a step's first update."""
        return torch.from_numpy(self.read().positions.count)

    @property
    def mean(self) -> Tensor:
        """Mean cumulative log-ratio by position; NaN where there is no token."""
        return torch.from_numpy(self.read().positions.mean)

    @property
    def std(self) -> Tensor:
        """Standard deviation (ddof=1) of the cumulative log-ratio by position; NaN below two tokens."""
        return torch.from_numpy(self.read().positions.std)

    def clip_rate(self, window: Window | None = None) -> Tensor:
        """Share of tokens clipped under one of the windows (None: by the run's own method), by position."""
        return torch.from_numpy(self.read().positions.clip_rate(record.OWN if window is None else describe(window)))
