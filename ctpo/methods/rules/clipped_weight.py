"""CISPO's surrogate (arXiv 2506.13585): the weight is clipped, no token is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ctpo.methods.rules.interface import Terms, TokenInputs, guarded_ratio


@dataclass(frozen=True)
class ClippedWeight:
    """`sg(clip(rho, e^low, e^high)) A log pi`.

    The clip bounds how much a token counts, whichever way its advantage points, and never removes it. `log pi` is
    taken relative to the policy that sampled, `d_t`, which shifts the objective by a constant and keeps it finite.
    """

    formula: ClassVar[str] = "sg(clip(rho, e^low, e^high)) A log pi"
    gradient: ClassVar[str] = "clip(rho, e^low, e^high) A at every token"
    clipped: ClassVar[str] = "A not 0 and rho above (high) or below (low) the window: weight bounded, gradient kept"

    def __call__(self, tokens: TokenInputs) -> Terms:
        weight = guarded_ratio(torch.clamp(tokens.log_ratio, tokens.low, tokens.high)).detach()
        live = tokens.advantages != 0
        return Terms(
            weight * tokens.advantages * tokens.d,
            live & (tokens.log_ratio > tokens.high),
            live & (tokens.log_ratio < tokens.low),
        )
