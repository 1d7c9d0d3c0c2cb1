"""PPO's clipped surrogate (arXiv 1707.06347), with an optional dual clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ctpo.surrogates.terms import MAX_LOG_RATIO, Terms, Tokens, exceeds, one_sided_clip


@dataclass(frozen=True)
class ClippedMin:
    """`min(rho A, clip(rho, e^low, e^high) A)`.

    A clipped token has no gradient; every other has `rho A`, that of Proposition 1 of arXiv 2605.07331. A dual clip,
    where the method has one, makes the surrogate constant for A < 0 above its ceiling.
    """

    formula: ClassVar[str] = "min(rho A, clip(rho, e^low, e^high) A)"
    gradient: ClassVar[str] = "rho A inside, 0 where clipped"
    clipped: ClassVar[str] = "A > 0 above the window, A < 0 below it: no gradient"

    def __call__(self, tokens: Tokens) -> Terms:
        candidates, effective = one_sided_clip(tokens)
        dual_clipped = None
        if tokens.ceiling is not None:
            dual_clipped = exceeds(tokens.log_ratio, tokens.ceiling).logical_and_(tokens.advantages < 0)
            effective = torch.where(dual_clipped, tokens.ceiling, effective)
        effective.clamp_(max=MAX_LOG_RATIO)
        objective = effective.exp().mul_(tokens.advantages)
        # Neither clipped nor guarded: the only tokens whose surrogate moves with their log-probability.
        slope = effective.eq_(tokens.log_ratio).mul_(objective)
        return Terms(objective, slope, exceeds(candidates, tokens.high), exceeds(tokens.low, candidates), dual_clipped)
