"""An estimate with its 95 % interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
