"""The theory's figures: estimators against off-policyness, horizon and window, and growth laws of log rho_t."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis import style
from analysis.artifacts import Artifact
from analysis.theory import ADVANTAGES, COMMAND, RATIOS, ZERO, Theory, setting, sources

#: Each ratio is drawn as the method that is named for it.
_RATIO_LOOKS = {
    "token": ("token", "grpo"),
    "length_normalized": ("length-normalised sequence", "gspo"),
    "sequence": ("full sequence", "full_sequence"),
    "cumulative": ("cumulative", "ctpo"),
}
_COLUMNS = ("seed", "vocabulary", "horizon", "kl", "batch", "advantage", "estimator", "clipping", "position")
_QUANTITIES = (("bias", "bias"), ("variance", "variance"), ("mse_batch", "MSE, {batch} responses"))
_ROWS = (
    ("token", "none", "token-level $A$\nno clipping"),
    ("outcome", "none", "outcome-level $A$\nno clipping"),
    ("outcome", "window", "outcome-level $A$\nclipped"),
)
_CAPTION = (
    "Bias (norm), variance (trace of the covariance, one response) and mean squared error (average of {batch} "
    "responses) of the four importance-weighted gradient estimators, relative to the norm of the true policy "
    "gradient, against {against}. Line: median over random problems; band: quartiles. Top: exact token-level "
    "advantages, as in Proposition 1; middle: outcome-level advantages, as in practice; bottom: these with a window "
    "of {deviations} standard deviations of each ratio's own logarithm. A bias of exactly 0 is not on a logarithmic "
    "axis and is named instead. {sources}"
)


def off_policyness(theory: Theory) -> Artifact:
    """The estimators against the distance of the two policies."""
    return _estimators(theory, "off_policyness", "kl", "KL(old || new), nats per response", "off-policyness")


def horizon(theory: Theory) -> Artifact:
    """The estimators against the length of a response."""
    return _estimators(theory, "horizon", "horizon", "horizon $T$, tokens", "horizon")


def _estimators(theory: Theory, name: str, axis: str, label: str, against: str) -> Artifact:
    columns = (*_COLUMNS, "window_deviations", *(quantity for quantity, _ in _QUANTITIES))
    table = theory.read(f"theory_{name}", columns)
    batch = setting(table, "batch")
    figure, axes = style.panels(3, 3, 3 * style.ROW, sharex=True)
    summaries = []
    for row, (advantage, clipping, title) in enumerate(_ROWS):
        chosen = table[(table["advantage"] == advantage) & (table["clipping"] == clipping)]
        for column, (quantity, what) in enumerate(_QUANTITIES):
            summary = _quartiles(chosen, ["estimator", axis], quantity)
            _draw_ratios(axes[row, column], summary, axis)
            summaries.append(summary.assign(advantage=advantage, clipping=clipping, quantity=quantity))
            if row == 0:
                axes[row, column].set_title(what.format(batch=batch))
        axes[row, 0].set_ylabel(title)
    for lowest in axes[-1]:
        lowest.set_xlabel(label)
    figure.legend(handles=_handles(axes[0, 1]), loc="outside lower center", ncols=4)
    caption = _CAPTION.format(
        batch=batch,
        against=label.replace("$", ""),
        deviations=setting(table, "window_deviations"),
        sources=sources(table),
    )
    return Artifact(
        f"theory_{name}", f"Bias, variance and MSE against {against}", caption, [], pd.concat(summaries), figure
    )


def _quartiles(table: pd.DataFrame, by: list[str], quantity: str) -> pd.DataFrame:
    shares = {"low": 0.25, "median": 0.5, "high": 0.75}
    grouped = table.groupby(by, sort=True)[quantity]
    return pd.DataFrame({name: grouped.quantile(share) for name, share in shares.items()}).reset_index()


def _draw_ratios(axis: Any, summary: pd.DataFrame, along: str) -> None:
    unbiased = []
    for ratio in RATIOS:
        label, method = _RATIO_LOOKS[ratio]
        rows = summary[summary["estimator"] == ratio]
        if (rows["median"] < ZERO).all():
            unbiased.append(label)
            continue
        look = style.look(method)
        axis.plot(rows[along], rows["median"], color=look.colour, ls=look.dash, marker=look.marker, ms=2.8, label=label)
        low = rows["low"].clip(lower=1e-3 * float(rows["median"].min()))
        axis.fill_between(rows[along], low, rows["high"], color=look.colour, alpha=0.12, lw=0)
    axis.set_yscale("log")
    style.plain_log(axis.yaxis)
    shown = summary["median"][summary["median"] >= ZERO]
    # The lines set the limits: one quartile near 0 must not flatten them all.
    axis.set_ylim(float(shown.min()) / 2.5, float(shown.max()) * 2.5)
    if along == "kl":
        axis.set_xscale("log")
    if unbiased:
        names = ",\n".join(unbiased)
        axis.annotate(f"{names}: 0", (0.97, 0.05), xycoords="axes fraction", ha="right", va="bottom", fontsize=7)


def _handles(axis: Any) -> list[Any]:
    handles: list[Any] = axis.get_legend_handles_labels()[0]
    return handles


_WINDOWS = (
    (0.5, r"window $\propto \sqrt{t}$", style.ADAPTIVE_COLOUR, "o", "-"),
    (0.0, "same window at every $t$", style.FIXED_COLOUR, "s", (0, (4, 1.5))),
)
_WINDOW_CAPTION = (
    "The cumulative ratio's gradient estimate under windows of several widths (points; {widths} standard deviations "
    "of log rho_t), against the share of tokens that they clip: growing as sqrt(t), or the same at every position. "
    "Medians over random problems at {kl} nats per response. A window drops tokens whose probability already moved "
    "the right way: bias that more samples do not remove. {sources}"
)


def window(theory: Theory) -> Artifact:
    """The cumulative ratio's estimate against the share of tokens that a window clips."""
    quantities = [quantity for quantity, _ in _QUANTITIES]
    columns = ("seed", "vocabulary", "horizon", "kl", "batch", "advantage", "power", "deviations", "clip_rate")
    table = theory.read("theory_window", (*columns, *quantities))
    medians = table.groupby(["advantage", "power", "deviations"])[["clip_rate", *quantities]].median().reset_index()
    figure, axes = style.panels(2, 3, 2 * style.ROW + 0.3, sharex=True)
    for row, (advantage, name) in enumerate(ADVANTAGES.items()):
        for column, (quantity, what) in enumerate(_QUANTITIES):
            axis = axes[row, column]
            for power, label, colour, marker, dash in _WINDOWS:
                points = medians[(medians["advantage"] == advantage) & (medians["power"] == power)]
                points = points.sort_values("clip_rate")
                axis.plot(
                    points["clip_rate"], points[quantity], color=colour, marker=marker, ls=dash, ms=2.8, label=label
                )
            axis.set_ylim(bottom=0)
            axis.xaxis.set_major_formatter(style.percent)
            if row == 0:
                axis.set_title(what.format(batch=setting(table, "batch")))
        axes[row, 0].set_ylabel(f"{name} $A$")
    for lowest in axes[-1]:
        lowest.set_xlabel("clipped tokens")
    figure.legend(handles=_handles(axes[0, 0]), loc="outside lower center", ncols=2)
    widths = ", ".join(f"{width:g}" for width in sorted(table["deviations"].unique()))
    caption = _WINDOW_CAPTION.format(widths=widths, kl=setting(table, "kl"), sources=sources(table))
    return Artifact("theory_window", "What clipping does to the cumulative ratio", caption, [], medians, figure)


