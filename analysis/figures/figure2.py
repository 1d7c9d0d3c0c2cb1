"""Figure 2: accuracy, clip fraction and response length over training."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.artifacts import Artifact
from analysis.inputs import NothingToShow, Sweep
from analysis.scores import draws_apart, sampling_sentences
from analysis.statistics.seeds import seed_band
from ctpo.records import RunRecord, Sampling

#: Panel, label of its axis, and the metrics to take it from: the first that a run has.
PANELS = (
    ("accuracy", "accuracy", ()),
    ("clip_fraction", "clipped tokens", ("actor/pg_clipfrac",)),
    ("response_length", "response length (tokens)", ("model_tokens/mean", "response_length/mean")),
)
#: A band of fewer seeds covers the panel: Student's factor for two is 12.7.
BAND_SEEDS = 3
_COLUMNS = ["panel", "method", "seed", "step", "value", "low", "high"]

_CAPTION = (
    "Left: accuracy on held-out problems (avg@k, mean over benchmarks). Middle: share of tokens clipped by the "
    "method's own window, mean over the step's updates (the first, before the policy has moved, clips nothing "
    "and counts); logarithmic, a step without any clipped token is not drawn. Right: mean number of tokens that"
    " the model generated per training response. Bold: mean over seeds; faint: single seeds; band: 95 % t "
    "interval of the mean over seeds, where there are three or more (of two it is in the CSV)."
)


def make(sweep: Sweep, model: str) -> Artifact:
    """Three panels, one line per method."""
    runs = sweep.runs(model)
    curves = {panel: _curves(runs, keys) for panel, _, keys in PANELS[1:]}
    accuracies, drawn = _accuracies(sweep, runs)
    curves["accuracy"] = accuracies
    shown = [(panel, label) for panel, label, _ in PANELS if curves[panel]]
    if not shown:
        raise NothingToShow(f"no run of {model} has metrics or samples yet")
    legend = style.legend_columns([style.look(method).label for method in sweep.methods(model)])
    legend_rows = -(-len(sweep.methods(model)) // legend)
    figure, axes = style.panels(1, len(shown), style.ROW + 0.25 + 0.16 * legend_rows)
    parts = []
    for axis, (panel, label) in zip(axes[0], shown, strict=True):
        for method in sweep.methods(model):
            parts.append(_draw(axis, panel, method, curves[panel].get(method, {})))
        axis.set_ylabel(label)
        axis.set_xlabel("training step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    _finish_axes(dict(zip([panel for panel, _ in shown], axes[0], strict=True)))
    handles = {handle.get_label(): handle for axis in axes[0] for handle in axis.get_legend_handles_labels()[0]}
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=legend)
    data = pd.concat([part for part in parts if len(part)])
    missing = [label for panel, label, _ in PANELS if not curves[panel]]
    absent = f" Not recorded in these runs: {', '.join(missing)}." if missing else ""
    return Artifact(f"figure2_{model}", f"Figure 2 ({model})", f"{_CAPTION} {drawn}{absent}", runs, data, figure)


#: Method -> seed -> (steps, values).
Curves = dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]


def _curves(runs: list[RunRecord], keys: tuple[str, ...]) -> Curves:
    curves: Curves = {}
    for run in runs:
        steps, values = next((found for key in keys if len((found := run.series(key))[0])), run.series(""))
        if len(steps):
            curves.setdefault(run.method, {})[run.seed] = (steps, values)
    return curves


def _accuracies(sweep: Sweep, runs: list[RunRecord]) -> tuple[Curves, str]:
    """Curves of the runs that drew their samples as the first did, and sentences on how that was."""
    curves: Curves = {}
    samplings: dict[str, Sampling] = {}
    left_out = []
    for run in runs:
        evaluations = [
            found
            for name in run.benchmarks
            for step in run.sample_steps(name)
            if (found := sweep.evaluation(run, name, step)) is not None
        ]
        steps, values = accuracy_curve(sweep, run)
        if not len(steps):
            continue
        first = next(iter(samplings.values()), evaluations[0].sampling)
        apart = next((why for one in evaluations if (why := draws_apart(one.sampling, first))), "")
        if apart:
            left_out.append(f"{run.name}: {apart}")
            continue
        samplings.setdefault(run.method, evaluations[0].sampling)
        curves.setdefault(run.method, {})[run.seed] = (steps, values)
    sentences = [sampling_sentences(samplings, runs), _problems(sweep, runs)] if samplings else []
    if left_out:
        sentences.append(f"Accuracy left out: {'; '.join(left_out)}.")
    return curves, " ".join(sentences)


def _problems(sweep: Sweep, runs: list[RunRecord]) -> str:
    """How many problems each benchmark has, and how many runs each method."""
    found = {
        name: len(evaluation.problem_ids)
        for run in runs
        for name in run.benchmarks
        for step in run.sample_steps(name)[-1:]
        if (evaluation := sweep.evaluation(run, name, step)) is not None
    }
    counts = Counter(run.method for run in runs)
    problems = ", ".join(f"{count} of {name}" for name, count in found.items())
    return f"Problems: {problems}. Runs: {', '.join(f'{method} {count}' for method, count in counts.items())}."


def accuracy_curve(sweep: Sweep, run: RunRecord) -> tuple[np.ndarray, np.ndarray]:
    """Steps at which all of a run's benchmarks were evaluated, and the mean of their avg@k."""
    by_benchmark = [set(run.sample_steps(benchmark)) for benchmark in run.benchmarks]
    pairs = []
    for step in sorted(set.intersection(*by_benchmark)) if by_benchmark else []:
        found = [sweep.evaluation(run, benchmark, step) for benchmark in run.benchmarks]
        averages = [evaluation.average for evaluation in found if evaluation is not None]
        if len(averages) == len(found):
            pairs.append((step, float(np.mean(averages))))
    return np.array([step for step, _ in pairs], dtype=np.int64), np.array([value for _, value in pairs])


