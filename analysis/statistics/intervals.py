"""An estimate with its 95 % interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
FloatArray = NDArray[np.float64]


class Interval(NamedTuple):
    """`estimate`, `low`, `high`: arrays of one shape; NaN bounds where there is too little to tell."""

    estimate: FloatArray
    low: FloatArray
    high: FloatArray

    def clipped(self, low: float, high: float) -> Interval:
        """Bounds cut to the range that the quantity can have."""
        return Interval(self.estimate, np.clip(self.low, low, high), np.clip(self.high, low, high))

    def at(self, cells: NDArray[np.bool_]) -> Interval:
        """Some of several estimates."""
        return Interval(*(part[cells] for part in self))

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        """`"0.71 [0.66, 0.76]"`, for a single number; without brackets if it has no bounds, – if NaN."""
        estimate, low, high = (float(part) * scale for part in self)
        if np.isnan(estimate):
            return "–"
        if np.isnan(low) or np.isnan(high):
            return f"{estimate:.{digits}f}"
        return f"{estimate:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def t_interval(estimate: NDArray[np.float64] | float, units: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """Student's t interval about `estimate` `[...]` from independent `units` `[units, ...]`; NaN below 2 of them.

    A unit that is NaN, one in which the quantity is not determined, does not count.
    """
    estimate = np.asarray(estimate, dtype=np.float64)
    units = np.asarray(units, dtype=np.float64).reshape(len(units), *estimate.shape)
    known = np.isfinite(units)
    count = known.sum(axis=0)
    mean = np.where(known, units, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(known, (units - mean) ** 2, 0.0).sum(axis=0)
    freedom = np.where(count > 1, count - 1, np.nan)
    half = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(squares / freedom / np.maximum(count, 1))
    return Interval(estimate, estimate - half, estimate + half)


def wider(interval: Interval, units: NDArray[np.float64]) -> Interval:
    """`interval`, or that of the independent `units` `[units, ...]` above it (see `t_interval`), where it is wider.

    Units such as seeds hold the variation of everything below them, but few of them can agree by chance. Where only
    one of several is determined, how they vary is not known, and there are no bounds.
    """
    if len(units) < 2:
        return interval
    above = t_interval(interval.estimate, units)
    known = np.isfinite(above.low)
    return Interval(
        interval.estimate,
        np.where(known, np.fmin(interval.low, above.low), np.nan),
        np.where(known, np.fmax(interval.high, above.high), np.nan),
    )
