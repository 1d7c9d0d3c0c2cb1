"""CPPO's surrogate (arXiv 2606.10968): a token is dropped where its prefix has used up its divergence budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ctpo.methods.log_ratios import masked
from ctpo.methods.rules.divergence_mask import kept_or_dropped
from ctpo.methods.rules.interface import Terms, TokenInputs, probabilities

QUANTILE = 0.9


@dataclass(frozen=True)
class PrefixBudget:
    """`rho A` where the weighted divergence of the token fits into what the prefix has left over.

    With `D_t = |pi - pi_old|`, weights `w_t` falling linearly from 1 at the first token to `w_min` at the last, a
    token that moves away from ratio 1 is dropped unless

        w_t D_t <= min(delta, delta + b sum_{s<t} w_s - sum_{s<t} w_s D_s),

    `b` the response's 0.9 quantile of `D` clamped to `[delta_b, 2 delta_b]`.
    """

    delta: float = 0.2
    delta_b: float = 0.02
    w_min: float = 0.8

    formula: ClassVar[str] = "M rho A, M = 0 where w_t |pi - pi_old| exceeds what the prefix left of its budget"
    gradient: ClassVar[str] = "rho A where kept, else 0"
    clipped: ClassVar[str] = "dropped tokens: A > 0 and rho > 1 (high), A < 0 and rho < 1 (low)"

    def __post_init__(self) -> None:
        for name in ("delta", "delta_b"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"rule: {name}={getattr(self, name)} must be finite and at least 0 (a divergence)")
        if not 0.0 < self.w_min <= 1.0:
            raise ValueError(f"rule: w_min={self.w_min} must lie in (0, 1]")

    def __call__(self, tokens: TokenInputs) -> Terms:
        new, old = probabilities(tokens)
        divergence = (new - old).abs()
        lengths = tokens.mask.sum(dim=-1, keepdim=True)
        decline = (1 - self.w_min) / (lengths - 1).clamp(min=1).to(divergence.dtype)
        weights = masked(1 - (tokens.positions - 1) * decline, tokens.mask)
        spent = weights * divergence
        budget = quantiles(divergence, lengths).clamp(self.delta_b, 2 * self.delta_b)
        # The prefix without the token itself.
        left = budget * (weights.cumsum(-1) - weights) - (spent.cumsum(-1) - spent)
        exceeded = tokens.mask & (spent > self.delta + left.clamp(max=0.0))
        d = tokens.d.detach()
        return kept_or_dropped(tokens, exceeded & (d > 0), exceeded & (d < 0))


def quantiles(divergence: Tensor, lengths: Tensor, quantile: float = QUANTILE) -> Tensor:
    """The quantile of each row's model tokens, interpolated linearly, `[batch, 1]`; masked values are 0.

    Args:
        divergence: at least 0, `[batch, length]`, exactly 0 where masked.
        lengths: model tokens of each row, `[batch, 1]`.
    """
    # Counted from the top, where zeros that stand for masked tokens come last.
    rank = (lengths - 1).clamp(min=0) * (1 - quantile)
    above = rank.floor()
    deepest = min(divergence.shape[-1], int((divergence.shape[-1] - 1) * (1 - quantile)) + 2)
    if deepest <= 0:
        return divergence.new_zeros(len(divergence), 1)
    largest = divergence.topk(deepest, dim=-1).values
    first, second = (largest.gather(-1, (above.long() + step).clamp(max=deepest - 1)) for step in (0, 1))
    return torch.lerp(first, second, (rank - above).to(first.dtype))
