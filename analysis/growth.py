"""How the cumulative log-ratio spreads, and how often it is clipped, along a response: Figure 1's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from analysis.position_sums import PositionSums, Sums, Window, histogram_edges
from analysis.statistics.histograms import robust_scale
from analysis.statistics.intervals import FloatArray, Interval, t_interval, wider
from analysis.statistics.jackknife import delete_group_jackknife, group_variance
from analysis.statistics.power_law import BinnedPositions, fit_power_law, fit_scale

#: A bin takes no part in fits where its spread before the policy has moved is more than this share of that afterwards.
NOISE_SHARE = 0.2
#: At most this many steps, evenly spread over a run, stand for all of it.
MAX_STEPS = 12
#: Positions of the local exponents: first and last, the last one exclusive.
RANGES = ((1, 16), (16, 64), (64, None))


@dataclass(frozen=True)
class Growth:
    """Per position bin (`[bins]`), for bins that hold tokens; fits over those that are not `noisy`.

    Attributes:
        positions: mean position of the bin's tokens.
        responses: tokens per position, averaged over the bin: how many responses are still going on.
        std: pooled over the bin, with its interval.
        robust: IQR / 1.349.
        predicted: root of the increments' summed variances. `std` follows it if increments are uncorrelated, and as
            volatile in responses that end early as in others.
        within: as `std`, about the mean of each update instead of the mean of all.
        noise: of the first update, before the policy has moved.
        noisy: bool, where `noise` is more than `NOISE_SHARE` of `std`.
        fitted: `sigma * t**exponent`, pooled over the bin as `std` is.
        sigma: of `sigma * sqrt(t)`, with its interval.
        free: `(sigma, exponent)` of `sigma * t**exponent`, each with its interval.
        within_exponent: of `within`.
        against_increments: `std` over `predicted`, root mean square over all tokens, with its interval.
        groups: prompt groups behind the intervals; 0 where the records give none.
    """

    positions: FloatArray
    responses: FloatArray
    std: Interval
    robust: FloatArray
    predicted: FloatArray
    within: FloatArray
    noise: FloatArray
    noisy: NDArray[np.bool_]
    fitted: FloatArray
    sigma: Interval
    free: tuple[Interval, Interval]
    within_exponent: float
    against_increments: Interval
    groups: int

    @property
    def misfit(self) -> FloatArray:
        """`std / fitted - 1`, by bin."""
        return self.std.estimate / self.fitted - 1


@lru_cache(maxsize=64)
def measure_growth(sums: PositionSums) -> Growth:
    """Everything about the spread of one step's cumulative log-ratio, or of several steps' that were added up.

    Intervals are clustered by prompt; of several seeds, by seed where that is wider. So are all in this module.
    """
    binned = BinnedPositions(sums.positions.count.astype(np.float64), sums.bin_width)
    bins = sums.bins
    filled = bins.count > 1
    noise = np.nan_to_num(sums.updates[:1].total().std)
    noisy = noise > NOISE_SHARE * np.nan_to_num(bins.std)
    without, sizes = leave_one_out(sums)
    std = delete_group_jackknife(bins.std, without.std, sizes)
    whole, parts = (_fits(cells, binned, noisy) for cells in (bins, without))
    seeds = [measure_growth(seed) for seed in sums.seeds]
    by_seed = [
        [seed.sigma.estimate for seed in seeds],
        [seed.free[0].estimate for seed in seeds],
        [seed.free[1].estimate for seed in seeds],
        [seed.against_increments.estimate for seed in seeds],
    ]
    sigma, free_sigma, exponent, ratio = (
        wider(delete_group_jackknife(estimate, part, sizes.sum(1)), np.array(one))
        for estimate, part, one in zip(whole, parts, by_seed, strict=True)
    )
    std = wider(std, np.array([seed.bins.std for seed in sums.seeds]))
    within = _within_updates(sums)
    weights = np.where(noisy, 0.0, bins.count)
    return Growth(
        positions=binned.centres[filled],
        responses=(bins.count / sums.bin_width)[filled],
        std=Interval(std.estimate[filled], np.maximum(std.low, 0.0)[filled], std.high[filled]),
        robust=robust_scale(sums.histogram[0], histogram_edges())[filled],
        predicted=predicted_std(sums.positions, binned)[filled],
        within=within[filled],
        noise=noise[filled],
        noisy=noisy[filled],
        fitted=(free_sigma.estimate * np.exp(binned.log_growth(np.nan_to_num(exponent.estimate))))[filled],
        sigma=sigma.clipped(0.0, np.inf),
        free=(free_sigma, exponent),
        within_exponent=float(fit_power_law(within, weights, binned).exponent),
        against_increments=ratio,
        groups=len(sizes),
    )


def local_exponents(sums: PositionSums) -> list[Interval]:
    """Exponent of the spread by single positions, in each of `RANGES`; bounds from seeds, where there are several."""
    found = []
    for first, last in RANGES:
        part = slice(first - 1, None if last is None else last - 1)

        def exponent(one: PositionSums, part: slice = part) -> float:
            positions = BinnedPositions(one.positions.count.astype(np.float64), 1)
            noisy = np.nan_to_num(one.first.std) > NOISE_SHARE * np.nan_to_num(one.positions.std)
            weights = np.zeros(len(positions.counts))
            weights[part] = np.where(noisy, 0.0, positions.counts)[part]
            return float(fit_power_law(one.positions.std, weights, positions).exponent)

        found.append(t_interval(exponent(sums), np.array([exponent(seed) for seed in sums.seeds])))
    return found


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


def overall_rate(sums: PositionSums, window: Window, part: slice = slice(None)) -> Interval:
    """Share of tokens clipped under `window`, of all bins or of those in `part`."""
    without, sizes = leave_one_out(sums)
    whole, parts = (_overall_rate(cells, window, part) for cells in (sums.bins, without))
    seeds = np.array([_overall_rate(seed.bins, window, part) for seed in sums.seeds])
    return wider(delete_group_jackknife(whole, parts, sizes.sum(1)), seeds).clipped(0.0, 1.0)


def flatness_difference(sums: PositionSums, window: Window, other: Window) -> Interval:
    """Squared coefficient of variation of the clip rate over bins under `window` minus that under `other`.

    Rates of rare clips scatter, which looks like unevenness: what their noise adds on average is subtracted. That is
    the bins' own noise less what all bins share, because a response that is clipped often stays so to its end.
    """
    without, sizes = leave_one_out(sums)
    positions = BinnedPositions(sums.positions.count.astype(np.float64), sums.bin_width).centres

    def raw(cells: Sums) -> FloatArray:
        squares = [_unevenness(cells, which, positions)[1] ** 2 for which in (window, other)]
        return squares[0] - squares[1]

    def noise(which: Window) -> FloatArray:
        rate, weights = sums.bins.clip_rate(which), sums.bins.count / sums.bins.count.sum()
        variance = np.nan_to_num(group_variance(rate, without.clip_rate(which), sizes))
        overall = _overall_rate(sums.bins, which)
        shared = group_variance(overall, _overall_rate(without, which), sizes.sum(1))
        with np.errstate(invalid="ignore", divide="ignore"):
            return ((weights * variance).sum() - shared) / overall**2

    added = noise(window) - noise(other)
    seeds = np.array([flatness_difference(seed, window, other).estimate for seed in sums.seeds])
    estimate, low, high = delete_group_jackknife(raw(sums.bins), raw(without), sizes.sum(1))
    return wider(Interval(estimate - added, low - added, high - added), seeds)


def _overall_rate(cells: Sums, window: Window, part: slice = slice(None)) -> FloatArray:
    high, low = cells.clip_counts(window)
    return (high + low)[..., part].sum(-1) / cells.count[..., part].sum(-1)


def _unevenness(cells: Sums, window: Window, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
    weights = cells.count / cells.count.sum(-1, keepdims=True)
    rate, at = np.nan_to_num(cells.clip_rate(window)), np.nan_to_num(positions)
    mean = (weights * rate).sum(-1, keepdims=True)
    centred = at - (weights * at).sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = 100 * (weights * centred * rate).sum(-1) / (weights * centred**2).sum(-1)
        variation = np.sqrt((weights * (rate - mean) ** 2).sum(-1)) / mean[..., 0]
    return slope, variation


def leave_one_out(sums: PositionSums) -> tuple[Sums, FloatArray]:
    """Sums without one group of prompts, and that group's tokens, each `[groups, bins]`.

    Empty folds are no groups. There are none at all where the folds do not add up to the whole.
    """
    bins, folds = sums.bins, sums.folds
    adds_up = np.array_equal(folds.count.sum(0), bins.count)
    folds = folds[folds.count.sum(1) > 0] if adds_up else folds[:0]
    without = Sums(bins.sums[:, None] - folds.sums, bins.counts[:, None] - folds.counts, bins.windows)
    return without, folds.count.astype(np.float64)


def predicted_std(positions: Sums, binned: BinnedPositions) -> FloatArray:
    """Root of the increments' variances summed up to each position; root mean square over a bin's tokens."""
    variance = np.cumsum(np.nan_to_num(positions.token_variance))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(binned.per_bin(positions.count * variance) / binned.per_bin(binned.counts))


def _within_updates(sums: PositionSums) -> FloatArray:
    """Standard deviation about each update's own mean, `[bins]`: variances averaged by their degrees of freedom."""
    squares, freedom = np.zeros(sums.layout.bins), np.zeros(sums.layout.bins)
    for one in sums.apart or (sums,):  # an update of one step of one run
        later = one.updates[1:]
        squares += (np.maximum(later.count - 1, 0) * np.nan_to_num(later.std**2)).sum(0)
        freedom += np.maximum(later.count - 1, 0).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(squares / freedom)


def _fits(cells: Sums, binned: BinnedPositions, noisy: NDArray[np.bool_]) -> tuple[FloatArray, ...]:
    """sigma of the square root, sigma and exponent of the power, and the spread against the increments', `[...]`."""
    std, weights = cells.std, np.where(noisy, 0.0, cells.count)
    free = fit_power_law(std, weights, binned)
    return fit_scale(std, weights, binned, 0.5), free.sigma, free.exponent, _against_increments(cells, binned.width)


def _against_increments(cells: Sums, width: int) -> FloatArray:
    """Root of the tokens' variances over that of the variances predicted from increments, from bins alone.

    Increments of a bin's positions count as equally volatile; so does the prediction of the prompts left out.
    """
    volatility = np.nan_to_num(cells.token_variance)
    predicted = width * (np.cumsum(volatility, -1) - volatility) + (width + 1) / 2 * volatility
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (cells.count * np.nan_to_num(cells.std**2)).sum(-1)
        return np.sqrt(observed / (cells.count * predicted).sum(-1))
