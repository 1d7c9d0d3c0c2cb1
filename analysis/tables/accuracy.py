"""Table 2 (and 3): avg@k per method and benchmark, with the paper's numbers beside them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis import style
from analysis.artifacts import Artifact, Table
from analysis.inputs import Sweep, method_rank
from analysis.reported import Reported, load_reported
from analysis.scores import FinalScores, final_scores
from analysis.statistics.intervals import Interval

_EMPTY = "–"


def make(sweep: Sweep, model: str) -> Artifact:
    """One row per method; in percent."""
    scores = final_scores(sweep, model)
    reported = [cell for cell in load_reported() if cell.model == model and cell.benchmark == "average"]
    methods = sorted({*sweep.methods(model), *(cell.method for cell in reported)}, key=method_rank)
    records = [record for method in methods for record in _records(scores, method)]
    several = len(scores.benchmarks) > 1
    header = [
        "Method",
        *scores.benchmarks,
        *(["average"] if several else []),
        "seeds",
        f"pass@{scores.k}",
        f"maj@{scores.k}",
    ]
    rows = [_row(scores, method, several) for method in methods]
    if reported:
        header.append("paper, average")
        for row, method in zip(rows, methods, strict=True):
            row.append(_paper_cell(reported, method))
    return Artifact(
        f"table2_{model}",
        f"Table 2 ({model}): avg@{scores.k}, in percent",
        _caption(scores, reported),
        scores.runs,
        pd.DataFrame(records, columns=["method", "benchmark", "metric", "seeds", "problems", "value", "low", "high"]),
        table=Table(header, rows),
    )


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


def _paper_cell(reported: list[Reported], method: str) -> str:
    cell = next((cell for cell in reported if cell.method == method), None)
    if cell is None:
        return _EMPTY
    return cell.note if math.isnan(cell.value) else f"{cell.value:.1f}"


def _caption(scores: FinalScores, reported: list[Reported]) -> str:
    benchmarks = ", ".join(f"{name} ({scores.problems(name)} problems)" for name in scores.benchmarks)
    sentences = [
        f"Accuracy after the last training step ({', '.join(map(str, scores.steps))}); "
        "no step was chosen by its score.",
        f"Benchmarks: {benchmarks}; {scores.k} samples per problem.",
        "Brackets: 95 % percentile bootstrap over problems (crossed with seeds where there are several); "
        "with one seed they speak of this one training run, not of the method.",
        f"pass@{scores.k}: any sample right; maj@{scores.k}: the most frequent answer right (ties by share).",
    ]
    if reported:
        sources = {f"{cell.source} ({cell.note}; {cell.retrieved})" for cell in reported if cell.value > 0}
        paper = "; ".join(sorted(sources))
        sentences.append(f"The paper's numbers: {paper}. They are of other runs on other hardware.")
    else:
        sentences.append("The paper reports no numbers for this model.")
    if scores.left_out:
        sentences.append(f"Left out: {'; '.join(scores.left_out)}.")
    return " ".join(sentences)
