"""GMPO's surrogate (arXiv 2507.20673): the geometric mean of a response's clipped token ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ctpo.methods.log_ratios import masked, with_own_gradient
from ctpo.methods.rules.interface import Terms, TokenInputs, beyond_window, guarded_ratio


@dataclass(frozen=True)
class GeometricMean:
    """`exp(mean_t log clip(rho_t)) A` at every token of a response, `A` the response's mean advantage.

    The clip is one-sided as in PPO and comes before the mean. Averaged over the response's tokens this is GMPO's
    sequence objective, and its gradient: token t has `1/|o|` of the response's weighted advantage unless clipped.
    """

    formula: ClassVar[str] = "exp(mean_t' of log-ratios clipped one-sidedly) A"
    gradient: ClassVar[str] = "exp(mean) A where the token's own ratio is not clipped, else 0"
    clipped: ClassVar[str] = "the token's own ratio: A > 0 above the window, A < 0 below it: no gradient"

    def __call__(self, tokens: TokenInputs) -> Terms:
        log_ratio, advantages = tokens.log_ratio, tokens.advantages
        above, below = beyond_window(tokens)
        clipped = torch.where(above, tokens.high, torch.where(below, tokens.low, log_ratio))
        lengths = tokens.mask.sum(dim=-1, keepdim=True).clamp(min=1)
        mean = masked(clipped, tokens.mask).sum(dim=-1, keepdim=True) / lengths
        advantage = advantages.sum(dim=-1, keepdim=True) / lengths
        return Terms(guarded_ratio(with_own_gradient(mean, clipped)) * advantage, above, below)
