"""The cumulative ratio itself along a response: its mean, its variance, and how many samples its weights are worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis import style
from analysis.artifacts import Artifact
from analysis.figures.figure1 import draw_points, drawn_bins
from analysis.inputs import Sweep
from analysis.ratio_moments import RatioMoments, measure_ratios

_CAPTION = (
    "Top: mean of rho_t over the responses that reach t. It is 1 in expectation (Proposition 1) while both "
    "policies end responses alike, and the ratio of their chances to reach t otherwise; early in a response it "
    "leaves 1 only where sampling is truncated, temperatures differ or log-probabilities are wrong. Middle: "
    "variance of rho_t, and the product formula for uncorrelated increments, exp(sum of their variances) - 1 "
    "(Proposition 2's growth). Bottom: effective sample size of the weights rho_t, as a share of the tokens. "
    "Bars or band: 95 % interval, delete-a-group jackknife over prompts, over seeds where that is wider. Ratios"
    " are guarded at exp(10), as in the objective. The first update of a step is left out."
)


def make(sweep: Sweep, model: str, method: str) -> Artifact:
    """One column per step."""
    runs, found, why = sweep.shown_sums(model, method)
    measured = [(step, measure_ratios(sums)) for step, sums in found]
    figure, axes = style.panels(3, len(measured), 3 * style.ROW, sharex=True, sharey="row")
    tables = []
    for column, (step, moments) in enumerate(measured):
        _draw(axes[:, column], moments)
        axes[0, column].set_title(f"step {step}", loc="left")
        axes[2, column].set_xlabel("position $t$ (model tokens)")
        tables.append(_numbers(step, moments))
    for axis, label in zip(axes[:, 0], (r"mean of $\rho_t$", r"variance of $\rho_t$", "effective share"), strict=True):
        axis.set_ylabel(label)
        axis.set_xlim(left=0)
    handles = [*axes[0, 0].get_legend_handles_labels()[0], *axes[1, 0].get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    guarded = ", ".join(f"{moments.guarded} in step {step}" for step, moments in measured)
    caption = f"{_CAPTION} {why} Guarded tokens: {guarded}."
    title = f"Cumulative ratios ({model}, {style.look(method).label})"
    return Artifact(f"ratios_{model}_{method}", title, caption, runs, pd.concat(tables), figure)


def _draw(axes: Any, moments: RatioMoments) -> None:
    shown = drawn_bins(moments.responses)
    at = moments.positions[shown]
    parts = (moments.mean, moments.variance, moments.effective_share)
    labels = (r"of $\rho_t$", None, None)
    for axis, part, label in zip(axes, parts, labels, strict=True):
        values = part.at(shown)
        draw_points(axis, at, values, color="black", marker="o", label=label or "_", line="-")
    axes[0].axhline(1.0, color=style.GREY, ls="--", lw=0.8)
    axes[1].plot(at, moments.product[shown], ":", color=style.SQUARE_ROOT_COLOUR, label="product formula")
    axes[2].set_ylim(0, 1.05)


def _numbers(step: int, moments: RatioMoments) -> pd.DataFrame:
    columns: dict[str, Any] = {"step": step, "position": moments.positions, "responses": moments.responses}
    named = {"mean": moments.mean, "variance": moments.variance, "effective_share": moments.effective_share}
    for name, interval in named.items():
        columns |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return pd.DataFrame({**columns, "variance_by_product": moments.product, "guarded": np.int64(moments.guarded)})
