"""The paper's sentences about accuracies, tested on the final evaluations of a sweep."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.inputs import NothingToShow, Sweep
from analysis.reported import load_reported
from analysis.scores import FinalScores, final_scores
from analysis.statistics.intervals import FloatArray
from analysis.statistics.resampling import difference_interval, difference_p_value
from analysis.verdicts import FAILS, HOLDS, UNDECIDED, above, all_of, joint_level

MIN_SEEDS = 2
Test = Callable[[Sweep, str], tuple[str, str]]
Pair = tuple[FloatArray, FloatArray]


def better(method: str, *rivals: str) -> Test:
    """Whether `method` is more accurate than each rival, by the interval of the paired difference."""

    def test(sweep: Sweep, model: str) -> tuple[str, str]:
        scores = final_scores(sweep, model)
        intervals = [difference_interval(*_pair(scores, method, rival)) for rival in rivals]
        named = zip(rivals, intervals, strict=True)
        measured = "; ".join(f"minus {rival}: {interval.text(1, 100)} points" for rival, interval in named)
        return with_seeds(measured, all_of(list(map(above, intervals))), _fewest_seeds(scores, method, *rivals))

    return test


def better_on_each_benchmark(method: str, rival: str) -> Test:
    """Whether `method` is more accurate on every benchmark; a test of each at a joint level of 95 %."""

    def test(sweep: Sweep, model: str) -> tuple[str, str]:
        scores = final_scores(sweep, model)
        _pair(scores, method, rival)
        measured, verdicts = [], []
        for name in scores.benchmarks:
            mine, theirs = (scores.cells[which][name].scores for which in (method, rival))
            measured.append(f"{name} {difference_interval(mine, theirs).text(1, 100)}")
            verdicts.append(_sign(mine, theirs, joint_level(len(scores.benchmarks))))
        return with_seeds("; ".join(measured), all_of(verdicts), _fewest_seeds(scores, method, rival))

    return test


def reported_margin(method: str, rival: str) -> Test:
    """Whether the paper's margin lies in the interval of the paired difference and 0 does not."""

    def test(sweep: Sweep, model: str) -> tuple[str, str]:
        averages = [cell for cell in load_reported() if (cell.model, cell.benchmark) == (model, "average")]
        cells = {cell.method: cell.value for cell in averages}
        margin = (cells.get(method, np.nan) - cells.get(rival, np.nan)) / 100
        if np.isnan(margin):
            raise NothingToShow(f"the paper reports no margin of {method} over {rival} on {model}")
        scores = final_scores(sweep, model)
        interval = difference_interval(*_pair(scores, method, rival))
        within = interval.low <= margin <= interval.high
        verdict = HOLDS if within and interval.low > 0 else FAILS if interval.high < margin else UNDECIDED
        measured = f"reported {100 * margin:.1f} points, here {interval.text(1, 100)}"
        return with_seeds(measured, verdict, _fewest_seeds(scores, method, rival))

    return test


def with_seeds(measured: str, verdict: str, fewest: int) -> tuple[str, str]:
    """One seed of a method decides nothing about methods."""
    if fewest < MIN_SEEDS:
        return f"{measured} (one seed; by itself: {verdict})", UNDECIDED
    return f"{measured} ({fewest} seeds)", verdict


def _sign(mine: FloatArray, theirs: FloatArray, level: float) -> str:
    if not difference_p_value(mine, theirs) < 1 - level:
        return UNDECIDED
    return HOLDS if mine.mean() > theirs.mean() else FAILS


def _pair(scores: FinalScores, method: str, rival: str) -> Pair:
    pair = scores.pair(method, rival)
    if pair is None:
        raise NothingToShow(f"{method} and {rival} were not both evaluated at the end on {scores.model}")
    return pair


def _fewest_seeds(scores: FinalScores, *methods: str) -> int:
    return min(len(cell.evaluations) for method in methods for cell in scores.cells[method].values())
