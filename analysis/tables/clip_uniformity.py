"""How evenly each window clips along a response, per method."""

from __future__ import annotations

import pandas as pd

from analysis import style
from analysis.artifacts import Artifact, Table
from analysis.growth import overall_rate, uniformity
from analysis.inputs import NothingToShow, Sweep
from analysis.position_sums import ADAPTIVE, FIXED, OWN

WINDOWS = (("own", OWN), ("fixed [0.5, 5]", FIXED), ("adaptive", ADAPTIVE))
_CAPTION = (
    "Share of clipped tokens in step {steps}, its slope over position (percentage points per 100 "
    "tokens, token-weighted least squares) and its coefficient of variation over position bins (0 is "
    "perfectly even; noise adds to it). `own` is the window that the method trained with, on the ratio "
    "that it clips; the others would have clipped the cumulative ratio of the same run. Brackets: 95 % "
    "interval, delete-a-group jackknife over prompts (of several seeds, over seeds where that is wider); none where "
    "all clipping is in one group of prompts."
)
COLUMNS = ["method", "window", "step", "quantity", "value", "low", "high"]


def make(sweep: Sweep, model: str) -> Artifact:
    """One row per method and window, at each method's last step with position statistics."""
    rows, records, used, steps = [], [], [], set()
    for method in sweep.methods(model):
        runs = [run for run in sweep.runs(model, method) if run.position_stats_steps]
        common = set.intersection(*(set(run.position_stats_steps) for run in runs)) if runs else set()
        sums = sweep.pooled_position_sums(runs, max(common)) if common else None
        if sums is None or not sums.bins.count.any():
            continue
        used += runs
        steps.add(max(common))
        for label, window in WINDOWS:
            rate = overall_rate(sums, window)
            slope, variation = uniformity(sums, window)
            cells = [rate.text(1, 100), slope.text(2, 100), variation.text(2)]
            rows.append([style.look(method).label, label, *cells])
            for quantity, interval in (("rate", rate), ("slope_per_100", slope), ("variation", variation)):
                records.append((method, label, max(common), quantity, *map(float, interval)))
    if not rows:
        raise NothingToShow(f"no run of {model} has position statistics with tokens")
    caption = _CAPTION.format(steps=", ".join(map(str, sorted(steps))))
    table = Table(["Method", "window", "clipped, %", "slope", "variation"], rows, range(3, len(rows), 3))
    data = pd.DataFrame(records, columns=COLUMNS)
    return Artifact(f"clip_uniformity_{model}", f"Clip uniformity ({model})", caption, used, data, table=table)
