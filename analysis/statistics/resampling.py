"""Intervals and tests for accuracies. The unit of evidence is the problem, not the sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from analysis.statistics.intervals import LEVEL, FloatArray, Interval

RESAMPLES = 10_000
#: Fixed, so that equal records give equal intervals.
SEED = 20260507
_BLOCK = 500


def mean_interval(scores: FloatArray, resamples: int = RESAMPLES) -> Interval:
    """Mean of `scores` `[seeds, problems]`, each a mean of samples, with its interval."""
    return stratified_interval([scores], resamples)


def stratified_interval(strata: Sequence[FloatArray], resamples: int = RESAMPLES) -> Interval:
    """Mean of the means of `strata` (benchmarks), each `[seeds, problems]`, of the same seeds.

    Hierarchical bootstrap: problems are drawn with replacement within each benchmark, crossed with the seeds,
    which all benchmarks share (Owen 2007); a drawn problem comes with its samples, drawn without replacement,
    which is all of them: their noise is in the problem's mean already, and drawing them with replacement would
    count it twice (Davison and Hinkley 1997, section 3.8). The draws are then stretched to the unbiased variance
    of the crossed design and Student's tails (Satterthwaite): with thirty problems or three seeds plain
    percentiles are too narrow. No bounds for a single problem, and none where all scores are the same, which says
    nothing of how they vary; but for all 0 or all 1, see `none_or_all`.
    """
    estimate = float(np.mean([scores.mean() for scores in strata]))
    fewest = min(scores.shape[1] for scores in strata)
    if fewest < 2:
        return _unbounded(estimate)
    if estimate in (0.0, 1.0):
        return none_or_all(estimate, len(strata) * fewest)
    seeds, shares = len(strata[0]), 1 / len(strata)
    generator = np.random.default_rng(SEED)
    draws = []
    for size in _blocks(resamples):
        rows = _multiplicities(generator.integers(seeds, size=(size, seeds)), seeds)
        draws.append(sum(shares * _draw(generator, rows, scores) for scores in strata))
    parts = [(shares**2 * scores.mean(0).var(ddof=1) / scores.shape[1], scores.shape[1] - 1) for scores in strata]
    if seeds > 1:
        parts.append((np.mean([scores.mean(1) for scores in strata], axis=0).var(ddof=1) / seeds, seeds - 1))
    overlap = sum(shares**2 * _interaction(scores) for scores in strata)
    return _stretched(estimate, np.concatenate(draws), parts, overlap).clipped(0.0, 1.0)


def difference_interval(first: FloatArray, second: FloatArray, resamples: int = RESAMPLES) -> Interval:
    """Mean of `first` minus mean of `second`, `[seeds, problems]` each, paired by problem.

    As `stratified_interval`; the same problems are drawn for both, seeds, which have no partner, for each apart.
    """
    estimate = float(first.mean() - second.mean())
    problems = first.shape[1]
    if problems < 2:
        return _unbounded(estimate)
    generator = np.random.default_rng(SEED)
    draws = []
    for size in _blocks(resamples):
        columns = _multiplicities(generator.integers(problems, size=(size, problems)), problems)
        means = []
        for scores in (first, second):
            rows = _multiplicities(generator.integers(len(scores), size=(size, len(scores))), len(scores))
            means.append(np.einsum("rs,sp,rp->r", rows, scores, columns, optimize=True))
        draws.append(means[0] - means[1])
    return _stretched(estimate, np.concatenate(draws), *_crossed_parts(first, second)).clipped(-1.0, 1.0)


def difference_p_value(first: FloatArray, second: FloatArray) -> float:
    """Two-sided p-value that `first` and `second`, `[seeds, problems]` each and paired by problem, have equal means.

    Student's t over the variance of the crossed design, which holds how runs of one method differ. NaN where a method
    has one seed, because nothing then tells the methods from their runs, and for a single problem.
    """
    if min(len(first), len(second)) < 2 or first.shape[1] < 2:
        return np.nan
    variance, freedom = _crossed_variance(*_crossed_parts(first, second))
    if variance <= 0:
        return np.nan
    return float(2 * stats.t.sf(abs(first.mean() - second.mean()) / np.sqrt(variance), freedom))


Parts = list[tuple[float, int]]


def _crossed_parts(first: FloatArray, second: FloatArray) -> tuple[Parts, float]:
    """Variances of the difference with their degrees of freedom, and what they hold in common."""
    problems = first.shape[1]
    parts: Parts = [((first.mean(0) - second.mean(0)).var(ddof=1) / problems, problems - 1)]
    parts += [
        (scores.mean(1).var(ddof=1) / len(scores), len(scores) - 1) for scores in (first, second) if len(scores) > 1
    ]
    return parts, _interaction(first) + _interaction(second)


def _crossed_variance(parts: Parts, overlap: float) -> tuple[float, float]:
    """Variance that `parts` add up to less what they share, and its degrees of freedom (Satterthwaite)."""
    values = np.array([value for value, _ in parts])
    variance = float(max(values.sum() - overlap, values.max(initial=0.0)))
    if variance <= 0:
        return 0.0, np.nan
    return variance, variance**2 / sum(value**2 / degrees for value, degrees in parts)


def _stretched(estimate: float, draws: FloatArray, parts: Parts, overlap: float) -> Interval:
    """The middle 95 % of `draws`, stretched about `estimate` to the crossed variance, with the tails of Student's t.

    No bounds where there is no variance.
    """
    variance, freedom = _crossed_variance(parts, overlap)
    spread = draws.std()
    if variance <= 0 or spread <= 0:
        return _unbounded(estimate)
    tails = stats.t.ppf((1 + LEVEL) / 2, freedom) / stats.norm.ppf((1 + LEVEL) / 2)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    factor = tails * np.sqrt(variance) / spread
    return Interval(np.float64(estimate), *(estimate + factor * (bound - estimate) for bound in (low, high)))  # type: ignore[arg-type]


def none_or_all(estimate: float, problems: int) -> Interval:
    """`estimate` 0 or 1, the score of all `problems`, with the binomial bound of Clopper and Pearson (1934).

    Scores without any spread would give an interval of no width, and 0 of 30 problems does not show that it is 0.
    """
    bounds = stats.binomtest(problems if estimate else 0, problems).proportion_ci(LEVEL)
    return Interval(np.float64(estimate), np.float64(bounds.low), np.float64(bounds.high))  # type: ignore[arg-type]


def _interaction(scores: FloatArray) -> float:
    """What the variance over seeds and that over problems both contain of the mean's variance; 0 for one seed."""
    seeds, problems = scores.shape
    if seeds < 2:
        return 0.0
    residual = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    return float((residual**2).sum() / ((seeds - 1) * (problems - 1)) / (seeds * problems))


