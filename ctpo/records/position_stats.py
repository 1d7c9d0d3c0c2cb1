"""The record of position statistics: its rows, its sizes, its moments, its histograms. Defined here and nowhere else.

An archive holds the sums of one training step over its model tokens, of the cumulative log-ratio `S_t`, the token
log-ratio `d_t`, and `R_t = rho_t - 1 = exp(min(S_t, 10)) - 1` (the objective's own guard; guarded tokens are counted).
`<grid>_sums` is float64 `[9, *grid]` and `<grid>_counts` uint32 `[features, *grid]`, for four grids:

    position  `[max_position]`         by position, all updates of the step but the first
    first     `[max_position]`         by position, the first update: before the policy has moved
    update    `[max_updates, bins]`    by update and position bin; row 0 is the first
    fold      `[folds, bins]`          by prompt fold and position bin, without the first

`histogram` is uint32 `[2, bins, 152]`: tokens per `histogram_edges` bucket of S and of d, without the first update.
`overflow` is uint32 `[max_updates]`: tokens beyond `max_position`, which nothing else counts.

Every sum is a whole number of `SUM_UNITS`. Values are rounded to a multiple of their unit before they are added, and
float64 adds such multiples without error while the sum of their sizes stays below 2**53 units. So any split over
micro-batches, ranks and merges gives bit-identical sums. The units leave room for 2**14 tokens in a cell whose values
are all the largest possible (`|d|` 20, `|S|` 20 * 8,000); past that, sums lose their last bit. A value moves by at most
half a unit, 2.4e-7 for S and R and 2.9e-11 for d, and its square is that of the rounded value, exactly: squares have
two rows, a coarse and a fine one, since no single unit has both their range and their resolution.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpo.records.files import RecordError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Rows of `Sums.sums`, and their units.
S_SUM, D_SUM, R_SUM, S_SQUARE, D_SQUARE, R_SQUARE, S_SQUARE_FINE, D_SQUARE_FINE, R_SQUARE_FINE = range(9)
SUM_UNITS = (2.0**-21, 2.0**-34, 2.0**-21, 2.0**-3, 2.0**-30, 2.0**-3, 2.0**-42, 2.0**-68, 2.0**-42)

# Rows of `Sums.counts`: model tokens, what the run's own method clipped, tokens whose ratio is guarded, and (high, low)
# of each counterfactual window.
TOKENS, OWN_HIGH, OWN_LOW, OWN_DUAL, GUARDED, FIRST_WINDOW = range(6)

OWN = "own"
"""In place of a window: the run's own method."""

Window = Mapping[str, Any] | str

_OCTAVES, _BUCKETS_PER_OCTAVE = range(-13, 6), 4


def histogram_edges() -> FloatArray:
    """The 153 edges of the log-ratio histograms, the first and last infinite.

    Four buckets per factor of two between 2**-13 and 2**6 on either side of 0, so that a quantile is known to
    within a quarter of itself before interpolation. Bucket i holds `edges[i] <= x < edges[i + 1]` from 0 up,
    and `edges[i] < x <= edges[i + 1]` below 0.
    """
    octave = 1 + np.arange(_BUCKETS_PER_OCTAVE) / _BUCKETS_PER_OCTAVE
    positive = np.concatenate([octave * 2.0**exponent for exponent in _OCTAVES])[1:]
    return np.concatenate([[-np.inf], -positive[::-1], [0.0], positive, [np.inf]])


