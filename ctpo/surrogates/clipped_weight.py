"""CISPO's surrogate (arXiv 2506.13585): the weight is clipped, no token is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ctpo.surrogates.terms import Terms, Tokens, exceeds, guarded_ratio


@dataclass(frozen=True)
class ClippedWeight:
    """`sg(clip(rho, e^low, e^high)) A log pi`.

    The clip bounds how much a token counts, whichever way its advantage points, and never removes it. `log pi` is
    taken relative to the policy that sampled, `d_t`, which shifts the objective by a constant and keeps it finite.
    """

    formula: ClassVar[str] = "sg(clip(rho, e^low, e^high)) A log pi"
    gradient: ClassVar[str] = "clip(rho, e^low, e^high) A at every token"
    clipped: ClassVar[str] = "A not 0 and rho above (high) or below (low) the window: weight bounded, gradient kept"

    def __call__(self, tokens: Tokens) -> Terms:
        weight = guarded_ratio(torch.clamp(tokens.log_ratio, tokens.low, tokens.high))
        slope = weight.mul_(tokens.advantages)
        live = torch.sign(tokens.advantages).abs_().mul_(tokens.log_ratio)
        return Terms(slope * tokens.increments, slope, exceeds(live, tokens.high), exceeds(tokens.low, live))