_GROUPS = (
    ("tails", ("independent", "heavy_tailed", "infinite_variance")),
    ("correlation", ("autocorrelated", "long_memory", "shared_drift", "mean_reverting")),
    ("size by position", ("growing_increments", "shrinking_increments")),
    ("who stops", ("stops_whenever", "stops_when_far", "volatile_live_longer", "volatile_die_sooner")),
)
_COLOURS = (style.SQUARE_ROOT_COLOUR, style.ADAPTIVE_COLOUR, style.FIXED_COLOUR, style.POWER_LAW_COLOUR)
_WALK_CAPTION = (
    "Simulated standard deviation of log rho_t over the responses that reach position t, divided by its value at "
    "t = 1, when one assumption at a time is dropped; thin lines: closed forms, where there are any; grey: sqrt(t). "
    "Positions that fewer than 20 responses reach are left out. Without a variance (infinite_variance) the robust "
    "scale IQR / 1.349 is shown instead. `{command}`, {responses} responses per scenario, seed {seed}."
)


def random_walk(theory: Theory) -> Artifact:
    """The spread of log rho_t by position where one assumption is dropped."""
    columns = ("scenario", "assumption", "exponent", "seed", "position", "responses", "std", "robust", "exact_std")
    table = theory.read("theory_random_walk", columns)
    figure, axes = style.panels(2, 2, 2 * style.ROW + 0.9, sharex=True, sharey=True)
    for axis, (title, names) in zip(axes.flat, _GROUPS, strict=True):
        axis.set_title(title)
        at = np.geomspace(1, table["position"].max(), 50)
        axis.plot(at, np.sqrt(at), color=style.LIGHT_GREY, lw=2.5, zorder=1)
        for name, colour, marker in zip(names, _COLOURS, "osD^", strict=False):
            rows = table[table["scenario"] == name]
            known = rows["exact_std"].notna().all()
            column = "std" if known or name != "infinite_variance" else "robust"
            first = float(rows[column].iloc[0])
            label = f"{name.replace('_', ' ')} ($b \\to {rows['exponent'].iloc[0]:.2g}$)"
            axis.plot(rows["position"], rows[column] / first, marker, color=colour, ms=2.2, label=label)
            if known:
                unit = float(rows["exact_std"].iloc[0])
                axis.plot(rows["position"], rows["exact_std"] / unit, color=colour, lw=0.8)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.legend(loc="upper left", handletextpad=0.2, borderaxespad=0.2)
    for lowest in axes[-1]:
        lowest.set_xlabel("position $t$")
    for left in axes[:, 0]:
        left.set_ylabel(r"std of $\log\rho_t$, relative")
    caption = _WALK_CAPTION.format(
        command=COMMAND, responses=int(table["responses"].max()), seed=setting(table, "seed")
    )
    title = "Which assumption makes the spread grow as sqrt(t)"
    return Artifact("theory_random_walk", title, caption, [], table, figure)
