"""How a standard deviation grows with position: sigma * t**b, from values averaged over bins of positions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from analysis.statistics.intervals import FloatArray

#: Exponents that a fit may find; one that ends on a bound is no fit.
EXPONENTS = (-1.0, 4.0)
_GRID = np.linspace(*EXPONENTS, 201)


class Fit(NamedTuple):
    """`sigma * t**exponent`; NaN where there was nothing to fit."""

    sigma: float
    exponent: float


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
    def growth_on_grid(self) -> FloatArray:
        """`growth` for every exponent of the coarse grid, `[grid, bins]`."""
        return np.array([self.growth(exponent) for exponent in _GRID])

    @property
    def centres(self) -> FloatArray:
        """Mean position of each bin's tokens."""
        positions = np.arange(1, len(self.counts) + 1, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.per_bin(self.counts * positions) / self.per_bin(self.counts)


def fit_scale(std: FloatArray, weights: FloatArray, growth: FloatArray) -> float:
    """Weighted least squares of `std` on `sigma * growth`; NaN without any usable bin."""
    usable = _usable(std, weights, growth)
    moment = float(np.sum(weights[usable] * growth[usable] ** 2))
    return float(np.sum(weights[usable] * std[usable] * growth[usable])) / moment if moment > 0 else np.nan


def fit_power_law(std: FloatArray, weights: FloatArray, positions: BinnedPositions) -> Fit:
    """Weighted least squares of `std` `[bins]` on `sigma * t**b`, both free.

    For each exponent the best sigma is known, which leaves one variable: a coarse grid, then Brent's method
    around its best point.
    """
    usable = _usable(std, weights, positions.growth(0.0))
    if usable.sum() < 3 or not np.any(std[usable] > 0):
        return Fit(np.nan, np.nan)
    std, weights = std[usable], weights[usable] / weights[usable].sum()

    def unexplained(exponent: float) -> float:
        return float(_unexplained(std, weights, positions.growth(exponent)[usable]))

    coarse = int(np.argmin(_unexplained(std, weights, positions.growth_on_grid[:, usable])))
    if coarse in (0, len(_GRID) - 1):
        return Fit(np.nan, np.nan)
    bounds = (_GRID[coarse - 1], _GRID[coarse + 1])
    exponent = float(optimize.minimize_scalar(unexplained, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)
    return Fit(fit_scale(std, weights, positions.growth(exponent)[usable]), exponent)


def _unexplained(std: FloatArray, weights: FloatArray, growth: FloatArray) -> FloatArray:
    explained = np.sum(weights * std * growth, axis=-1) ** 2 / np.sum(weights * growth**2, axis=-1)
    return np.sum(weights * std**2) - explained


def _usable(std: FloatArray, weights: FloatArray, growth: FloatArray) -> NDArray[np.bool_]:
    return np.isfinite(std) & np.isfinite(growth) & (weights > 0)
