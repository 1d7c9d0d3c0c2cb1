"""Clip windows: for each position of a response, the interval of log-ratios that is left alone.

Positions are 1-based and count model tokens only. A window never depends on the batch that it clips, so that the
same window can be asked what it would have clipped in a run that used another one. Every window contains
log-ratio 0 (ratio 1): an unchanged policy is never clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


class Window(Protocol):
    """Anything that gives `(low, high)` in log space for a tensor of positions; hashable."""

    def log_bounds(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the log-ratio, each of `positions`' shape, float32 (float64 for float64 positions)."""
        ...


def describe(window: Window) -> dict[str, Any]:
    """A window as records name it: its class as `kind`, and its settings."""
    return {"kind": type(window).__name__} | vars(window)


def _bound_dtype(positions: Tensor) -> torch.dtype:
    return positions.dtype if positions.dtype == torch.float64 else torch.float32


def _constant(value: float, positions: Tensor) -> Tensor:
    # A fill, not a copy from the host: nothing waits for the device.
    bound = torch.full((), value, dtype=_bound_dtype(positions), device=positions.device)
    return bound.expand(positions.shape)


def _power(positions: Tensor, power: float) -> Tensor:
    # Position 0, before the first model token, counts as 1: any bound will do there.
    return positions.to(_bound_dtype(positions)).clamp(min=1).pow(power)


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
class NoWindow:
    """Nothing is ever outside: for rules that have a trust region of their own."""

    def log_bounds(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """`(-inf, inf)` at every position."""
        return _constant(-math.inf, positions), _constant(math.inf, positions)


@dataclass(frozen=True)
class PositionAdaptiveWindow:
    """`[-eps_low * t**power, +eps_high * t**power]` in log space at position t (CTPO, arXiv 2605.07331).

    A negative power suits a mean over the prefix, whose spread shrinks with t as a sum's grows.
    """

    eps_low: float
    eps_high: float
    power: float = 0.5

    def __post_init__(self) -> None:
        if not (0.0 <= self.eps_low < math.inf and 0.0 <= self.eps_high < math.inf):
            raise ValueError(f"window: eps_low={self.eps_low}, eps_high={self.eps_high} must be finite and at least 0")
        if not -1.0 < self.power <= 2.0:
            raise ValueError(
                f"window: power={self.power} must lie in [0, 2] (0 is a fixed window, 0.5 the paper's), or in (-1, 0) "
                "for a mean over the prefix"
            )

    def log_bounds(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """`(-eps_low * t**power, eps_high * t**power)` for positions `t`."""
        growth = _power(positions, self.power)
        return -self.eps_low * growth, self.eps_high * growth


ASSUMED_DEVIATION = 0.02
"""Standard deviation of `log rho_1`, growing as sqrt(t), before anything is measured: makes the calibrated window's
defaults CTPO's own [-0.025 sqrt(t), 0.05 sqrt(t)]."""


@dataclass(frozen=True)
class CalibratedWindow:
    """`[-low * sigma_t, +high * sigma_t]` in log space, `sigma_t` the standard deviation of `log rho_t`.

    Attributes:
        low, high: half-widths in standard deviations.
        decay: of the exponential average over training steps that `ctpo.positions.calibration` makes of `sigma_t`.
        deviations: `sigma_t` for positions 1, 2, ...: float `[positions]`; the last one serves all later positions.
            None before anything was measured: then `ASSUMED_DEVIATION * sqrt(t)`. No setting: the trainer measures
            it, and it takes no part in comparisons.
    """

    low: float = 1.25
    high: float = 2.5
    decay: float = 0.9
    deviations: Tensor | None = field(default=None, compare=False, repr=False, metadata={"setting": False})

    def __post_init__(self) -> None:
        if not (0.0 <= self.low < math.inf and 0.0 <= self.high < math.inf):
            raise ValueError(f"window: low={self.low}, high={self.high} must be finite and at least 0 (deviations)")
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"window: decay={self.decay} must lie in [0, 1) (0 forgets all but the last step)")

    def log_bounds(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """`(-low * sigma_t, high * sigma_t)` for positions `t`."""
        if self.deviations is None:
            scale = ASSUMED_DEVIATION * _power(positions, 0.5)
        else:
            table = self.deviations.to(device=positions.device, dtype=_bound_dtype(positions))
            scale = table[positions.long().clamp(1, len(table)) - 1]
        return -self.low * scale, self.high * scale


@dataclass(frozen=True)
class DualClip:
    """For negative advantages, a ceiling `exp(scale * t**power)` on the ratio.

    Only the authors' released code has it: it zeroes gradients for A < 0 that the paper's `min` keeps.
    """

    scale: float = 0.05
    power: float = 0.5

    def __post_init__(self) -> None:
        if not (0.0 <= self.scale < math.inf and -1.0 < self.power <= 2.0):
            raise ValueError(
                f"dual_clip: scale={self.scale} must be finite and at least 0, power={self.power} in (-1, 2]"
            )

    def log_ceiling(self, positions: Tensor) -> Tensor:
        """`scale * t**power` for positions `t`."""
        return self.scale * _power(positions, self.power)
