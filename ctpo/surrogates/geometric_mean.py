"""GMPO's surrogate (arXiv 2507.20673): the geometric mean of a response's clipped token ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ctpo.log_ratios import masked
from ctpo.surrogates.terms import MAX_LOG_RATIO, Terms, Tokens, exceeds, one_sided_clip


@dataclass(frozen=True)
class GeometricMean:
    """`exp(mean_t log clip(rho_t)) A` at every token of a response, `A` the response's mean advantage.

    The clip is one-sided as in PPO and comes before the mean. Averaged over the response's tokens this is GMPO's
    sequence objective, and its gradient: token t has `1/|o|` of the response's weighted advantage unless clipped.
    """

    formula: ClassVar[str] = "exp(mean_t' of log-ratios clipped one-sidedly) A"
    gradient: ClassVar[str] = "exp(mean) A where the token's own ratio is not clipped, else 0"
    clipped: ClassVar[str] = "the token's own ratio: A > 0 above the window, A < 0 below it: no gradient"

    def __call__(self, tokens: Tokens) -> Terms:
        candidates, effective = one_sided_clip(tokens)
        lengths = tokens.bits.sum(dim=-1, keepdim=True).neg_().clamp_(min=1)
        mean = masked(effective, tokens.bits).sum(dim=-1, keepdim=True).div_(lengths)
        advantage = masked(tokens.advantages, tokens.bits).sum(dim=-1, keepdim=True).div_(lengths)
        objective = mean.clamp(max=MAX_LOG_RATIO).exp_().mul_(advantage)
        moves = effective.eq_(tokens.log_ratio).mul_(mean <= MAX_LOG_RATIO)
        return Terms(
            objective.expand_as(effective).contiguous(),
            moves.mul_(objective),
            exceeds(candidates, tokens.high),
            exceeds(tokens.low, candidates),
        )
