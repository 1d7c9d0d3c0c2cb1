"""Clip windows: for each position of a response, the interval of log-ratios that is left alone.

Positions are 1-based and count model tokens only. A window never depends on data, so that the same window can
be asked what it would have clipped in a run that used another one. Every window contains log-ratio 0 (ratio
1): an unchanged policy is never clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Window(Protocol):
    """Anything that gives `(low, high)` in log space for a tensor of positions; hashable."""

    def log_bounds(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the log-ratio, each of `positions`' shape, float32 (float64 for float64 positions)."""
        ...


def _bound_dtype(positions: Tensor) -> torch.dtype:
    return positions.dtype if positions.dtype == torch.float64 else torch.float32


def _constant(value: float, positions: Tensor) -> Tensor:
    # A fill, not a copy from the host: nothing waits for the device.
    bound = torch.full((), value, dtype=_bound_dtype(positions), device=positions.device)
    return bound.expand(positions.shape)


def _power(positions: Tensor, power: float) -> Tensor:
    # Position 0, before the first model token, counts as 1: any bound will do there.
    return positions.to(_bound_dtype(positions)).clamp(min=1).pow_(power)


@dataclass(frozen=True)
class RatioWindow:
    """The same ratio interval `[low, high]` at every position, `0 < low <= 1 <= high`, as in PPO."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= 1.0 <= self.high < math.inf:
            raise ValueError(f"window: low={self.low}, high={self.high} must satisfy 0 < low <= 1 <= high (ratios)")

    def log_bounds(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """`(log low, log high)` at every position."""
        return _constant(math.log(self.low), positions), _constant(math.log(self.high), positions)


@dataclass(frozen=True)
class LogWindow:
    """The same log-ratio interval `[low, high]` at every position, `low <= 0 <= high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= 0.0 <= self.high < math.inf:
            raise ValueError(f"window: low={self.low}, high={self.high} must satisfy low <= 0 <= high (log-ratios)")

    def log_bounds(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """`(low, high)` at every position."""
        return _constant(self.low, positions), _constant(self.high, positions)


@dataclass(frozen=True)
class PositionAdaptiveWindow:
    """`[-eps_low * t**power, +eps_high * t**power]` in log space at position t (CTPO, arXiv 2605.07331)."""

    eps_low: float
    eps_high: float
    power: float = 0.5

    def __post_init__(self) -> None:
        if not (0.0 <= self.eps_low < math.inf and 0.0 <= self.eps_high < math.inf):
            raise ValueError(f"window: eps_low={self.eps_low}, eps_high={self.eps_high} must be finite and at least 0")
        if not 0.0 <= self.power <= 2.0:
            raise ValueError(f"window: power={self.power} must lie in [0, 2] (0 is a fixed window, 0.5 the paper's)")

    def log_bounds(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """`(-eps_low * t**power, eps_high * t**power)` for positions `t`."""
        growth = _power(positions, self.power)
        return growth * -self.eps_low, growth.mul_(self.eps_high)


@dataclass(frozen=True)
class DualClip:
    """For negative advantages, a ceiling `exp(scale * t**power)` on the ratio.

    Only the authors' released code has it: it zeroes gradients for A < 0 that the paper's `min` keeps.
    """

    scale: float = 0.05
    power: float = 0.5

    def __post_init__(self) -> None:
        if not (0.0 <= self.scale < math.inf and 0.0 <= self.power <= 2.0):
            raise ValueError(
                f"dual_clip: scale={self.scale} must be finite and at least 0, power={self.power} in [0, 2]"
            )

    def log_ceiling(self, positions: Tensor) -> Tensor:
        """`scale * t**power` for positions `t`."""
        return _power(positions, self.power).mul_(self.scale)
