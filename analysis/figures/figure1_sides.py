"""Companion of Figure 1: clipping from above and from below apart."""

from __future__ import annotations

import pandas as pd

from analysis import style
from analysis.artifacts import Artifact
from analysis.figures.figure1 import WINDOWS, aside, draw_points, drawn_bins, share_axis
from analysis.growth import clip_rates, measure_growth
from analysis.inputs import Sweep
from analysis.statistics.intervals import Interval

SIDES = (("high", "clipped high ($A > 0$)"), ("low", "clipped low ($A < 0$)"))

_CAPTION = (
    "Share of tokens clipped from above (positive advantage, ratio over the window) and from below "
    "(negative advantage, ratio under it), by position, under the fixed window [0.5, 5] and the "
    "adaptive one, in the same run. Bars or band: 95 % interval, delete-a-group jackknife over prompts. "
    "The two rows, on axes of their own, add up to Figure 1's lower row; the same bins are drawn."
)


def make(sweep: Sweep, model: str, method: str) -> Artifact:
    """One column per step, one row per side."""
    runs, columns, why = sweep.shown_sums(model, method)
    figure, axes = style.panels(2, len(columns), 2 * style.ROW + 0.4, sharex=True, sharey="row")
    tables = []
    for column, (step, sums) in enumerate(columns):
        growth = measure_growth(sums)
        shown = drawn_bins(growth.responses)
        for row, (side, label) in enumerate(SIDES):
            axis = axes[row, column]
            for index, (name, legend, window, colour, marker) in enumerate(WINDOWS):
                rate = clip_rates(sums, window, side)
                at, drawn = aside(growth.positions[shown], index), Interval(*(part[shown] for part in rate))
                draw_points(axis, at, drawn, color=colour, marker=marker, label=legend, line="-")
                values = {
                    "responses": growth.responses,
                    "rate": rate.estimate,
                    "low": rate.low,
                    "high": rate.high,
                }
                tables.append(
                    pd.DataFrame({"step": step, "side": side, "window": name, "position": growth.positions, **values})
                )
            if column == 0:
                axis.set_ylabel(label)
        axes[0, column].set_title(f"step {step}", loc="left")
        axes[1, column].set_xlabel("position $t$ (model tokens)")
    data = pd.concat(tables)
    axes[0, 0].set_xlim(left=0)
    for row, (side, _) in enumerate(SIDES):
        rows = data[data["side"] == side]
        share_axis(axes[row, 0], rows["rate"].to_numpy(), rows["responses"].to_numpy())
    figure.legend(handles=axes[0, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=2)
    title = f"Figure 1, clipped high and low ({model}, {style.look(method).label})"
    return Artifact(f"figure1_sides_{model}_{method}", title, f"{_CAPTION} {why}", runs, data, figure)
