"""DPPO's surrogates (arXiv 2602.04879): a token is dropped where its own probability moved too far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ctpo.methods.rules.interface import Terms, TokenInputs, guarded_ratio, probabilities, weighted


def kept_or_dropped(tokens: TokenInputs, rises: Tensor, falls: Tensor, max_ratio: float = math.inf) -> Terms:
    """`min(rho, max_ratio) A` for all tokens except those that rise too far with A > 0 or fall too far with A < 0."""
    high, low = (tokens.advantages > 0) & rises, (tokens.advantages < 0) & falls
    weight = guarded_ratio(tokens.log_ratio).clamp(max=max_ratio)
    return Terms(weighted(torch.where(high | low, 0.0, weight), tokens), high, low)


@dataclass(frozen=True)
class _DivergenceMask:
    """Bounds of a divergence (each at least 0) and the cap on the weight of the tokens that are kept."""

    low: float
    high: float
    max_ratio: float = 20.0

    gradient: ClassVar[str] = "min(rho, max_ratio) A where kept, else 0"
    clipped: ClassVar[str] = (
        "dropped tokens: A > 0 and the probability rose too far (high), A < 0 and it fell too far (low)"
    )

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"rule: {name}={getattr(self, name)} must be finite and at least 0 (a divergence)")
        if not 1.0 <= self.max_ratio < math.inf:
            raise ValueError(f"rule: max_ratio={self.max_ratio} must be finite and at least 1")


@dataclass(frozen=True)
class BinaryTVMask(_DivergenceMask):
    """`min(rho, max_ratio) A` where the token's binary total variation, `|pi - pi_old|`, stays within bounds.

    Dropped: A > 0 and `pi - pi_old > high`; A < 0 and `pi_old - pi > low`.
    """

    low: float = 0.15
    high: float = 0.15

    formula: ClassVar[str] = "M min(rho, max_ratio) A, M = 0 where |pi - pi_old| exceeds its bound away from 1"

    def __call__(self, tokens: TokenInputs) -> Terms:
        new, old = probabilities(tokens)
        moved = new - old
        return kept_or_dropped(tokens, moved > self.high, -moved > self.low, self.max_ratio)


@dataclass(frozen=True)
class BinaryKLMask(_DivergenceMask):
    """`min(rho, max_ratio) A` where the token's binary `KL(pi_old || pi)` stays within bounds.

    Binary: of the two-way choice between this token and all others. Dropped: A > 0, `pi > pi_old` and KL above
    `high`; A < 0, `pi < pi_old` and KL above `low`.
    """

    low: float = 0.05
    high: float = 0.05

    formula: ClassVar[str] = "M min(rho, max_ratio) A, M = 0 where KL(pi_old || pi) of the token exceeds its bound"

    def __call__(self, tokens: TokenInputs) -> Terms:
        new, old = probabilities(tokens)
        # The others' probability, from the log-probability: 1 - pi has no digits left where pi is near 1.
        rest, old_rest = (-value.expm1().clamp(-1.0, -1e-8) for value in (tokens.log_prob, tokens.old_log_prob))
        divergence = old_rest * (old_rest / rest).log() - old * tokens.d.detach()
        return kept_or_dropped(
            tokens, (divergence > self.high) & (new > old), (divergence > self.low) & (new < old), self.max_ratio
        )
