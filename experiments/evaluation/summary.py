"""avg@k with an interval, in one line."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from ctpo.records import Sampling

LEVEL = 0.95


@dataclass(frozen=True)
class Accuracy:
    """avg@k of a benchmark, in [0, 1]; `low` and `high` are NaN where there is too little to tell."""

    benchmark: str
    problems: int
    value: float
    low: float
    high: float


def accuracy(benchmark: str, scores: Mapping[str, Sequence[float]]) -> Accuracy:
    """avg@k of the scores of each problem, with a 95 % interval clustered by problem.

    Samples of one problem are not independent; problems are. So the spread of the problems' means decides
    (Student's t with one degree of freedom less than there are problems), cut to [0, 1]. Where they have no spread,
    0 or 1 of every problem has the binomial bound of Clopper and Pearson, anything else none.
    """
    means = [statistics.fmean(problem) for problem in scores.values()]
    value, number = statistics.fmean(means), len(means)
    if number < 2:
        return Accuracy(benchmark, number, value, math.nan, math.nan)
    if value in (0.0, 1.0):
        bounds = stats.binomtest(number if value else 0, number).proportion_ci(LEVEL)
        return Accuracy(benchmark, number, value, float(bounds.low), float(bounds.high))
    if max(means) == min(means):
        return Accuracy(benchmark, number, value, math.nan, math.nan)
    half = float(stats.t.ppf((1 + LEVEL) / 2, number - 1)) * statistics.stdev(means) / math.sqrt(number)
    return Accuracy(benchmark, number, value, max(value - half, 0.0), min(value + half, 1.0))


def in_words(found: Sequence[Accuracy], sampling: Sampling, in_training: Sampling | None, directory: Path) -> str:
    """`aime25 avg@32 23.1 % [11.0, 35.2] of 30 problems; ...; drawn at temperature 0.7, ... -> directory`.

    Also says where the evaluations that the run made in training (`in_training`) differ.
    """
    parts, k = [], sampling.values["k"]
    for one in found:
        interval = "" if math.isnan(one.low) else f" [{100 * one.low:.1f}, {100 * one.high:.1f}]"
        noun = "problem" if one.problems == 1 else "problems"
        parts.append(f"{one.benchmark} avg@{k} {100 * one.value:.1f} %{interval} of {one.problems} {noun}")
    apart = in_training.apart_from(sampling) if in_training else ""
    note = f" (the run's own evaluations: {apart})" if apart else ""
    return f"{'; '.join(parts)}; drawn at {sampling.words()}{note} -> {directory}"
