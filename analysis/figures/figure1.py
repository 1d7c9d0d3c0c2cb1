"""Figure 1: spread of the cumulative log-ratio and clip rates along a response."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import style
from analysis.artifacts import Artifact
from analysis.growth import Growth, clip_rates, measure_growth
from analysis.inputs import Sweep
from analysis.position_sums import ADAPTIVE, FIXED, PositionSums
from analysis.statistics.intervals import FloatArray, Interval

WINDOWS = (
    ("fixed", "fixed window [0.5, 5]", FIXED, style.FIXED_COLOUR, "s"),
    ("adaptive", "adaptive window", ADAPTIVE, style.ADAPTIVE_COLOUR, "o"),
)


def make(sweep: Sweep, model: str, method: str) -> Artifact:
    """One column per step: standard deviation above, clip rates below."""
    runs, found, why = sweep.shown_sums(model, method)
    measured = [(step, sums, measure_growth(sums)) for step, sums in found]
    shared: dict[str, Any] = {"sharex": True, "sharey": "row"}
    figure, axes = style.panels(2, len(measured), 2 * style.ROW + 0.75, **shared)
    counts_axes = [_draw_spread(axes[0, i], growth) for i, (_, _, growth) in enumerate(measured)]
    for other in counts_axes[1:]:
        other.sharey(counts_axes[0])
    tables, fits = [], []
    for column, (step, sums, growth) in enumerate(measured):
        rates = {name: clip_rates(sums, window) for name, _, window, _, _ in WINDOWS}
        _draw_rates(axes[1, column], growth, rates)
        axes[0, column].set_title(f"step {step}: $b$ = {growth.free[1].text()}", loc="left")
        tables.append(_numbers(step, growth, rates))
        fits.append(_fit_sentence(step, growth, sums))
    _label(figure, axes, counts_axes)
    data = pd.concat(tables)
    spreads = data[["std", "predicted_from_increments"]].max(axis=1).to_numpy()
    rates_shown = data[[f"clip_rate_{name}" for name, *_ in WINDOWS]].max(axis=1).to_numpy()
    responses = data["responses"].to_numpy()
    axes[0, 0].set_ylim(0, max(1e-9, axis_top(spreads, responses)))
    share_axis(axes[1, 0], rates_shown, responses)
    return Artifact(
        f"figure1_{model}_{method}",
        f"Figure 1 ({model}, {style.look(method).label})",
        " ".join([_CAPTION, why, *fits]),
        runs,
        data,
        figure,
    )


#: More bins than this are drawn as a line.
MAX_POINTS = 25
#: Bins that fewer responses reach than this, as a share of the first bin's and at all, are not drawn.
LEAST_SHARE, LEAST_RESPONSES = 0.02, 3.0

_CAPTION = (
    "Top: standard deviation of the cumulative log-ratio over the responses that reach a position (pooled over "
    "a bin of positions; bars or band: 95 % interval, delete-a-group jackknife over prompts), the fits sigma "
    "sqrt(t) and sigma t^b (least squares of the logarithms, weights: tokens; shaded: the second +-20 %), the "
    "robust scale IQR/1.349, and the root of the summed variances of the increments. The points follow that "
    "root if increments are uncorrelated and as volatile in responses that end early as in others. Grey, right "
    "axis: responses that reach the position. Noise floor: the first update of each step, before the policy has"
    " moved; it is in no other curve, and bins where it exceeds a fifth of the points are hollow and not "
    "fitted. Bottom: share of tokens that each window would clip in this same run, whatever window the run "
    "trained with. Bins that fewer than 2 % of the responses, or fewer than 3, reach are not drawn; bars may "
    "end outside of the panel. Both are in the CSV."
)


def _draw_spread(axis: Any, growth: Growth) -> Any:
    shown = drawn_bins(growth.responses)
    at, spread = growth.positions[shown], Interval(*(part[shown] for part in growth.std))
    counts = axis.twinx()
    counts.fill_between(growth.positions, growth.responses, step="mid", color=style.LIGHT_GREY, alpha=0.35, lw=0)
    counts.set_ylim(bottom=0)
    counts.grid(False)
    axis.set_zorder(counts.get_zorder() + 1)
    axis.patch.set_visible(False)
    few = len(at) <= MAX_POINTS
    robust = {"marker": "x", "ls": "", "ms": 3.5, "mew": 0.9} if few else {"ls": (0, (6, 1, 1, 1)), "lw": 0.8}
    axis.plot(at, growth.robust[shown], color=style.GREY, label="IQR / 1.349", **robust)
    draw_points(axis, at, spread, color="black", marker="o", label=r"std of $\log\rho_t$")
    hollow = growth.noisy[shown]
    axis.plot(at[hollow], spread.estimate[hollow], "o", color="white", mec="black", ms=2.6, zorder=4)
    axis.plot(at, growth.noise[shown], "-", color=style.GREY, lw=0.8, label="noise floor")
    # Fits lie over a line, but under points.
    fits = {"zorder": 1.9 if few else 2.5}
    square_root = float(growth.sigma.estimate) * np.sqrt(at)
    power = growth.fitted[shown]
    axis.plot(at, growth.predicted[shown], ":", color=style.GREY, label="from variances of increments", **fits)
    axis.fill_between(at, 0.8 * power, 1.2 * power, color=style.POWER_LAW_COLOUR, alpha=0.12, lw=0)
    axis.plot(at, power, "-", color=style.POWER_LAW_COLOUR, label=r"fit $\sigma t^{b}$", **fits)
    axis.plot(at, square_root, "--", color=style.SQUARE_ROOT_COLOUR, label=r"fit $\sigma\sqrt{t}$", **fits)
    return counts


def _draw_rates(axis: Any, growth: Growth, rates: dict[str, Interval]) -> None:
    shown = drawn_bins(growth.responses)
    at = growth.positions[shown]
    for index, (name, label, _, colour, marker) in enumerate(WINDOWS):
        rate = Interval(*(part[shown] for part in rates[name]))
        draw_points(axis, aside(at, index), rate, color=colour, marker=marker, label=label, line="-")


def drawn_bins(responses: FloatArray) -> NDArray[np.bool_]:
    """Which bins enough responses reach to be drawn."""
    return responses >= max(LEAST_RESPONSES, LEAST_SHARE * float(responses.max(initial=0.0)))


def aside(at: FloatArray, index: int) -> FloatArray:
    """Positions moved a little, so that the bars of the second curve do not hide those of the first."""
    if len(at) > MAX_POINTS or len(at) < 2:
        return at
    return at + (index - 0.5) * 0.2 * float(np.median(np.diff(at)))


def draw_points(
    axis: Any, at: FloatArray, values: Interval, *, color: str, marker: str, label: str, line: str = ""
) -> None:
    """Points with bars; a line in a band where there are too many of them to be told apart."""
    if len(at) > MAX_POINTS:
        axis.fill_between(at, values.low, values.high, color=color, alpha=0.2, lw=0)
        axis.plot(at, values.estimate, "-", color=color, lw=0.9, label=label)
        return
    bars = np.nan_to_num(np.abs(np.array([values.estimate - values.low, values.high - values.estimate])))
    looks = {"color": color, "ms": 2.6, "elinewidth": 0.7, "lw": 0.9, "label": label}
    axis.errorbar(at, values.estimate, yerr=bars, fmt=f"{marker}{line}", **looks)


def share_axis(axis: Any, shares: FloatArray, responses: FloatArray) -> None:
    """Limits and labels of an axis of clipped shares; a little room below 0, so that points there are whole."""
    top = max(0.001, axis_top(shares, responses))
    axis.set_ylim(-0.04 * top, top)
    axis.yaxis.set_major_formatter(style.percent)


def axis_top(values: FloatArray, responses: FloatArray) -> float:
    """Upper end of an axis: above every estimate that more than a few responses stand behind.

    Not above every bar: one wide interval at the few longest responses must not flatten all the rest.
    """
    counted = values[drawn_bins(responses)]
    return 1.25 * float(np.nanmax(counted, initial=0.0))


def _label(figure: Any, axes: Any, counts_axes: list[Any]) -> None:
    for index, counts in enumerate(counts_axes):
        last = index == len(counts_axes) - 1
        counts.tick_params(right=last, labelright=last, labelcolor=style.GREY, color=style.LIGHT_GREY)
    counts_axes[-1].set_ylabel("responses", color=style.GREY)
    axes[0, 0].set_ylabel(r"std of $\log\rho_t$")
    axes[1, 0].set_ylabel("clipped tokens")
    for axis in axes[1]:
        axis.set_xlabel("position $t$ (model tokens)")
    for axis in axes.flat:
        axis.set_xlim(left=0)
    handles = [*axes[0, 0].get_legend_handles_labels()[0], *axes[1, 0].get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def _fit_sentence(step: int, growth: Growth, sums: PositionSums) -> str:
    ratio = growth.against_increments.text()
    return (
        f"Step {step}: sigma = {growth.sigma.text(4)} (sqrt law), b = {growth.free[1].text(3)} ({_misfit(growth)}), "
        f"b = {growth.within_exponent:.3f} about the mean of each update, std {ratio} times that from increments, "
        f"n = {sums.responses} responses, {growth.groups} prompt groups."
    )


def _misfit(growth: Growth) -> str:
    """Where the points lie farthest below and above the fitted power."""
    shown = drawn_bins(growth.responses) & ~growth.noisy & np.isfinite(growth.misfit)
    if not shown.any():
        return "no fit"
    at, misfit = growth.positions[shown], 100 * growth.misfit[shown]
    ends = (int(np.argmin(misfit)), int(np.argmax(misfit)))
    return "points " + " to ".join(f"{misfit[end]:+.0f} % of it at t = {at[end]:.0f}" for end in ends)


def _numbers(step: int, growth: Growth, rates: dict[str, Interval]) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "step": step,
        "position": growth.positions,
        "responses": growth.responses,
        "std": growth.std.estimate,
        "std_low": growth.std.low,
        "std_high": growth.std.high,
        "robust_scale": growth.robust,
        "predicted_from_increments": growth.predicted,
        "fit_sqrt": float(growth.sigma.estimate) * np.sqrt(growth.positions),
        "fit_power": growth.fitted,
        "within_updates": growth.within,
        "noise_floor": growth.noise,
        "fitted": ~growth.noisy,
    }
    fits = (
        ("sigma_sqrt", growth.sigma),
        ("sigma_power", growth.free[0]),
        ("exponent", growth.free[1]),
        ("std_over_increments", growth.against_increments),
    )
    intervals = [*((f"clip_rate_{name}", rate) for name, rate in rates.items()), *fits]
    for name, interval in intervals:
        columns |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return pd.DataFrame(columns)
