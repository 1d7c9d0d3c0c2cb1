"""What an interval decides. Pure rules: `tests/unit/analysis/test_verdicts.py` simulates how often each is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from analysis.statistics.intervals import LEVEL, Interval, t_interval

HOLDS, FAILS, UNDECIDED, NOT_TESTABLE = "holds", "fails", "undecided", "not testable here"

#: Ratio of mean lengths up to which they count as alike.
LENGTHS_ALIKE = 1.15


def within(interval: Interval, low: float, high: float) -> str:
    """`holds` if the interval lies inside `[low, high]`, `fails` if outside of it, else `undecided`."""
    if not np.isfinite([interval.low, interval.high]).all():
        return UNDECIDED
    if interval.low >= low and interval.high <= high:
        return HOLDS
    return FAILS if interval.high < low or interval.low > high else UNDECIDED


def above(interval: Interval, bound: float = 0.0) -> str:
    """`holds` if the interval lies above `bound`, `fails` if below it; without bounds `undecided`."""
    if interval.low > bound:
        return HOLDS
    return FAILS if interval.high < bound else UNDECIDED


def below(interval: Interval, bound: float = 0.0) -> str:
    """`holds` if the interval lies below `bound`, `fails` if above it; without bounds `undecided`."""
    return {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}[above(interval, bound)]


def all_of(verdicts: Sequence[str]) -> str:
    """A sentence of several parts fails with any of them, and holds with all."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if verdicts and set(verdicts) == {HOLDS} else UNDECIDED


def joint_level(comparisons: int) -> float:
    """Level of each of several intervals that together are wrong no more often than one (Bonferroni)."""
    return 1 - (1 - LEVEL) / comparisons


def difference(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean of `first` minus mean of `second`, one number a seed, with Welch's interval; NaN bounds below 2 seeds."""
    seeds = [np.asarray(one, dtype=np.float64) for one in (first, second)]
    estimate = np.asarray(seeds[0].mean() - seeds[1].mean())
    if min(map(len, seeds)) < 2:
        return Interval(estimate, np.array(np.nan), np.array(np.nan))
    errors = [one.var(ddof=1) / len(one) for one in seeds]
    weight = sum(error**2 / (len(one) - 1) for error, one in zip(errors, seeds, strict=True))
    freedom = sum(errors) ** 2 / weight if weight > 0 else 1.0
    half = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(sum(errors))
    return Interval(estimate, estimate - half, estimate + half)


def in_order(lowest: ArrayLike, middle: ArrayLike, highest: ArrayLike) -> str:
    """Whether three methods' numbers, one for each seed, stand in this order."""
    level = joint_level(2)
    return all_of([above(difference(middle, lowest, level)), above(difference(highest, middle, level))])


def grow_alike(early: Mapping[str, ArrayLike], late: Mapping[str, ArrayLike]) -> str:
    """Whether every method's lengths grow, and end within a factor of `LENGTHS_ALIKE` of one another.

    Args:
        early: by method, the mean length in the first half of training, one number for each seed.
        late: in the second half, of the same seeds.
    """
    limit = float(np.log(LENGTHS_ALIKE))
    changes = [np.log(late[method]) - np.log(early[method]) for method in late]
    pairs = [(np.log(late[one]), np.log(late[other])) for one, other in combinations(late, 2)]
    level = joint_level(len(changes) + len(pairs))
    grown = [above(t_interval(change.mean(), change, level)) for change in changes]
    ratios = [difference(one, other, level) for one, other in pairs]
    return all_of([*grown, *(within(ratio, -limit, limit) for ratio in ratios)])
