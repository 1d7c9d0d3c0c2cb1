"""Table 2 (and 3): avg@k per method and benchmark, with the paper's numbers beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import style
from analysis.artifacts import Artifact, Table
from analysis.comparability import differ_besides_method
from analysis.inputs import Sweep, method_rank
from analysis.reported import Reported, load_reported
from analysis.scores import FinalScores, final_scores
from analysis.statistics.intervals import Interval

_EMPTY = "–"


def make(sweep: Sweep, model: str) -> Artifact:
    """One row per method; in percent."""
    scores = final_scores(sweep, model)
    reported = [cell for cell in load_reported() if cell.model == model]
    averages = [cell for cell in reported if cell.benchmark == "average"]
    methods = sorted({*sweep.methods(model), *(cell.method for cell in averages)}, key=method_rank)
    return Artifact(
        f"table2_{model}",
        f"Table 2 ({model}): {scores.metric}, in percent",
        caption(scores, reported),
        scores.runs,
        numbers(scores, methods),
        table=Table(*accuracy_rows(scores, methods, averages)),
    )


def accuracy_rows(
    scores: FinalScores, methods: Sequence[str], averages: Sequence[Reported]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows; the paper's averages, where there are any, are the last column."""
    several = len(scores.benchmarks) > 1
    header = ["Method", *scores.benchmarks, *(["average"] if several else [])]
    header += ["seeds", f"pass@{scores.k}", f"maj@{scores.k}"]
    rows = [_row(scores, method, several) for method in methods]
    if scores.varied_limits:
        header.append("limits")
        for row, method in zip(rows, methods, strict=True):
            own = scores.samplings.get(method)
            row.append(_EMPTY if own is None else own.only(scores.varied_limits))
    if averages:
        header.append("paper, average")
        for row, method in zip(rows, methods, strict=True):
            row.append(_paper_cell(averages, method))
    return header, rows


def numbers(scores: FinalScores, methods: Sequence[str]) -> pd.DataFrame:
    """What the rows hold, and more digits."""
    records = [record for method in methods for record in _records(scores, method)]
    return pd.DataFrame(records, columns=["method", "benchmark", "metric", "seeds", "problems", "value", "low", "high"])


def _row(scores: FinalScores, method: str, several: bool) -> list[str]:
    cells = scores.cells.get(method, {})
    row = [style.look(method).label]
    row += [_percent(cells[name].interval) if name in cells else _EMPTY for name in scores.benchmarks]
    if several:
        average = scores.average(method)
        row.append(_EMPTY if average is None else _percent(average))
    row.append(str(max((len(cell.evaluations) for cell in cells.values()), default=0)))
    complete = len(cells) == len(scores.benchmarks)
    for metric in ("pass_at_k", "majority_at_k"):
        values = [float(getattr(cell, metric).estimate) for cell in cells.values()]
        row.append(f"{100 * np.mean(values):.1f}" if complete else _EMPTY)
    return row


def _records(scores: FinalScores, method: str) -> list[tuple[object, ...]]:
    records: list[tuple[object, ...]] = []
    for benchmark, cell in sorted(scores.cells.get(method, {}).items()):
        seeds, problems = cell.scores.shape
        metrics = (("avg", cell.interval), ("pass", cell.pass_at_k), ("majority", cell.majority_at_k))
        for metric, interval in metrics:
            records.append((method, benchmark, f"{metric}@{scores.k}", seeds, problems, *map(float, interval)))
    average = scores.average(method)
    if average is not None and len(scores.benchmarks) > 1:
        records.append((method, "average", f"avg@{scores.k}", "", "", *map(float, average)))
    return records


def _percent(interval: Interval) -> str:
    return interval.text(1, scale=100.0)


def _paper_cell(reported: Sequence[Reported], method: str) -> str:
    cell = next((cell for cell in reported if cell.method == method), None)
    if cell is None:
        return _EMPTY
    return cell.note if math.isnan(cell.value) else f"{cell.value:.1f}"


def caption(scores: FinalScores, reported: Sequence[Reported]) -> str:
    """How the cells came about, and where the paper's come from."""
    benchmarks = ", ".join(f"{name} ({scores.problems(name)} problems)" for name in scores.benchmarks)
    sentences = [
        scores.rule,
        scores.drawn,
        f"Benchmarks: {benchmarks}.",
        "Brackets: 95 % bootstrap interval over problems with all their samples (crossed with seeds where there are "
        "several); with one seed they speak of this one training run, not of the method.",
        f"pass@{scores.k}: any sample right; maj@{scores.k}: the most frequent answer right (ties by share).",
    ]
    known = {f"{cell.source} ({cell.note}; {cell.retrieved})" for cell in reported if cell.value > 0}
    if known:
        sentences.append(f"The paper's numbers: {'; '.join(sorted(known))}. They are of other runs on other hardware.")
    unknown = sorted({cell.benchmark for cell in reported} - {cell.benchmark for cell in reported if cell.value > 0})
    if unknown:
        sentences.append(f"The paper's numbers on {', '.join(unknown)} could not be recovered.")
    besides = differ_besides_method(scores.runs)
    if besides:
        shown = ", ".join(f"`{name}`" for name in besides[:6])
        more = f" and {len(besides) - 6} more" if len(besides) > 6 else ""
        sentences.append(f"Besides `method.*` the recorded configs of these runs differ in {shown}{more}.")
    if not reported:
        sentences.append("The paper reports no numbers for this model.")
    if scores.left_out:
        sentences.append(f"Left out: {'; '.join(scores.left_out)}.")
    return " ".join(sentences)
