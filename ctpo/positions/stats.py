"""Sums by position that merge exactly, however a batch was split; on the device, without waiting for it.

`ctpo.records.position_stats` says what is summed and why it is exact. Tool output sits between a response's model
tokens, so each row is first moved from its columns to its positions; from then on every sum is dense.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ctpo.methods import PositionAdaptiveWindow, RatioWindow, Window, token_positions
from ctpo.methods.windows import describe
from ctpo.records.position_stats import (
    D_SQUARE,
    D_SQUARE_FINE,
    D_SUM,
    FIRST_WINDOW,
    OWN,
    OWN_DUAL,
    OWN_HIGH,
    OWN_LOW,
    S_SQUARE,
    S_SQUARE_FINE,
    S_SUM,
    SUM_UNITS,
    TOKENS,
    PositionSums,
    StatsLayout,
    Sums,
    histogram_edges,
)

COUNTERFACTUAL_WINDOWS: tuple[Window, ...] = (RatioWindow(0.5, 5.0), PositionAdaptiveWindow(0.025, 0.05, 0.5))
"""What the paper's clip-rate figure compares, on one and the same run."""

_CELLS_AT_ONCE = 2**20
"""Most columns times rows that are summed at a time, which bounds the memory that `update` takes for itself."""


class PositionStats:
    """Sums of the cumulative log-ratio `S` and the token log-ratio `d` at every model-token position of a step."""

    def __init__(self, layout: StatsLayout, windows: tuple[Window, ...], device: torch.device | str = "cpu"):
        self.layout = layout
        rows = len(SUM_UNITS) + layout.features
        self._grids = {
            name: torch.zeros(rows, *grid, dtype=torch.float64, device=device) for name, grid in layout.grids.items()
        }
        edges = torch.from_numpy(histogram_edges()).float().to(device)
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
            log_ratio: the *cumulative* log-ratio `S_t`, `[batch, response_length]`, whatever the run's
                method; recorded as float32.
            advantages, response_mask: of the same shape; where the mask is 0, anything may stand in the
                others.
            token_log_ratio: `d_t`; by default the differences of `log_ratio` along the positions.
            clipped_high, clipped_low, dual_clipped: bool, what the run's own method clipped, on the ratio
                that it clips (see `Surrogate`); by default nothing.
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
        rows = max(1, _CELLS_AT_ONCE // max(log_ratio.shape[1], 1))
        for start in range(0, len(log_ratio), rows):

            def cut(tensor: Tensor | None, part: slice = slice(start, start + rows)) -> Tensor | None:
                return None if tensor is None else tensor[part]

            own = [cut(flags) for flags in (clipped_high, clipped_low, dual_clipped)]
            values = (log_ratio[start : start + rows], cut(token_log_ratio), advantages[start : start + rows])
            self._add(update_index, *values, response_mask[start : start + rows].bool(), own, cut(folds))

    def _add(
        self,
        update: int,
        s: Tensor,
        d: Tensor | None,
        advantages: Tensor,
        mask: Tensor,
        own: list[Tensor | None],
        folds: Tensor | None,
    ) -> None:
        """`update` for some of the responses."""
        layout, positions = self.layout, token_positions(mask)
        last = min(mask.shape[1], layout.max_position)
        bins = -(-last // layout.bin_width)
        counted = mask & (positions <= layout.max_position)
        self._overflow[update] += (mask & ~counted).sum()
        slots = torch.where(counted, positions, 0)  # column 0 takes what is not counted

        def placed(values: Tensor) -> Tensor:
            at_positions = values.new_zeros(len(values), 1 + bins * layout.bin_width)
            return at_positions.scatter(1, slots, values)[:, 1:]

        tokens, s, advantages = placed(counted), placed(s.float()), placed(advantages)
        differences = torch.where(tokens, s.diff(dim=1, prepend=s.new_zeros(len(s), 1)), 0.0)
        d = differences if d is None else placed(d.float())

        cells = self._exact(s, d, len(SUM_UNITS) + layout.features)  # [rows, responses, positions]
        counts = cells[len(SUM_UNITS) :]
        counts[TOKENS] = tokens
        for row, clipped in zip((OWN_HIGH, OWN_LOW, OWN_DUAL), own, strict=True):
            counts[row] = 0 if clipped is None else placed(clipped.bool())
        above, below = advantages > 0, advantages < 0
        for row, (low, high) in enumerate(self._bounds):
            counts[FIRST_WINDOW + 2 * row] = above & (s > high[: s.shape[1]])
            counts[FIRST_WINDOW + 2 * row + 1] = below & (s < low[: s.shape[1]])

        self._grids["position" if update else "first"][:, :last] += cells.sum(1)[:, :last]
        by_bin = cells.unflatten(2, (bins, layout.bin_width)).sum(3)  # [rows, responses, bins]
        self._grids["update"][:, update, :bins] += by_bin.sum(1)
        if update:
            if folds is not None:
                self._grids["fold"][:, :, :bins].index_add_(1, folds, by_bin)
            for plane, values in enumerate((s, d)):
                bucket = self._first_bucket[: s.shape[1]] + self._buckets(values)
                self._histogram[plane].view(-1).scatter_add_(0, bucket.flatten(), tokens.flatten().long())

    def _exact(self, s: Tensor, d: Tensor, rows: int) -> Tensor:
        """The six rows of sums in whole numbers of their units, and room for more: float64 `[rows, *shape]`."""
        cells = torch.empty(rows, *s.shape, dtype=torch.float64, device=s.device)
        for values, first, square, fine in ((s, S_SUM, S_SQUARE, S_SQUARE_FINE), (d, D_SUM, D_SQUARE, D_SQUARE_FINE)):
            units = (values.double() / SUM_UNITS[first]).round()
            squares = (units * SUM_UNITS[first]).square()  # exact: of a float32's 24 bits
            coarse = (squares / SUM_UNITS[square]).round()
            cells[first], cells[square] = units, coarse
            cells[fine] = (squares - coarse * SUM_UNITS[square]) / SUM_UNITS[fine]
        return cells

    def _buckets(self, values: Tensor) -> Tensor:
        """Which bucket of `histogram_edges` each value is in, int64."""
        half = len(self._edges) + 1
        bucket = torch.bucketize(values.abs(), self._edges, right=True)
        return torch.where(values < 0, half - 1 - bucket, half + bucket)

    def read(self) -> PositionSums:
        """Everything, fetched from the device."""
        units = torch.tensor(SUM_UNITS, dtype=torch.float64)

        def fetched(name: str) -> Sums:
            grid = self._grids[name].cpu()
            sums = grid[: len(units)] * units.view(-1, *[1] * (grid.dim() - 1))
            return Sums(sums.numpy(), grid[len(units) :].long().numpy(), self.layout.windows)

        return PositionSums(
            self.layout,
            positions=fetched("position"),
            first=fetched("first"),
            updates=fetched("update"),
            folds=fetched("fold"),
            histogram=self._histogram.cpu().numpy().copy(),
            overflow=self._overflow.cpu().numpy().copy(),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """`read` as named arrays: what a record holds. Raises OverflowError if a count exceeds 32 bits."""
        return self.read().to_arrays()

    def merge(self, other: PositionStats) -> None:
        """Add another's sums, in place, on this one's device. Raises ValueError if the layouts differ."""
        if other.layout != self.layout:
            raise ValueError(f"cannot merge position statistics of different layouts: {self.layout}, {other.layout}")
        mine, theirs = ([*stats._grids.values(), stats._histogram, stats._overflow] for stats in (self, other))
        for total, part in zip(mine, theirs, strict=True):
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
        return torch.from_numpy(self.read().positions.clip_rate(OWN if window is None else describe(window)))
