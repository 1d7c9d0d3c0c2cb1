"""How the cumulative log-ratio spreads, and how often it is clipped, along a response: Figure 1's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from analysis.position_sums import PositionSums, Sums, Window, histogram_edges
from analysis.statistics.histograms import robust_scale
from analysis.statistics.intervals import FloatArray, Interval, t_interval, wider
from analysis.statistics.jackknife import delete_group_jackknife
from analysis.statistics.power_law import BinnedPositions, fit_power_law, fit_scale


@dataclass(frozen=True)
class Growth:
    """Per position bin (`[bins]`), for bins that hold tokens; fits over all of them.

    Attributes:
        positions: mean position of the bin's tokens.
        responses: tokens per position, averaged over the bin: how many responses are still going on.
        std: pooled over the bin, with its interval.
        robust: IQR / 1.349.
        predicted: what `std` would be if increments were uncorrelated: root of their summed variances.
        sigma: of `sigma * sqrt(t)`, with its interval.
        free: `(sigma, exponent)` of `sigma * t**exponent`, each with its interval.
        groups: prompt groups behind the intervals; 0 where the records give none.
    """

    positions: FloatArray
    responses: FloatArray
    std: Interval
    robust: FloatArray
    predicted: FloatArray
    sigma: Interval
    free: tuple[Interval, Interval]
    groups: int


@lru_cache(maxsize=64)
def measure_growth(sums: PositionSums) -> Growth:
    """Everything about the spread of one step's cumulative log-ratio.

    Intervals are clustered by prompt; of several seeds, by seed where that is wider. So are all in this module.
    """
    binned = BinnedPositions(sums.positions.count.astype(np.float64), sums.bin_width)
    bins = sums.bins
    filled = bins.count > 1
    weights = bins.count.astype(np.float64)
    without, sizes = leave_one_out(sums)
    std = delete_group_jackknife(bins.std, without.std, sizes)
    fits = np.array([_fits(without[group], binned) for group in range(len(sizes))]).reshape(-1, 3)
    whole = np.array(_fits(bins, binned))
    seeds = [measure_growth(seed) for seed in sums.seeds]
    by_seed = np.array([[seed.sigma.estimate, seed.free[0].estimate, seed.free[1].estimate] for seed in seeds])
    sigma, free_sigma, exponent = (
        wider(delete_group_jackknife(whole[column], fits[:, column], sizes.sum(1)), by_seed.reshape(-1, 3)[:, column])
        for column in range(3)
    )
    std = wider(std, np.array([seed.bins.std for seed in sums.seeds]))
    return Growth(
        binned.centres[filled],
        (weights / sums.bin_width)[filled],
        Interval(std.estimate[filled], np.maximum(std.low, 0.0)[filled], std.high[filled]),
        robust_scale(sums.histogram[0], histogram_edges())[filled],
        _predicted_std(sums.positions, binned)[filled],
        sigma,
        (free_sigma, exponent),
        len(sizes),
    )


def clip_rates(sums: PositionSums, window: Window, side: str = "both") -> Interval:
    """Share of tokens clipped under `window`, for the bins of `measure_growth`."""
    bins = sums.bins
    filled = bins.count > 1
    without, sizes = leave_one_out(sums)
    rate = delete_group_jackknife(bins.clip_rate(window, side), without.clip_rate(window, side), sizes)
    rate = wider(rate, np.array([seed.bins.clip_rate(window, side) for seed in sums.seeds]))
    estimate, low, high = rate.clipped(0.0, 1.0)
    return Interval(estimate[filled], low[filled], high[filled])


def uniformity(sums: PositionSums, window: Window) -> tuple[Interval, Interval]:
    """How even clipping is along a response: `(slope, coefficient of variation)` of the clip rate over bins.

    Both weighted by tokens: the slope is the least-squares change of the rate per 100 positions; the
    coefficient is the standard deviation of the bins' rates over their mean (NaN where nothing is clipped).
    Noise of the rates is part of the coefficient, so even clipping does not quite reach 0.
    """
    without, sizes = leave_one_out(sums)
    positions = BinnedPositions(sums.positions.count.astype(np.float64), sums.bin_width).centres
    whole, parts = (_unevenness(cells, window, positions) for cells in (sums.bins, without))
    seeds = np.array([_unevenness(seed.bins, window, positions) for seed in sums.seeds]).reshape(-1, 2)
    slope, variation = (
        wider(delete_group_jackknife(whole[index], parts[index], sizes.sum(1)), seeds[:, index]) for index in range(2)
    )
    return slope, variation


def overall_rate(sums: PositionSums, window: Window) -> Interval:
    """Share of all tokens clipped under `window`."""
    without, sizes = leave_one_out(sums)
    whole, parts = (_overall_rate(cells, window) for cells in (sums.bins, without))
    seeds = np.array([_overall_rate(seed.bins, window) for seed in sums.seeds])
    return wider(delete_group_jackknife(whole, parts, sizes.sum(1)), seeds).clipped(0.0, 1.0)


def flatness_difference(sums: PositionSums, window: Window, other: Window) -> Interval:
    """Coefficient of variation of the clip rate under `window` minus that under `other`."""
    without, sizes = leave_one_out(sums)
    positions = BinnedPositions(sums.positions.count.astype(np.float64), sums.bin_width).centres

    def difference(cells: Sums) -> FloatArray:
        return _unevenness(cells, window, positions)[1] - _unevenness(cells, other, positions)[1]

    seeds = np.array([difference(seed.bins) for seed in sums.seeds])
    return wider(delete_group_jackknife(difference(sums.bins), difference(without), sizes.sum(1)), seeds)


def _overall_rate(cells: Sums, window: Window) -> FloatArray:
    high, low = cells.clip_counts(window)
    return (high + low).sum(-1) / cells.count.sum(-1)


def _unevenness(cells: Sums, window: Window, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
    weights = cells.count / cells.count.sum(-1, keepdims=True)
    rate, at = np.nan_to_num(cells.clip_rate(window)), np.nan_to_num(positions)
    mean = (weights * rate).sum(-1, keepdims=True)
    centred = at - (weights * at).sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = 100 * (weights * centred * rate).sum(-1) / (weights * centred**2).sum(-1)
        variation = np.sqrt((weights * (rate - mean) ** 2).sum(-1)) / mean[..., 0]
    return slope, variation


#: Consecutive groups of steps whose means count as independent: neighbouring steps do not.
STEP_BATCHES = 5


def exponent_over_steps(by_seed: Sequence[Sequence[Growth]]) -> Interval:
    """Mean exponent over the steps of all seeds (`by_seed[seed][step]`), with steps and seeds as units.

    Of several seeds the seeds are the units; of one, batches of consecutive steps, whose scatter holds that of
    the prompts as well. NaN bounds where there are too few steps.
    """
    exponents = [np.array([float(growth.free[1].estimate) for growth in growths]) for growths in by_seed]
    means = np.array([np.nanmean(one) if np.isfinite(one).any() else np.nan for one in exponents])
    estimate = float(np.mean(means))
    if len(means) > 1:
        return t_interval(estimate, means)
    found = exponents[0][np.isfinite(exponents[0])]
    batches = [batch.mean() for batch in np.array_split(found, STEP_BATCHES)] if len(found) >= STEP_BATCHES else []
    return t_interval(estimate, np.array(batches))


def leave_one_out(sums: PositionSums) -> tuple[Sums, FloatArray]:
    """Sums without one group of prompts, and that group's tokens, each `[groups, bins]`.

    Empty folds are no groups. There are none at all where the folds do not add up to the whole.
    """
    bins, folds = sums.bins, sums.folds
    adds_up = np.array_equal(folds.count.sum(0), bins.count)
    folds = folds[folds.count.sum(1) > 0] if adds_up else folds[:0]
    without = Sums(bins.sums[:, None] - folds.sums, bins.counts[:, None] - folds.counts, bins.windows)
    return without, folds.count.astype(np.float64)


def _predicted_std(positions: Sums, binned: BinnedPositions) -> FloatArray:
    """Root of the increments' variances summed up to each position; root mean square over a bin's tokens."""
    variance = np.cumsum(np.nan_to_num(positions.token_variance))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(binned.per_bin(positions.count * variance) / binned.per_bin(binned.counts))


def _fits(cells: Sums, binned: BinnedPositions) -> tuple[float, float, float]:
    std, weights = cells.std, cells.count.astype(np.float64)
    free = fit_power_law(std, weights, binned)
    return fit_scale(std, weights, binned.growth(0.5)), free.sigma, free.exponent