def _draw(axis: Any, panel: str, method: str, seeds: dict[int, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    if not seeds:
        return pd.DataFrame(columns=_COLUMNS)
    look = style.look(method)
    rows: list[tuple[Any, ...]] = [
        (panel, method, seed, *pair, np.nan, np.nan)
        for seed, curve in seeds.items()
        for pair in zip(*curve, strict=True)
    ]
    steps, mean, low, high = seed_band(list(seeds.values()))
    if len(seeds) > 1:
        for curve in seeds.values():
            axis.plot(*curve, color=look.colour, lw=0.6, alpha=0.35)
    if len(seeds) >= BAND_SEEDS:
        axis.fill_between(steps, low, high, color=look.colour, alpha=0.15, lw=0)
    marker = look.marker if len(steps) <= 25 else ""
    axis.plot(steps, mean, color=look.colour, ls=look.dash, marker=marker, ms=2.8, label=look.label)
    rows += [(panel, method, "mean", *row) for row in zip(steps, mean, low, high, strict=True)]
    return pd.DataFrame(rows, columns=_COLUMNS)


def _finish_axes(axes: dict[str, Any]) -> None:
    for panel, axis in axes.items():
        # Limits follow the lines: the band of two seeds is wide enough to flatten everything.
        drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axis.lines])
        drawn = drawn[np.isfinite(drawn)]
        if panel == "response_length":
            axis.set_ylim(0, 1.1 * drawn.max(initial=1.0))
            continue
        axis.yaxis.set_major_formatter(style.percent)
        positive = drawn[drawn > 0]
        if panel == "clip_fraction" and positive.size:
            axis.set_yscale("log", nonpositive="mask")
            style.plain_log(axis.yaxis, style.percent)
            axis.set_ylim(positive.min() / 2, positive.max() * 2)
        elif panel == "accuracy" and drawn.size:
            axis.set_ylim(0, min(1.0, 1.15 * max(0.05, drawn.max())))
