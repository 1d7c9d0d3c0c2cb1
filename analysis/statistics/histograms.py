"""Quantiles of what was only counted into buckets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.intervals import FloatArray

#: Interquartile range of a normal distribution, in standard deviations.
NORMAL_IQR = 1.3489795003921634


def quantile(counts: NDArray[np.int64], edges: FloatArray, q: float) -> FloatArray:
    """Quantile `q` of each histogram, linear within a bucket.

    Args:
        counts: `[..., buckets]`.
        edges: `[buckets + 1]`, ascending; the outer two may be infinite.

    Returns:
        `[...]`; NaN for an empty histogram and where the quantile lies in an unbounded bucket.
    """
    cumulative = np.cumsum(counts, axis=-1, dtype=np.float64)
    total = cumulative[..., -1]
    target = q * total
    bucket = np.minimum((cumulative < target[..., None]).sum(-1), counts.shape[-1] - 1)
    inside = np.take_along_axis(counts, bucket[..., None], -1)[..., 0]
    before = np.take_along_axis(cumulative, bucket[..., None], -1)[..., 0] - inside
    low, high = edges[bucket], edges[bucket + 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        value = low + (target - before) / inside * (high - low)
    return np.where((total > 0) & np.isfinite(low) & np.isfinite(high), value, np.nan)


def robust_scale(counts: NDArray[np.int64], edges: FloatArray) -> FloatArray:
    """IQR / 1.349 of each histogram: the standard deviation, if the values were normal."""
    return (quantile(counts, edges, 0.75) - quantile(counts, edges, 0.25)) / NORMAL_IQR
