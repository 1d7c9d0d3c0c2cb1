"""Paired differences between methods: the same problems, method against method."""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from analysis import style
from analysis.artifacts import Artifact, Table
from analysis.inputs import NothingToShow, Sweep, method_rank
from analysis.scores import FinalScores, final_scores
from analysis.statistics.intervals import FloatArray
from analysis.statistics.resampling import difference_interval, difference_p_value, holm

_CAPTION = (
    "Difference of avg@{k} by problem, all benchmarks' problems counting alike, in percentage points. Interval:"
    " 95 % bootstrap over problems ({problems} of them), and over the seeds of each method where it has "
    "several. p: two-sided t test on the same crossed design; Holm: corrected for the comparisons of this table"
    " that were tested. A pair in which a method has one seed is not tested, and its interval says that these "
    "runs differ, not that the methods do."
)


def make(sweep: Sweep, model: str) -> Artifact:
    """One row per pair of methods."""
    scores = final_scores(sweep, model)
    pairs = method_pairs(scores)
    if not pairs:
        raise NothingToShow(f"no two methods of {model} were evaluated on the same problems")
    p_values = [difference_p_value(mine, theirs) for _, _, mine, theirs in pairs]
    records, rows = [], []
    for (first, second, mine, theirs), p, adjusted in zip(pairs, p_values, holm(p_values), strict=True):
        interval = difference_interval(mine, theirs)
        records.append((first, second, mine.shape[1], *map(float, interval), p, adjusted))
        label = f"{style.look(first).label} − {style.look(second).label}"
        rows.append([label, interval.text(1, 100.0), p_text(p), p_text(adjusted)])
    columns = ["first", "second", "problems", "difference", "low", "high", "p", "p_holm"]
    caption = _CAPTION.format(k=scores.k, problems=pairs[0][2].shape[1])
    caption = f"{caption} {scores.drawn}"
    return Artifact(
        f"table2_differences_{model}",
        f"Table 2, differences ({model}): {scores.metric}",
        caption,
        scores.runs,
        pd.DataFrame(records, columns=columns),
        table=Table(["Methods", "difference", "p", "p (Holm)"], rows),
    )


def method_pairs(scores: FinalScores) -> list[tuple[str, str, FloatArray, FloatArray]]:
    """Every pair of methods that shares all benchmarks, CTPO first, with their scores `[seeds, problems]`."""
    methods = sorted(scores.cells, key=lambda method: (method != "ctpo", method_rank(method)))
    pairs = [(one, other, scores.pair(one, other)) for one, other in combinations(methods, 2)]
    return [(one, other, *scores) for one, other, scores in pairs if scores is not None]


def p_text(value: float) -> str:
    """A p-value to three digits; – where nothing was tested."""
    if value != value:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
