"""Position statistics as numpy arrays: what `ctpo.position_stats` writes, read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.intervals import FloatArray
from ctpo.records import RecordError

# Rows of `Sums.sums` and of `Sums.counts`, and the histograms' buckets, as `ctpo.position_moments` lays
# them out; a test holds the two together.
S_SUM, D_SUM, S_SQUARE, D_SQUARE, S_SQUARE_FINE, D_SQUARE_FINE = range(6)
TOKENS, OWN_HIGH, OWN_LOW, OWN_DUAL, FIRST_WINDOW = range(5)
SMALLEST_EXPONENT, LARGEST_EXPONENT, BUCKETS_PER_OCTAVE = -13, 6, 4

FIXED = {"kind": "RatioWindow", "low": 0.5, "high": 5.0}
ADAPTIVE = {"kind": "PositionAdaptiveWindow", "eps_low": 0.025, "eps_high": 0.05, "power": 0.5}
OWN = "own"
Window = Mapping[str, Any] | str


def histogram_edges() -> FloatArray:
    """Edges of the log-ratio histograms: symmetric about 0, the outer two infinite."""
    octave = 1 + np.arange(BUCKETS_PER_OCTAVE) / BUCKETS_PER_OCTAVE
    positive = np.concatenate([octave * 2.0**e for e in range(SMALLEST_EXPONENT, LARGEST_EXPONENT)])[1:]
    return np.concatenate([[-np.inf], -positive[::-1], [0.0], positive, [np.inf]])


@dataclass(frozen=True)
class Sums:
    """Sums over the tokens of each cell of a grid. `sums` `[6, *grid]`, `counts` `[features, *grid]`."""

    sums: FloatArray
    counts: NDArray[np.int64]
    windows: tuple[Window, ...]

    @property
    def count(self) -> NDArray[np.int64]:
        """Tokens per cell."""
        return self.counts[TOKENS]

    @property
    def std(self) -> FloatArray:
        """Standard deviation (ddof=1) of the cumulative log-ratio; NaN below two tokens."""
        return np.sqrt(self._variance(S_SUM, S_SQUARE, S_SQUARE_FINE))

    @property
    def token_variance(self) -> FloatArray:
        """Variance (ddof=1) of the token log-ratio; NaN below two tokens."""
        return self._variance(D_SUM, D_SQUARE, D_SQUARE_FINE)

    def _variance(self, first: int, square: int, fine: int) -> FloatArray:
        total, count = self.sums[first], self.count
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = (self.sums[square] - total * (total / count)) + self.sums[fine]
            variance = np.maximum(spread / (count - 1), 0.0)
        return np.where(count > 1, variance, np.nan)

    def clip_counts(self, window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens clipped (high, low) under a recorded window, or under the run's own method for `OWN`.

        Raises:
            RecordError: the window was not recorded.
        """
        if window == OWN:
            return self.counts[OWN_HIGH], self.counts[OWN_LOW]
        if window not in self.windows:
            raise RecordError(f"position_stats: window {window} was not recorded; recorded: {list(self.windows)}")
        column = FIRST_WINDOW + 2 * self.windows.index(window)
        return self.counts[column], self.counts[column + 1]

    def clip_rate(self, window: Window, side: str = "both") -> FloatArray:
        """Share of tokens clipped, `side` one of both, high, low; NaN without tokens."""
        high, low = self.clip_counts(window)
        clipped = {"both": high + low, "high": high, "low": low}[side]
        with np.errstate(invalid="ignore", divide="ignore"):
            return clipped / self.count

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.sums + other.sums, self.counts + other.counts, self.windows)

    def __sub__(self, other: Sums) -> Sums:
        return Sums(self.sums - other.sums, self.counts - other.counts, self.windows)

    def __getitem__(self, cells: Any) -> Sums:
        """Cells of the grid's first axis."""
        return Sums(self.sums[:, cells], self.counts[:, cells], self.windows)

    def total(self) -> Sums:
        """Summed over the grid's first axis."""
        return Sums(self.sums.sum(1), self.counts.sum(1), self.windows)


@dataclass(frozen=True, eq=False)
class PositionSums:
    """The sums of one training step, or of several that were pooled.

    `positions` `[max_position]` and `folds` `[folds, bins]` without the first update of a step, whose ratios
    are exactly 1; `updates` `[max_updates, bins]` with it, as row 0; `histogram` `[2, bins, buckets]` of the
    cumulative and the token log-ratio. `seeds`: the runs that were pooled, where there are several.
    """

    bin_width: int
    positions: Sums
    updates: Sums
    folds: Sums
    histogram: NDArray[np.int64]
    overflow: int
    seeds: tuple[PositionSums, ...] = ()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> PositionSums:
        """From the arrays of `ctpo.position_stats.PositionStats.to_arrays`.

        Raises:
            RecordError: an array is missing or has another shape than the layout says.
        """
        try:
            layout = json.loads(str(arrays["layout"]))
            windows = tuple(layout["windows"])
            bins = -(-layout["max_position"] // layout["bin_width"])
            grids = {
                "position": (layout["max_position"],),
                "update": (layout["max_updates"], bins),
                "fold": (layout["folds"], bins),
            }
            sums = {
                name: Sums(arrays[f"{name}_sums"], arrays[f"{name}_counts"].astype(np.int64), windows) for name in grids
            }
            histogram = arrays["histogram"].astype(np.int64)
            overflow = int(arrays["overflow"].sum())
        except (KeyError, ValueError, TypeError) as error:
            raise RecordError(f"position_stats: not what this code reads ({type(error).__name__}: {error})") from None
        for name, grid in grids.items():
            if sums[name].sums.shape != (6, *grid) or sums[name].counts.shape[1:] != grid:
                raise RecordError(f"position_stats: {name} sums are not of the layout's shape {grid}")
        if histogram.shape != (2, bins, len(histogram_edges()) - 1):
            raise RecordError(f"position_stats: histogram has shape {histogram.shape}")
        return cls(layout["bin_width"], sums["position"], sums["update"], sums["fold"], histogram, overflow)

    @property
    def bins(self) -> Sums:
        """Per position bin, without the first update."""
        return self.updates[1:].total()

    @property
    def responses(self) -> int:
        """Responses in all updates but the first; each takes part in one."""
        return int(self.positions.count[0]) if len(self.positions.count) else 0


def pooled(steps: Sequence[PositionSums]) -> PositionSums:
    """Runs of equal layout as one: sums add up; folds stay apart, since another seed's are other groups.

    Raises:
        RecordError: layouts differ.
    """
    first = steps[0]
    for other in steps[1:]:
        shapes = [(step.bin_width, step.updates.sums.shape, step.positions.windows) for step in (first, other)]
        if shapes[0] != shapes[1] or first.positions.sums.shape != other.positions.sums.shape:
            raise RecordError("position_stats: runs of different layouts (method.position_stats) cannot be pooled")
    folds = Sums(
        np.concatenate([step.folds.sums for step in steps], axis=1),
        np.concatenate([step.folds.counts for step in steps], axis=1),
        first.folds.windows,
    )
    return PositionSums(
        first.bin_width,
        reduce(Sums.__add__, [step.positions for step in steps]),
        reduce(Sums.__add__, [step.updates for step in steps]),
        folds,
        np.sum([step.histogram for step in steps], axis=0),
        sum(step.overflow for step in steps),
        tuple(steps) if len(steps) > 1 else (),
    )
