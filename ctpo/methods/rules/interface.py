"""What goes into a surrogate rule and what comes out, and the pieces that rules share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from ctpo.methods.log_ratios import LogRatio
from ctpo.methods.windows import DualClip, Window

MAX_LOG_RATIO = 10.0
"""The log-ratio enters `exp` as at most this: a ratio of 22,026, whose sums stay finite in float32."""


@dataclass(frozen=True)
class TokenInputs:
    """A micro-batch as a rule sees it, `[batch, response_length]`; all but the bounds are 0 where masked."""

    log_ratio: Tensor
    """The method's log-ratio; with derivative 1 in the token's own log-probability, as `d`."""
    d: Tensor
    """`token_increments`."""
    advantages: Tensor
    mask: Tensor
    positions: Tensor
    low: Tensor
    """Lower bound of the window, in log space."""
    high: Tensor
    ceiling: Tensor | None
    """The method's dual clip, in log space."""
    log_prob: Tensor
    """Without gradient, as `old_log_prob`."""
    old_log_prob: Tensor


@dataclass(frozen=True)
class Terms:
    """What a rule makes of them, of the same shape. Where masked, `objective` may hold anything."""

    objective: Tensor
    """With the gradient."""
    clipped_high: Tensor
    """Bool, False where masked."""
    clipped_low: Tensor
    dual_clipped: Tensor | None = None


class SurrogateRule(Protocol):
    """A pure function of `TokenInputs`: a frozen dataclass whose fields are the rule's settings.

    `formula`, `gradient` and `clipped` say for the list of methods what it maximises per token, the derivative with
    respect to the token's own log-probability, and which tokens its clip indicators count.
    """

    formula: ClassVar[str]
    gradient: ClassVar[str]
    clipped: ClassVar[str]

    def __call__(self, tokens: TokenInputs) -> Terms: ...


class Ingredients(Protocol):
    """What the objective reads of a `Method`."""

    @property
    def log_ratio(self) -> LogRatio: ...
    @property
    def window(self) -> Window: ...
    @property
    def rule(self) -> SurrogateRule: ...
    @property
    def dual_clip(self) -> DualClip | None: ...


def beyond_window(tokens: TokenInputs) -> tuple[Tensor, Tensor]:
    """Tokens with A > 0 above the window, and with A < 0 below it."""
    above, below = tokens.log_ratio > tokens.high, tokens.log_ratio < tokens.low
    return (tokens.advantages > 0) & above, (tokens.advantages < 0) & below


def guarded_ratio(log_ratio: Tensor) -> Tensor:
    """`exp(log_ratio)` with a log-ratio of at most `MAX_LOG_RATIO`."""
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp()


def weighted(weight: Tensor, tokens: TokenInputs) -> Tensor:
    """`sg(weight) A`, with the gradient `sg(weight) A grad log pi`."""
    return weight.detach() * tokens.advantages * (1 + (tokens.d - tokens.d.detach()))


def probabilities(tokens: TokenInputs) -> tuple[Tensor, Tensor]:
    """`(pi, pi_old)` of the sampled tokens: at most 1, and 1 where masked."""
    return tokens.log_prob.exp().clamp(max=1.0), tokens.old_log_prob.exp().clamp(max=1.0)
