"""How a standard deviation grows with position: sigma * t**b, from values pooled over bins of positions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from analysis.statistics.intervals import FloatArray

#: Exponents that a fit may find; one that ends on a bound is no fit.
EXPONENTS = (-1.0, 4.0)
_GRID = np.linspace(*EXPONENTS, 201)
#: From the best exponent of the grid; each step of Gauss and Newton leaves less than a tenth of the distance.
_STEPS = 25


class Fit(NamedTuple):
    """`sigma * t**exponent`, arrays of one shape; NaN where there was nothing to fit."""

    sigma: FloatArray
    exponent: FloatArray


@dataclass(frozen=True)
class BinnedPositions:
    """Which positions a bin's value stands for.

    `counts`: tokens per position, `[max_position]`; bin b holds positions `b * width + 1 .. (b + 1) * width`.
    A pooled standard deviation over a bin mixes positions, so the model is pooled in the same way:
    `sigma * sqrt(mean over the bin's tokens of t**(2 b))`, which is exact for a mean that does not move.
    """

    counts: NDArray[np.float64]
    width: int

    @property
    def bins(self) -> int:
        return -(-len(self.counts) // self.width)

    def per_bin(self, values: FloatArray) -> FloatArray:
        """Sums of `values` (one per position) over each bin."""
        padded = np.zeros(self.bins * self.width)
        padded[: len(values)] = values
        return padded.reshape(self.bins, self.width).sum(1)

    def growth(self, exponent: float) -> FloatArray:
        """Root mean square of `t**exponent` over the tokens of each bin; NaN for an empty bin."""
        positions = np.arange(1, len(self.counts) + 1, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            power = self.per_bin(self.counts * positions ** (2 * exponent)) / self.per_bin(self.counts)
        return np.sqrt(power)

    @cached_property
    def log_growth(self) -> CubicSpline:
        """`log(growth(b))` as a function of b, `[..., bins]`; 0 for an empty bin. Off by less than 1e-9."""
        table = np.array([self.growth(exponent) for exponent in _GRID])
        return CubicSpline(_GRID, np.log(np.where(np.isfinite(table), table, 1.0)))

    @property
    def centres(self) -> FloatArray:
        """Mean position of each bin's tokens."""
        positions = np.arange(1, len(self.counts) + 1, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.per_bin(self.counts * positions) / self.per_bin(self.counts)


def fit_scale(std: FloatArray, weights: FloatArray, positions: BinnedPositions, exponent: float) -> FloatArray:
    """`sigma` `[...]` of `sigma * t**exponent`: weighted least squares of the logarithms; NaN without a usable bin."""
    log_std, shares = _logarithms(std, weights)
    return np.exp((shares * (log_std - positions.log_growth(exponent))).sum(-1))


def fit_power_law(std: FloatArray, weights: FloatArray, positions: BinnedPositions) -> Fit:
    """Weighted least squares of `log std` `[..., bins]` on `log sigma + b log t`, both free.

    Standard deviations scatter by a share of themselves, so it is their logarithms whose errors are alike: a fit of
    `std` itself follows the few longest responses and finds too small an exponent where volatilities differ.

    Args:
        std: of each bin; leading axes are separate fits.
        weights: of each bin, in proportion to its tokens; 0 leaves it out.
        positions: what the bins hold.
    """
    log_std, shares = _logarithms(std, weights)
    scatter = log_std[..., None, :] - positions.log_growth(_GRID)
    coarse = np.argmin(_variance(scatter, shares[..., None, :]), axis=-1)
    exponent = _GRID[coarse]
    for _ in range(_STEPS):
        slope = positions.log_growth(exponent, 1)
        residual = log_std - positions.log_growth(exponent)
        slope = slope - (shares * slope).sum(-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            change = (shares * slope * residual).sum(-1) / (shares * slope**2).sum(-1)
        exponent = np.clip(exponent + np.nan_to_num(change), *EXPONENTS)
    found = ((shares > 0).sum(-1) >= 3) & (coarse > 0) & (coarse < len(_GRID) - 1)
    exponent = np.where(found, exponent, np.nan)
    at = np.where(found, exponent, 0.0)
    sigma = np.exp((shares * (log_std - positions.log_growth(at))).sum(-1))
    return Fit(np.where(found, sigma, np.nan), exponent)


def _logarithms(std: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Logarithms of the usable bins, 0 elsewhere, and their shares of the weight (NaN where no bin is usable)."""
    usable = np.isfinite(std) & (weights > 0)
    usable[usable] = np.asarray(std)[usable] > 0
    kept = np.where(usable, weights, 0.0)
    with np.errstate(invalid="ignore"):
        shares = kept / kept.sum(-1, keepdims=True)
    return np.log(np.where(usable, std, 1.0)), shares


def _variance(values: FloatArray, shares: FloatArray) -> FloatArray:
    mean = (shares * values).sum(-1, keepdims=True)
    return (shares * (values - mean) ** 2).sum(-1)
