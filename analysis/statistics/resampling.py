"""Intervals and tests for accuracies. The unit of evidence is the problem, not the sample."""

from __future__ import annotations

import itertools

import numpy as np

from analysis.statistics.intervals import LEVEL, FloatArray, Interval

RESAMPLES = 10_000
PERMUTATIONS = 20_000
#: Up to this many problems every sign pattern is tried, and the p-value is exact.
EXACT_PROBLEMS = 14
#: Fixed, so that equal records give equal intervals.
SEED = 20260507
_BLOCK = 500


def problem_bootstrap(scores: FloatArray, resamples: int = RESAMPLES, benchmark: int = 0) -> FloatArray:
    """Bootstrap draws `[resamples]` of the mean of `scores` `[seeds, problems]`, each a mean of samples.

    Problems, and seeds where there are several, are drawn with replacement, crossed (Owen 2007). The samples
    of a drawn problem are kept as they are: their noise is in the problem's mean already, and drawing them
    again would count it twice. Another `benchmark` number gives independent draws.
    """
    generator = np.random.default_rng([SEED, benchmark])
    seeds, problems = scores.shape
    draws = []
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        rows = generator.integers(seeds, size=(size, seeds)) if seeds > 1 else np.zeros((size, 1), dtype=int)
        columns = generator.integers(problems, size=(size, problems))
        seed_weights = _multiplicities(rows, seeds)
        problem_weights = _multiplicities(columns, problems)
        draws.append(np.einsum("rs,sp,rp->r", seed_weights, scores, problem_weights, optimize=True))
    return np.concatenate(draws)


def _multiplicities(drawn: np.ndarray, size: int) -> FloatArray:
    """How often each of `size` items is in each row of `drawn`, as shares of the row."""
    offsets = np.arange(len(drawn))[:, None] * size
    counts = np.bincount((drawn + offsets).ravel(), minlength=len(drawn) * size)
    return counts.reshape(len(drawn), size) / drawn.shape[1]


def percentile_interval(estimate: float, draws: FloatArray) -> Interval:
    """The middle 95 % of `draws` around `estimate`."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(np.float64(estimate), low, high)  # type: ignore[arg-type]


def mean_interval(scores: FloatArray) -> Interval:
    """Mean of `[seeds, problems]` with its interval; no bounds for a single problem."""
    if scores.shape[1] < 2:
        return Interval(np.float64(scores.mean()), np.float64(np.nan), np.float64(np.nan))  # type: ignore[arg-type]
    return percentile_interval(float(scores.mean()), problem_bootstrap(scores))


def difference_interval(first: FloatArray, second: FloatArray) -> Interval:
    """Mean of `first` minus mean of `second`, `[seeds, problems]` each, paired by problem.

    The same problems are drawn for both; seeds, which have no partner, for each apart. No bounds for a
    single problem.
    """
    estimate = float(first.mean() - second.mean())
    problems = first.shape[1]
    if problems < 2:
        return Interval(np.float64(estimate), np.float64(np.nan), np.float64(np.nan))  # type: ignore[arg-type]
    generator = np.random.default_rng(SEED)
    draws = []
    for start in range(0, RESAMPLES, _BLOCK):
        size = min(_BLOCK, RESAMPLES - start)
        columns = _multiplicities(generator.integers(problems, size=(size, problems)), problems)
        means = []
        for scores in (first, second):
            seeds = len(scores)
            rows = _multiplicities(generator.integers(seeds, size=(size, seeds)), seeds)
            means.append(np.einsum("rs,sp,rp->r", rows, scores, columns, optimize=True))
        draws.append(means[0] - means[1])
    return percentile_interval(estimate, np.concatenate(draws))


def sign_flip_p_value(differences: FloatArray) -> float:
    """Two-sided permutation p-value that paired `differences` `[problems]` have mean 0.

    Under the null hypothesis the two methods are exchangeable, so every sign is as likely as its opposite.
    """
    differences = np.asarray(differences, dtype=np.float64)
    count = len(differences)
    observed = abs(differences.sum()) * (1 - 1e-12)  # equal sums that differ in the last bit are equal
    if count <= EXACT_PROBLEMS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=count)))
        return float(np.mean(np.abs(signs @ differences) >= observed))
    generator = np.random.default_rng(SEED)
    extreme = 0
    for start in range(0, PERMUTATIONS, _BLOCK):
        size = min(_BLOCK, PERMUTATIONS - start)
        signs = generator.integers(0, 2, size=(size, count)) * 2.0 - 1.0
        extreme += int(np.sum(np.abs(signs @ differences) >= observed))
    return (extreme + 1) / (PERMUTATIONS + 1)


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment, in the given order."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
