"""Intervals of anything that can be computed again without one group of the data.

Groups are prompts (hashed into folds): responses to one prompt, and the tokens of one response, depend on
each other, so a token is no unit of evidence. Deleting whole groups needs only their sums.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.intervals import LEVEL, FloatArray, Interval


def delete_group_jackknife(
    estimate: NDArray[np.float64] | float, without: FloatArray, sizes: NDArray[np.float64]
) -> Interval:
    """Delete-a-group jackknife (Kott 2001): variance (G - 1) / G times the summed squares of the changes.

    Changes are taken from the estimate itself, not from their mean, and groups may differ in size; both make
    the interval wider rather than narrower. A few groups often make up most of the variance, and then it is known
    as badly as from those few alone: Student's t has as many degrees of freedom as the squares count for,
    `(sum of squares)**2 / (sum of their squares)`, which is G where all groups weigh alike, and at most G - 1.

    Args:
        estimate: from all data, shape `[...]`.
        without: the estimate without group j, `[groups, ...]`.
        sizes: size of group j, `[groups]` or `[groups, ...]`; groups of size 0 do not count.

    Returns:
        The estimate with Student's t bounds; NaN below 2 groups.
    """
    estimate = np.asarray(estimate, dtype=np.float64)
    groups, squares = _changes(estimate, without, sizes)
    error = np.sqrt(group_variance(estimate, without, sizes))
    with np.errstate(invalid="ignore", divide="ignore"):
        counted = np.nan_to_num(squares.sum(0) ** 2 / (squares**2).sum(0), nan=1.0)
    freedom = np.clip(counted, 1.0, np.maximum(groups - 1, 1))
    half = np.where(groups >= 2, stats.t.ppf(0.5 + LEVEL / 2, freedom) * error, np.nan)
    return Interval(estimate, estimate - half, estimate + half)


def group_variance(estimate: FloatArray, without: FloatArray, sizes: FloatArray) -> FloatArray:
    """Variance of the estimate, with the arguments of `delete_group_jackknife`."""
    groups, squares = _changes(estimate, without, sizes)
    return (groups - 1) / np.maximum(groups, 1) * squares.sum(0)


def _changes(estimate: FloatArray, without: FloatArray, sizes: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """How many groups there are, `[...]`, and the squared change without each, `[groups, ...]`."""
    if sizes.ndim == 1:
        sizes = sizes.reshape(-1, *[1] * np.ndim(estimate))
    present = np.broadcast_to(sizes > 0, without.shape)
    return present.sum(0), np.where(present, (without - estimate) ** 2, 0.0)
