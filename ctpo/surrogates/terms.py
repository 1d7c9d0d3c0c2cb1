"""What goes into a surrogate rule and what comes out, and the pieces that rules share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ctpo.log_ratios import masked

MAX_LOG_RATIO = 10.0
"""The log-ratio enters `exp` as at most this: a ratio of 22,026, whose sums stay finite in float32."""


@dataclass(frozen=True)
class Tokens:
    """A micro-batch as a rule sees it: `[batch, length]`, without gradients.

    `log_ratio` and `increments` are 0 where masked; elsewhere in this class anything, NaN included, may stand there.
    """

    log_ratio: Tensor
    increments: Tensor
    """`d_t`, clamped."""
    advantages: Tensor
    positions: Tensor
    low: Tensor
    """Lower bound of the window, in log space."""
    high: Tensor
    bits: Tensor
    """`ctpo.log_ratios.mask_bits`."""
    log_prob: Tensor
    old_log_prob: Tensor
    ceiling: Tensor | None = None
    """The method's dual clip, in log space."""


@dataclass(frozen=True)
class Terms:
    """What a rule makes of them, of the same shape. Where masked, `objective` and `slope` may hold anything."""

    objective: Tensor
    slope: Tensor
    """Derivative of the objective with respect to the token's own log-probability."""
    clipped_high: Tensor
    """Bool, False where masked."""
    clipped_low: Tensor
    dual_clipped: Tensor | None = None


class SurrogateRule(Protocol):
    """A pure function of `Tokens`: a frozen dataclass whose fields are the rule's settings.

    `formula`, `gradient` and `clipped` say for the list of methods what it maximises per token, the derivative with
    respect to the token's own log-probability, and which tokens its clip indicators count.
    """

    formula: ClassVar[str]
    gradient: ClassVar[str]
    clipped: ClassVar[str]

    def __call__(self, tokens: Tokens) -> Terms: ...


def clip_candidates(log_ratio: Tensor, advantages: Tensor) -> Tensor:
    """The log-ratio where its sign is the advantage's, else 0: what a window could clip.

    `min(rho A, clip(rho) A)` clips high only where A > 0 and low only where A < 0, and every window contains
    0.
    """
    sign = torch.sign(advantages)
    return (sign * log_ratio).clamp_(min=0.0).mul_(sign)


def exceeds(left: Tensor, right: Tensor) -> Tensor:
    """`left > right` as bool, `right` broadcast to `left` or the other way round."""
    # torch compares into floats with vector instructions, into bools one by one: six times slower on a CPU.
    full = left if left.numel() >= right.numel() else right
    return torch.gt(left, right, out=torch.empty_like(full, dtype=torch.float32)).bool()


def one_sided_clip(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """The candidates, and the log-ratio of the smaller of `rho A` and `clip(rho) A`."""
    candidates = clip_candidates(tokens.log_ratio, tokens.advantages)
    effective = (tokens.log_ratio - candidates).add_(torch.clamp(candidates, tokens.low, tokens.high))
    return candidates, effective


def guarded_ratio(log_ratio: Tensor, ceiling: float = MAX_LOG_RATIO) -> Tensor:
    """`exp(log_ratio)` with a log-ratio of at most `ceiling`."""
    return log_ratio.clamp(max=min(ceiling, MAX_LOG_RATIO)).exp_()


def probabilities(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """`(pi, pi_old)` of the sampled tokens; 0 where masked and at most 1, whatever the log-probabilities are."""
    new, old = (
        masked(log_prob, tokens.bits).exp_().clamp_(max=1.0) for log_prob in (tokens.log_prob, tokens.old_log_prob)
    )
    return masked(new, tokens.bits), masked(old, tokens.bits)


def signs(advantages: Tensor) -> tuple[Tensor, Tensor]:
    """`(A > 0, A < 0)` as ones and zeros of the advantages' dtype."""
    sign = torch.sign(advantages)
    return sign.clamp(min=0.0), sign.neg_().clamp_(min=0.0)
