"""The growth exponent over training: Figure 1's fit at every recorded step, steps and seeds as further levels."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.artifacts import Artifact
from analysis.growth import Growth, exponent_over_steps, measure_growth
from analysis.inputs import NothingToShow, Sweep

#: At most this many steps are fitted, evenly spread over the run.
MAX_STEPS = 12
_CAPTION = (
    "Exponent b of the fit sigma t^b to the standard deviation of log rho_t, by training step. Points: all seeds "
    "pooled, bars: 95 % interval clustered by prompt (by seed where that is wider); faint: single seeds. Over the "
    "{steps} steps shown b = {overall}; units of this interval: {units}. Dashed: 0.5, the square-root law."
)


def make(sweep: Sweep, model: str) -> Artifact:
    """One panel."""
    method, runs, _, _ = sweep.observed_sums(model)
    recorded = sorted(set.intersection(*(set(run.position_stats_steps) for run in runs)))
    chosen = [recorded[i] for i in np.unique(np.linspace(0, len(recorded) - 1, MAX_STEPS).round().astype(int))]
    loaded = [(step, sums) for step in chosen if (sums := sweep.pooled_position_sums(runs, step)) is not None]
    fitted = [(step, sums, measure_growth(sums)) for step, sums in loaded]
    fitted = [one for one in fitted if np.isfinite(one[2].free[1].estimate)]
    if len(fitted) < 2:
        raise NothingToShow(f"fewer than two steps of {model}/{method} whose spread can be fitted")
    # A step that only some seeds could record has no place among the levels.
    complete = [one for one in fitted if len(one[1].seeds or (one[1],)) == len(runs)]
    by_seed: list[list[Growth]] = [
        [measure_growth((sums.seeds or (sums,))[seed]) for _, sums, _ in complete] for seed in range(len(runs))
    ]
    overall = exponent_over_steps(by_seed) if complete else None
    figure = style.Figure(figsize=(style.COLUMN, style.ROW + 0.1))
    axis = figure.subplots()
    look, steps = style.look(method), [step for step, _, _ in fitted]
    estimate, low, high = (np.array([growth.free[1][part] for *_, growth in fitted]) for part in range(3))
    bars = np.nan_to_num(np.abs(np.array([estimate - low, high - estimate])))
    axis.axhline(0.5, color=style.SQUARE_ROOT_COLOUR, ls="--", lw=1, zorder=1)
    if len(by_seed) > 1:
        for one in by_seed:
            at = [step for step, _, _ in complete]
            axis.plot(at, [float(growth.free[1].estimate) for growth in one], color=look.colour, lw=0.6, alpha=0.35)
    axis.errorbar(steps, estimate, yerr=bars, fmt=look.marker, color=look.colour, ms=3, elinewidth=0.8)
    axis.set_ylim(min(0.3, 1.1 * estimate.min()), 1.15 * max(0.7, estimate.max()))
    axis.annotate(r"$\sqrt{t}$", (1.015, 0.5), xycoords=axis.get_yaxis_transform(), va="center", fontsize=7)
    axis.set_xlabel("training step")
    axis.set_ylabel("exponent $b$")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    data = pd.DataFrame({"step": steps, "exponent": estimate, "low": low, "high": high})
    units = f"{len(runs)} seeds" if len(runs) > 1 else "batches of consecutive steps of one training run"
    text = "not to be said" if overall is None else overall.text()
    caption = _CAPTION.format(steps=len(complete), overall=text, units=units)
    return Artifact(f"exponents_{model}", f"Growth exponent ({model}, {look.label})", caption, runs, data, figure)
