"""The growth exponent over training, one panel per method: Figure 1's fit at every recorded step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.artifacts import Artifact
from analysis.growth import MAX_STEPS, Growth, measure_growth
from analysis.inputs import NothingToShow, Sweep
from analysis.position_sums import over_steps
from analysis.statistics.intervals import Interval
from ctpo.records import RunRecord

MAX_COLUMNS = 3
_CAPTION = (
    "Exponent b of the fit sigma t^b to the standard deviation of log rho_t, by training step. Points: all "
    "seeds pooled, bars: 95 % interval clustered by prompt (by seed where that is wider); faint: single seeds. "
    "Above each panel: b of the steps shown, their sums added up before the fit. Few prompts bias that less "
    "than a mean of the points; lengths that change with volatility bias it more. Dashed: 0.5, the square-root "
    "law. Bars may end outside of the panel."
)


def make(sweep: Sweep, model: str) -> Artifact:
    """One panel per method that has position statistics."""
    fitted, runs, reasons = [], [], []
    for method in sweep.looked_at(model):
        try:
            own, levels, overall = _fits(sweep, model, method)
        except NothingToShow as reason:
            reasons.append(str(reason))
            continue
        fitted.append((method, levels, overall))
        runs += own
    if not fitted:
        raise NothingToShow("; ".join(reasons))
    rows = -(-len(fitted) // MAX_COLUMNS)
    columns = -(-len(fitted) // rows)
    figure, axes = style.panels(rows, columns, rows * (style.ROW + 0.15), sharey=True)
    for axis, (method, levels, overall) in zip(axes.flat, fitted, strict=False):
        _draw(axis, method, levels, overall)
    for unused in axes.flat[len(fitted) :]:
        unused.set_visible(False)
    for left in axes[:, 0]:
        left.set_ylabel("exponent $b$")
    data = pd.concat([_numbers(method, levels) for method, levels, _ in fitted])
    estimates = data["exponent"].to_numpy()
    axes[0, 0].set_ylim(min(0.3, estimates.min() - 0.05), 1.15 * max(0.7, estimates.max()))
    caption = " ".join([_CAPTION, *(f"Left out: {reason}." for reason in reasons)])
    return Artifact(f"exponents_{model}", f"Growth exponent ({model})", caption, runs, data, figure)


def _fits(
    sweep: Sweep, model: str, method: str
) -> tuple[list[RunRecord], list[tuple[int, Growth, tuple[Growth, ...]]], Interval]:
    """Runs; step, fit over all seeds and fit of each seed; the exponent of all steps together."""
    runs, loaded = sweep.sums_over_training(model, method, MAX_STEPS)
    levels = [
        (step, growth, tuple(measure_growth(seed) for seed in sums.seeds or (sums,)))
        for step, sums in loaded
        if np.isfinite((growth := measure_growth(sums)).free[1].estimate)
    ]
    if len(levels) < 2:
        raise NothingToShow(f"fewer than two steps of {model}/{method} whose spread can be fitted")
    return runs, levels, measure_growth(over_steps([sums for _, sums in loaded])).free[1]


def _draw(axis: Any, method: str, levels: list[tuple[int, Growth, tuple[Growth, ...]]], overall: Interval) -> None:
    look, seeds = style.look(method), max(len(single) for _, _, single in levels)
    axis.axhline(0.5, color=style.SQUARE_ROOT_COLOUR, ls="--", lw=1, zorder=1)
    complete = [(step, single) for step, _, single in levels if len(single) == seeds]
    for seed in range(seeds if seeds > 1 else 0):
        exponents = [float(single[seed].free[1].estimate) for _, single in complete]
        axis.plot([step for step, _ in complete], exponents, color=look.colour, lw=0.6, alpha=0.35)
    steps = [step for step, _, _ in levels]
    estimate, low, high = (np.array([growth.free[1][part] for _, growth, _ in levels]) for part in range(3))
    bars = np.nan_to_num(np.abs(np.array([estimate - low, high - estimate])))
    axis.errorbar(steps, estimate, yerr=bars, fmt=look.marker, color=look.colour, ms=3, elinewidth=0.8)
    axis.set_title(f"{style.wrapped(look.label)}\n$b$ = {overall.text()}", loc="left")
    axis.set_xlabel("training step")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _numbers(method: str, levels: list[tuple[int, Growth, tuple[Growth, ...]]]) -> pd.DataFrame:
    rows = [(method, step, *map(float, growth.free[1])) for step, growth, _ in levels]
    return pd.DataFrame(rows, columns=["method", "step", "exponent", "low", "high"])