def _draw(generator: np.random.Generator, rows: FloatArray, scores: FloatArray) -> FloatArray:
    problems = scores.shape[1]
    columns = _multiplicities(generator.integers(problems, size=(len(rows), problems)), problems)
    return np.asarray(np.einsum("rs,sp,rp->r", rows, scores, columns, optimize=True))


def _blocks(resamples: int) -> list[int]:
    return [min(_BLOCK, resamples - start) for start in range(0, resamples, _BLOCK)]


def _unbounded(estimate: float) -> Interval:
    return Interval(np.float64(estimate), np.float64(np.nan), np.float64(np.nan))  # type: ignore[arg-type]


def _multiplicities(drawn: np.ndarray, size: int) -> FloatArray:
    """How often each of `size` items is in each row of `drawn`, as shares of the row."""
    offsets = np.arange(len(drawn))[:, None] * size
    counts = np.bincount((drawn + offsets).ravel(), minlength=len(drawn) * size)
    return counts.reshape(len(drawn), size) / drawn.shape[1]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the given order. NaN, no test at all, stays NaN and is not counted."""
    adjusted = [np.nan] * len(p_values)
    running, tested = 0.0, [index for index, p in enumerate(p_values) if np.isfinite(p)]
    for rank, index in enumerate(sorted(tested, key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(tested) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
