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

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        """`"0.71 [0.66, 0.76]"`, for a single number; without brackets if it has no bounds, – if NaN."""
        estimate, low, high = (float(part) * scale for part in self)
        if np.isnan(estimate):
            return "–"
        if np.isnan(low) or np.isnan(high):
            return f"{estimate:.{digits}f}"
        return f"{estimate:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def t_interval(estimate: NDArray[np.float64] | float, units: NDArray[np.float64]) -> Interval:
    """Student's t interval about `estimate` `[...]` from independent `units` `[units, ...]`; NaN below 2 of them."""
    estimate = np.asarray(estimate, dtype=np.float64)
    count = len(units)
    if count < 2:
        missing = np.full(estimate.shape, np.nan)
        return Interval(estimate, missing, missing)
    half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * np.std(units, axis=0, ddof=1) / np.sqrt(count)
    return Interval(estimate, estimate - half, estimate + half)


def wider(interval: Interval, units: NDArray[np.float64]) -> Interval:
    """`interval`, or that of the independent `units` `[units, ...]` above it (see `t_interval`), where it is wider.

    Units such as seeds hold the variation of everything below them, but few of them can agree by chance.
    """
    if len(units) < 2:
        return interval
    above = t_interval(interval.estimate, units)
    return Interval(interval.estimate, np.fmin(interval.low, above.low), np.fmax(interval.high, above.high))
