"""Means over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.intervals import LEVEL, FloatArray


def seed_band(
    curves: Sequence[tuple[NDArray[np.int64], FloatArray]],
) -> tuple[NDArray[np.int64], FloatArray, FloatArray, FloatArray]:
    """`(steps, mean, low, high)` at the steps that every seed has, with a 95 % t interval over seeds.

    The bounds are NaN for a single seed. A step at which a seed has NaN keeps it: a mean over fewer seeds
    would jump for no reason of the method's.
    """
    steps = sorted(set.intersection(*(set(steps.tolist()) for steps, _ in curves)))
    values = np.array([[dict(zip(at.tolist(), value, strict=True))[step] for step in steps] for at, value in curves])
    values = values.reshape(len(curves), len(steps))
    mean = values.mean(0)
    if len(curves) < 2:
        nothing = np.full(len(steps), np.nan)
        return np.array(steps, dtype=np.int64), mean, nothing, nothing
    error = values.std(0, ddof=1) / np.sqrt(len(curves))
    half = stats.t.ppf(0.5 + LEVEL / 2, len(curves) - 1) * error
    return np.array(steps, dtype=np.int64), mean, mean - half, mean + half
