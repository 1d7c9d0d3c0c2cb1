"""SAPO's surrogate (arXiv 2511.20347): a sigmoid in place of the clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from ctpo.methods.rules.interface import Terms, TokenInputs, guarded_ratio

HALF_OPEN = 2 * math.acosh(math.sqrt(2.0))
"""`|tau (rho - 1)|` at which `4 g (1 - g)`, the share of `rho A` that the gate passes on, is one half."""


@dataclass(frozen=True)
class SoftGate:
    """`4 / tau * sigmoid(tau (rho - 1)) A`, with `tau_pos` where A > 0 and `tau_neg` elsewhere.

    The gate `g` passes on `4 g (1 - g)` of the gradient `rho A`: all of it at ratio 1, less and less away from it.
    """

    tau_pos: float = 1.0
    tau_neg: float = 1.05

    formula: ClassVar[str] = "4 / tau sigmoid(tau (rho - 1)) A"
    gradient: ClassVar[str] = "4 g (1 - g) rho A, g = sigmoid(tau (rho - 1))"
    clipped: ClassVar[str] = (
        "nothing is cut off; counted where the gate passes less than half: A > 0 above 1 (high), A < 0 below 1 (low), "
        "A < 0 above 1 (as a dual clip)"
    )

    def __post_init__(self) -> None:
        for name in ("tau_pos", "tau_neg"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"rule: {name}={getattr(self, name)} must be finite and above 0")

    def __call__(self, tokens: TokenInputs) -> Terms:
        positive, negative = tokens.advantages > 0, tokens.advantages < 0
        tau = torch.full_like(tokens.advantages, self.tau_neg).masked_fill(positive, self.tau_pos)
        distance = tau * (guarded_ratio(tokens.log_ratio) - 1)
        objective = 4 / tau * distance.sigmoid() * tokens.advantages
        above, below = distance > HALF_OPEN, distance < -HALF_OPEN
        return Terms(objective, positive & above, negative & below, negative & above)
