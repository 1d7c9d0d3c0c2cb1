"""The objective of arXiv 2605.07331 per token, to be maximised:

    min( rho_t A_t,  clip(rho_t, e^low_t, e^high_t) A_t ),    rho_t = exp(log-ratio at t)

In CTPO the log-ratio is `S_t = d_1 + ... + d_t` and the window `[-eps_low t^p, eps_high t^p]`. A method may bring
another log-ratio (`log_ratios.py`), window (`windows.py`) or rule (`rules/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ctpo.methods.log_ratios import masked, token_increments, token_positions
from ctpo.methods.rules.interface import MAX_LOG_RATIO, Ingredients, Terms, TokenInputs, beyond_window


@dataclass(frozen=True)
class ClippedMin:
    """`min(rho A, clip(rho, e^low, e^high) A)`: PPO's rule (arXiv 1707.06347), and the paper's.

    A clipped token has no gradient; every other has `rho A grad log pi`, that of Proposition 1. Where the log-ratio
    exceeds `MAX_LOG_RATIO` the surrogate is constant as well.
    """

    formula: ClassVar[str] = "min(rho A, clip(rho, e^low, e^high) A)"
    gradient: ClassVar[str] = "rho A inside, 0 where clipped"
    clipped: ClassVar[str] = "A > 0 above the window, A < 0 below it: no gradient"

    def __call__(self, tokens: TokenInputs) -> Terms:
        advantages = tokens.advantages
        log_ratio = tokens.log_ratio.clamp(max=MAX_LOG_RATIO)
        rho = log_ratio.exp()
        clipped_rho = torch.clamp(log_ratio, tokens.low, tokens.high).exp()  # exp is monotone: clip(rho, e^low, e^high)
        objective = torch.minimum(rho * advantages, clipped_rho * advantages)

        dual_clipped = None
        if tokens.ceiling is not None:  # only in the authors' released code: constant for A < 0 above the ceiling
            dual_clipped = (advantages < 0) & (tokens.log_ratio > tokens.ceiling)
            objective = torch.where(dual_clipped, tokens.ceiling.clamp(max=MAX_LOG_RATIO).exp() * advantages, objective)
        return Terms(objective, *beyond_window(tokens), dual_clipped)


@dataclass(frozen=True)
class Surrogate:
    """One micro-batch's surrogate; all `[batch, response_length]`, 0 or False where the mask is 0.

    `objective` is to be maximised and carries the gradient; the other fields carry none. What the indicators count
    is the rule's to say (`SurrogateRule.clipped`); for the paper's rule, as follows.
    """

    objective: Tensor
    log_ratio: Tensor
    """The method's log-ratio, before the `MAX_LOG_RATIO` guard."""
    clipped_high: Tensor
    """`A > 0` and log-ratio above the window: no gradient."""
    clipped_low: Tensor
    """`A < 0` and log-ratio below the window: no gradient."""
    token_log_ratio: Tensor
    """`d_t`, whatever the method's log-ratio."""
    dual_clipped: Tensor | None = None
    """`A < 0` and log-ratio above the dual clip's ceiling: no gradient. None if the method has none."""


def clipped_surrogate(
    method: Ingredients, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor
) -> Surrogate:
    """The method's rule on every token.

    Args:
        method: a `Method`: the log-ratio, window, rule and dual clip to use.
        log_prob, old_log_prob: log-probabilities of the sampled tokens in nats, `[batch, response_length]`.
        advantages: of the same shape.
        response_mask: of the same shape, bool or 0/1: 1 for tokens that the model generated.

    The gradient flows through each token's own log-probability only. NaN in a *model* token's log-probability is not
    hidden: a broken model must be seen.
    """
    mask, positions = response_mask.bool(), token_positions(response_mask)
    d = token_increments(log_prob, old_log_prob, mask)
    log_ratio = method.log_ratio.of(d, mask)
    low, high = method.window.log_bounds(positions)
    ceiling = None if method.dual_clip is None else method.dual_clip.log_ceiling(positions)
    log_prob, old_log_prob, advantages = (
        masked(tensor.detach().to(d.dtype), mask) for tensor in (log_prob, old_log_prob, advantages)
    )
    terms = method.rule(
        TokenInputs(log_ratio, d, advantages, mask, positions, low, high, ceiling, log_prob, old_log_prob)
    )
    flags = terms.clipped_high, terms.clipped_low
    return Surrogate(masked(terms.objective, mask), log_ratio.detach(), *flags, d.detach(), terms.dual_clipped)
