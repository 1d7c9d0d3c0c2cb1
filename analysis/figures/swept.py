"""A sweep over something else than methods: what comes out against the swept value, or by variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter

from analysis import style
from analysis.artifacts import Artifact
from analysis.comparability import Axis, swept_axes
from analysis.growth import measure_growth, overall_rate, uniformity
from analysis.inputs import NothingToShow, Sweep
from analysis.position_sums import OWN
from analysis.scores import FinalScores, final_scores
from analysis.statistics.intervals import Interval
from ctpo.records import RunRecord

#: More methods than this are compared here as well, side by side.
MANY_METHODS = 6
QUANTITIES = (
    ("accuracy", "accuracy"),
    ("clip_rate", "clipped tokens"),
    ("variation", "clip variation over $t$"),
    ("exponent", "exponent $b$ of the spread"),
)
_COLUMNS = ["algorithm", "variant", "field", "value", "quantity", "estimate", "low", "high"]
_CAPTION = (
    "{what} Accuracy: avg@k at the reported checkpoint, mean over benchmarks, 95 % interval as in Table 2.{drawn} The "
    "others are of each variant's last step with position statistics ({steps}), 95 % intervals clustered by prompt: "
    "share of tokens that the run's own window clipped; coefficient of variation of that share over positions (0 is "
    "even); exponent b of sigma t^b fitted to the standard deviation of log rho_t (grey line: 0.5). Bars may end "
    "outside of the panel. Seeds per variant: {seeds}.{also} A difference between variants with one seed each is a "
    "difference between training runs."
)


def make(sweep: Sweep, model: str) -> Artifact:
    """Lines over a swept number; one row per variant where several things, or no numbers, were swept."""
    runs = sweep.runs(model)
    by_algorithm: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_algorithm.setdefault(run.algorithm, []).append(run)
    variants = sweep.methods(model)
    if all(len({run.method for run in own}) == 1 for own in by_algorithm.values()) and len(variants) <= MANY_METHODS:
        raise NothingToShow(f"the runs of {model} differ in method and seed only")
    axis = _common_axis(list(by_algorithm.values()))
    try:
        scores = final_scores(sweep, model)
    except NothingToShow:
        scores = None
    data, steps = _measure(sweep, model, axis, scores)
    if data.empty:
        raise NothingToShow(f"no run of {model} has a final evaluation or position statistics")
    shown = [(name, label) for name, label in QUANTITIES if (data["quantity"] == name).any()]
    if axis is not None:
        figure, what = _draw_lines(data, axis, shown), f"By `{axis.field}`, as recorded in the configs."
    else:
        figure, what = _draw_rows(data, variants, shown), "By variant."
    seeds = ", ".join(sorted({str(len(sweep.runs(model, variant))) for variant in variants}))
    drawn = f" {scores.drawn}" if scores else ""
    caption = _CAPTION.format(what=what, drawn=drawn, steps=steps, seeds=seeds, also=_also(axis, runs))
    return Artifact(f"swept_{model}", f"Sweep {sweep.name} ({model})", caption, runs, data, figure)


def _common_axis(groups: Sequence[Sequence[RunRecord]]) -> Axis | None:
    """The one number that varies within every algorithm, and nothing else."""
    axes = [swept_axes(group) for group in groups]
    if any(len(found) != 1 or not found[0].numeric for found in axes):
        return None
    fields = {found[0].field for found in axes}
    if len(fields) != 1:
        return None
    values = {name: value for found in axes for name, value in found[0].values.items()}
    return Axis(axes[0][0].field, values, axes[0][0].others)


def _also(axis: Axis | None, runs: Sequence[RunRecord]) -> str:
    if axis is not None:
        return f" Changing along with it: {', '.join(f'`{name}`' for name in axis.others)}." if axis.others else ""
    fields = [found.field for found in swept_axes(runs)]
    shown = ", ".join(f"`{name}`" for name in fields[:8])
    return f" Fields that differ between the runs: {shown}{' and others' if len(fields) > 8 else ''}." if fields else ""


def _measure(sweep: Sweep, model: str, axis: Axis | None, scores: FinalScores | None) -> tuple[pd.DataFrame, str]:
    rows: list[tuple[Any, ...]] = []
    steps = set()
    for variant in sweep.methods(model):
        runs = sweep.runs(model, variant)
        value = np.nan if axis is None else float(axis.values[runs[0].name])
        found: list[tuple[str, Interval]] = []
        average = None if scores is None else scores.average(variant)
        if average is not None:
            found.append(("accuracy", average))
        recorded = [run for run in runs if run.position_stats_steps]
        common = set.intersection(*(set(run.position_stats_steps) for run in recorded)) if recorded else set()
        sums = sweep.pooled_position_sums(recorded, max(common)) if common else None
        if sums is not None and (sums.bins.count > 1).any():
            steps.add(max(common))
            found += [("clip_rate", overall_rate(sums, OWN)), ("variation", uniformity(sums, OWN)[1])]
            found.append(("exponent", measure_growth(sums).free[1]))
        field = "" if axis is None else axis.field
        rows += [(runs[0].algorithm, variant, field, value, name, *map(float, interval)) for name, interval in found]
    data = pd.DataFrame(rows, columns=_COLUMNS)
    return data[data["estimate"].notna()], ", ".join(map(str, sorted(steps))) or "none recorded"


def _draw_lines(data: pd.DataFrame, axis: Axis, shown: Sequence[tuple[str, str]]) -> Any:
    figure, axes = style.panels(1, len(shown), style.ROW + 0.45)
    values = np.sort(data["value"].unique())
    logarithmic = values[0] > 0 and values[-1] / values[0] >= 8
    for panel, (quantity, label) in zip(axes[0], shown, strict=True):
        for algorithm, rows in data[data["quantity"] == quantity].groupby("algorithm", sort=False):
            rows, look = rows.sort_values("value"), style.look(str(algorithm))
            panel.errorbar(
                rows["value"],
                rows["estimate"],
                yerr=_bars(rows),
                color=look.colour,
                marker=look.marker,
                ls=look.dash,
                lw=1.0,
                ms=3.5,
                elinewidth=0.7,
                label=look.label,
            )
        if logarithmic:
            panel.set_xscale("log", base=2)
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.set_xlabel(axis.label)
        _finish(panel, quantity, panel.yaxis, panel.axhline)
        panel.set_ylim(*_limits(data[data["quantity"] == quantity]))
        panel.set_ylabel(label)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside lower center", ncols=style.legend_columns(labels))
    return figure


def _draw_rows(data: pd.DataFrame, variants: Sequence[str], shown: Sequence[tuple[str, str]]) -> Any:
    at = {variant: row for row, variant in enumerate(variants)}
    figure, axes = style.panels(1, len(shown), 0.19 * len(variants) + 0.75, sharey=True)
    for panel, (quantity, label) in zip(axes[0], shown, strict=True):
        for variant, rows in data[data["quantity"] == quantity].groupby("variant", sort=False):
            look = style.look(str(variant))
            panel.errorbar(
                rows["estimate"],
                [at[str(variant)]],
                xerr=_bars(rows),
                color=look.colour,
                marker=look.marker,
                ls="",
                ms=4,
                elinewidth=0.9,
            )
        panel.set_xlabel(label)
        _finish(panel, quantity, panel.xaxis, panel.axvline)
        panel.set_xlim(*_limits(data[data["quantity"] == quantity]))
    axes[0, 0].set_yticks(range(len(variants)), [style.wrapped(style.look(variant).label) for variant in variants])
    axes[0, 0].set_ylim(len(variants) - 0.5, -0.5)
    return figure


def _finish(panel: Any, quantity: str, along: Any, line: Any) -> None:
    if quantity in ("accuracy", "clip_rate"):
        along.set_major_formatter(style.percent)
    if quantity == "exponent":
        line(0.5, color=style.LIGHT_GREY, lw=1, zorder=0)


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Room for all estimates and for most bars: the interval of two seeds can be wide enough to flatten the rest."""
    estimates = rows["estimate"]
    span = max(float(np.ptp(estimates)), 0.25 * float(estimates.abs().max()), 1e-3)
    low = max(float(np.nanmin([*rows["low"], estimates.min()])), float(estimates.min()) - 1.2 * span)
    high = min(float(np.nanmax([*rows["high"], estimates.max()])), float(estimates.max()) + 1.2 * span)
    margin = 0.05 * (high - low) + 1e-4
    return (max(low - margin, 0.0) if estimates.min() > 0 else low - margin), high + margin


def _bars(rows: pd.DataFrame) -> np.ndarray:
    """Lengths of the error bars, 0 where an interval has no bounds."""
    bars = np.array([rows["estimate"] - rows["low"], rows["high"] - rows["estimate"]])
    return np.maximum(np.nan_to_num(bars), 0.0)
