"""The cumulative ratio `rho_t` itself along a response: Propositions 1 and 2 on the recorded model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.growth import leave_one_out, predicted_std
from analysis.position_sums import GUARDED, PositionSums
from analysis.statistics.intervals import FloatArray, Interval, wider
from analysis.statistics.jackknife import delete_group_jackknife
from analysis.statistics.power_law import BinnedPositions


@dataclass(frozen=True)
class RatioMoments:
    """Of the cumulative ratio `rho_t`, per position bin (`[bins]`), for bins that hold tokens.

    Attributes:
        positions, responses: as in `Growth`.
        mean: of `rho_t`, with its interval.
        variance: of `rho_t`.
        product: the variance if increments were uncorrelated and normal, `exp(sum of their variances) - 1`.
        effective_share: effective sample size over the tokens.
        guarded: tokens whose ratio is cut at `exp(10)`.
    """

    positions: FloatArray
    responses: FloatArray
    mean: Interval
    variance: Interval
    product: FloatArray
    effective_share: Interval
    guarded: int


def measure_ratios(sums: PositionSums) -> RatioMoments:
    """Mean, variance and effective sample size of the cumulative ratio along a response."""
    binned = BinnedPositions(sums.positions.count.astype(np.float64), sums.bin_width)
    bins, (without, sizes) = sums.bins, leave_one_out(sums)
    filled = bins.count > 1

    def interval(name: str) -> Interval:
        found = delete_group_jackknife(getattr(bins, name), getattr(without, name), sizes)
        return wider(found, np.array([getattr(seed.bins, name) for seed in sums.seeds])).at(filled)

    return RatioMoments(
        binned.centres[filled],
        (bins.count / sums.bin_width)[filled],
        interval("ratio_mean"),
        interval("ratio_variance"),
        np.expm1(predicted_std(sums.positions, binned) ** 2)[filled],
        interval("effective_share").clipped(0.0, 1.0),
        int(bins.counts[GUARDED].sum()),
    )