@dataclass(frozen=True)
class StatsLayout:
    """Sizes of the statistics, all at least 1; `bin_width` is in positions, `windows` as in the archive's JSON."""

    max_position: int
    windows: tuple[Mapping[str, Any], ...]
    bin_width: int
    folds: int
    max_updates: int

    def __post_init__(self) -> None:
        for name in ("max_position", "bin_width", "folds", "max_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"position_stats.{name}: must be at least 1, got {getattr(self, name)}")

    @property
    def bins(self) -> int:
        """Number of position bins; bin b holds positions `b * bin_width + 1 .. (b + 1) * bin_width`."""
        return -(-self.max_position // self.bin_width)

    @property
    def features(self) -> int:
        """Number of counts kept per cell."""
        return FIRST_WINDOW + 2 * len(self.windows)

    @property
    def grids(self) -> dict[str, tuple[int, ...]]:
        """Shape of each grid."""
        by_position = (self.max_position,)
        return {
            "position": by_position,
            "first": by_position,
            "update": (self.max_updates, self.bins),
            "fold": (self.folds, self.bins),
        }


@dataclass(frozen=True)
class Sums:
    """Sums over the tokens of each cell of a grid. `sums` `[9, *grid]`, `counts` `[features, *grid]`."""

    sums: FloatArray
    counts: IntArray
    windows: tuple[Mapping[str, Any], ...]

    @property
    def count(self) -> IntArray:
        """Model tokens per cell."""
        return self.counts[TOKENS]

    @property
    def mean(self) -> FloatArray:
        """Mean cumulative log-ratio; NaN where there is no token."""
        return self._mean(S_SUM)

    @property
    def std(self) -> FloatArray:
        """Standard deviation (ddof=1) of the cumulative log-ratio; NaN below two tokens."""
        return np.sqrt(self._variance(S_SUM, S_SQUARE, S_SQUARE_FINE))

    @property
    def token_mean(self) -> FloatArray:
        """Mean token log-ratio; NaN where there is no token."""
        return self._mean(D_SUM)

    @property
    def token_variance(self) -> FloatArray:
        """Variance (ddof=1) of the token log-ratio; NaN below two tokens. If uncorrelated, they add up to `std**2`."""
        return self._variance(D_SUM, D_SQUARE, D_SQUARE_FINE)

    @property
    def ratio_mean(self) -> FloatArray:
        """Mean of `rho_t`; NaN where there is no token. In expectation P_new(reaching t) / P_old(reaching t)."""
        return 1.0 + self._mean(R_SUM)

    @property
    def ratio_variance(self) -> FloatArray:
        """Variance (ddof=1) of `rho_t`; NaN below two tokens."""
        return self._variance(R_SUM, R_SQUARE, R_SQUARE_FINE)

    @property
    def effective_share(self) -> FloatArray:
        """Effective sample size over the tokens, `(sum of rho)**2 / (count * sum of rho**2)`; NaN without tokens."""
        total = self.count + self.sums[R_SUM]
        squares = self.count + 2 * self.sums[R_SUM] + self.sums[R_SQUARE] + self.sums[R_SQUARE_FINE]
        with np.errstate(invalid="ignore", divide="ignore"):
            return total**2 / (self.count * squares)

    def _mean(self, row: int) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sums[row] / self.count

    def _variance(self, first: int, square: int, fine: int) -> FloatArray:
        total, count = self.sums[first], self.count
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = (self.sums[square] - total * (total / count)) + self.sums[fine]
            variance = np.maximum(spread / (count - 1), 0.0)
        return np.where(count > 1, variance, np.nan)

    def clip_counts(self, window: Window = OWN) -> tuple[IntArray, IntArray]:
        """Tokens clipped (high, low) under a recorded window, or by the run's own method.

        Raises:
            RecordError: the window was not recorded.
        """
        if window == OWN:
            return self.counts[OWN_HIGH], self.counts[OWN_LOW]
        if window not in self.windows:
            raise RecordError(f"position_stats: window {window} was not recorded; recorded: {list(self.windows)}")
        row = FIRST_WINDOW + 2 * self.windows.index(window)
        return self.counts[row], self.counts[row + 1]

    def clip_rate(self, window: Window = OWN, side: str = "both") -> FloatArray:
        """Share of tokens clipped, `side` one of both, high, low; NaN without tokens."""
        high, low = self.clip_counts(window)
        clipped = {"both": high + low, "high": high, "low": low}[side]
        with np.errstate(invalid="ignore", divide="ignore"):
            return clipped / self.count

    @property
    def dual_clip_count(self) -> IntArray:
        """Tokens that the run's own dual clip cut; no part of any clip rate."""
        return self.counts[OWN_DUAL]

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
    """The sums of one training step, or of several that were pooled: the arrays of the archive, by name.

    `seeds`: the runs that were pooled, where there are several. `apart`: everything that was pooled, each of one run
    and one step.
    """

    layout: StatsLayout
    positions: Sums
    first: Sums
    updates: Sums
    folds: Sums
    histogram: IntArray
    overflow: IntArray
    seeds: tuple[PositionSums, ...] = ()
    apart: tuple[PositionSums, ...] = ()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> PositionSums:
        """From the arrays of an archive.

        Raises:
            RecordError: an array is missing, has another shape than the layout says, or holds a sum that is no number.
        """
        try:
            known = {item.name for item in fields(StatsLayout)}
            described = {name: value for name, value in json.loads(str(arrays["layout"])).items() if name in known}
            layout = StatsLayout(**(described | {"windows": tuple(described["windows"])}))
            grids = {
                name: Sums(arrays[f"{name}_sums"], arrays[f"{name}_counts"].astype(np.int64), layout.windows)
                for name in layout.grids
            }
            histogram, overflow = arrays["histogram"].astype(np.int64), arrays["overflow"].astype(np.int64)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise RecordError(f"position_stats: not what this code reads ({type(error).__name__}: {error})") from None
        for name, grid in layout.grids.items():
            sums, counts = grids[name].sums, grids[name].counts
            if sums.shape != (len(SUM_UNITS), *grid) or counts.shape != (layout.features, *grid):
                raise RecordError(f"position_stats: {name} sums are not of the layout's shape {grid}")
            if not np.isfinite(sums).all() or (counts < 0).any():
                raise RecordError(f"position_stats: {name} sums hold NaN or infinity, or a count below 0")
        if histogram.shape != (2, layout.bins, len(histogram_edges()) - 1) or overflow.shape != (layout.max_updates,):
            raise RecordError(f"position_stats: histogram has shape {histogram.shape}, overflow {overflow.shape}")
        return cls(layout, grids["position"], grids["first"], grids["update"], grids["fold"], histogram, overflow)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Inverse of `from_arrays`.

        Raises:
            OverflowError: a count exceeds 32 bits.
        """
        arrays: dict[str, NDArray[Any]] = {"layout": np.array(json.dumps(asdict(self.layout)))}
        grids = (self.positions, self.first, self.updates, self.folds)
        for name, grid in zip(self.layout.grids, grids, strict=True):
            arrays |= {f"{name}_sums": grid.sums, f"{name}_counts": _narrow(grid.counts, name)}
        return arrays | {name: _narrow(getattr(self, name), name) for name in ("histogram", "overflow")}

    def __add__(self, other: PositionSums) -> PositionSums:
        """Sums of other tokens of the same step. Raises ValueError if the layouts differ."""
        if other.layout != self.layout:
            raise ValueError(f"cannot merge position statistics of different layouts: {self.layout}, {other.layout}")
        parts = ("positions", "first", "updates", "folds", "histogram", "overflow")
        return PositionSums(self.layout, *(getattr(self, part) + getattr(other, part) for part in parts))

    @property
    def bin_width(self) -> int:
        """Positions in a bin."""
        return self.layout.bin_width

    @property
    def bins(self) -> Sums:
        """Per position bin, without the first update."""
        return self.updates[1:].total()

    @property
    def responses(self) -> int:
        """Responses in all updates but the first; each takes part in one."""
        return int(self.positions.count[0])


def _narrow(counts: IntArray, name: str) -> NDArray[np.uint32]:
    if counts.size and counts.max() > np.iinfo(np.uint32).max:
        raise OverflowError(f"position statistics: a count in {name} exceeds 32 bits; merge fewer steps")
    return counts.astype(np.uint32)
