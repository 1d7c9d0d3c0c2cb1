"""Table 3: the adaptive window against the fixed one, the rest alike."""

from __future__ import annotations

import pandas as pd

from analysis.artifacts import Artifact, Table
from analysis.inputs import NothingToShow, Sweep
from analysis.reported import load_reported
from analysis.scores import final_scores
from analysis.statistics.resampling import difference_interval, difference_p_value
from analysis.tables.table2 import accuracy_rows, caption, numbers
from analysis.tables.table2_differences import p_text

METHODS = ("ctpo_fixed", "ctpo")
_CAPTION = (
    "Last row: adaptive minus fixed, paired by problem over all benchmarks' problems, in percentage points; p: "
    "two-sided t test over {problems} problems crossed with seeds, none where a method has one seed. The "
    "paper's Table 3 is of Qwen3-14B."
)


def make(sweep: Sweep, model: str) -> Artifact:
    """Two rows and their difference."""
    scores = final_scores(sweep, model)
    pair = scores.pair("ctpo", "ctpo_fixed")
    if pair is None:
        raise NothingToShow(f"ctpo and ctpo_fixed were not both evaluated at the end on {model}")
    reported = [cell for cell in load_reported() if cell.model == model and cell.method in METHODS]
    averages = [cell for cell in reported if cell.benchmark == "average"]
    header, rows = accuracy_rows(scores, METHODS, averages)
    difference, p = difference_interval(*pair), difference_p_value(*pair)
    last = ["adaptive \u2212 fixed", f"{difference.text(1, 100.0)}, p {p_text(p)}"]
    rows.append(last + [""] * (len(header) - len(last)))
    record = ("ctpo - ctpo_fixed", "all problems", f"avg@{scores.k}", "", pair[0].shape[1], *map(float, difference))
    data = numbers(scores, METHODS)
    data = pd.concat([data, pd.DataFrame([(*record, p)], columns=[*data.columns, "p"])], ignore_index=True)
    return Artifact(
        f"table3_{model}",
        f"Table 3 ({model}): adaptive against fixed clipping, {scores.metric}, in percent",
        f"{_CAPTION.format(problems=pair[0].shape[1])} {caption(scores, reported)}",
        [run for run in scores.runs if run.method in METHODS],
        data,
        table=Table(header, rows, [len(METHODS)]),
    )
