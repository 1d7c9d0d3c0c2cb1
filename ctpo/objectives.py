"""A method's surrogate on a micro-batch, written once for every method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctpo.log_ratios import mask_bits, masked, token_increments, token_positions, wide_dtype, with_slope
from ctpo.surrogates.terms import MAX_LOG_RATIO, Tokens

if TYPE_CHECKING:
    from ctpo.methods import Method

__all__ = ["MAX_LOG_RATIO", "Surrogate", "clipped_surrogate"]


@dataclass(frozen=True)
class Surrogate:
    """One micro-batch's surrogate; all `[batch, response_length]`, 0 or False where the mask is 0.

    `objective` is to be maximised and carries the gradient; the other fields carry none. What the indicators count
    is the rule's to say (`SurrogateRule.clipped`); for PPO's clipped minimum, as follows.
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
    positions: Tensor
    """`token_positions(response_mask)`."""
    dual_clipped: Tensor | None = None
    """`A < 0` and log-ratio above the dual clip's ceiling: no gradient. None if the method has none."""


def clipped_surrogate(
    method: Method, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor
) -> Surrogate:
    """The method's rule on every token: `min(rho A, clip(rho, e^low, e^high) A)`, `rho = exp(log-ratio)`, in CTPO.

    Args:
        method: the log-ratio, window, rule and dual clip to use.
        log_prob, old_log_prob: log-probabilities of the sampled tokens in nats, `[batch, response_length]`.
        advantages: of the same shape.
        response_mask: of the same shape, bool or 0/1: 1 for tokens that the model generated.

    The gradient flows through each token's own log-probability only, with the rule's slope: `rho_t A_t grad log
    pi(a_t|s_t)` (Proposition 1 of arXiv 2605.07331) where PPO's rule does not clip, else 0. Where the log-ratio
    exceeds `MAX_LOG_RATIO` that surrogate is constant: gradient 0 as well. NaN in a *model* token's log-probability
    is not hidden: a broken model must be seen.
    """
    with torch.no_grad():
        dtype = wide_dtype(log_prob, old_log_prob)
        bits = mask_bits(response_mask, dtype)
        increments = token_increments(log_prob, old_log_prob, bits)
        values = method.log_ratio.accumulate(increments, bits)
        positions = token_positions(response_mask)
        low, high = method.window.log_bounds(positions)
        tokens = Tokens(
            log_ratio=values,
            increments=increments,
            advantages=advantages.to(values.dtype),
            positions=positions,
            low=low,
            high=high,
            bits=bits,
            log_prob=log_prob.detach().to(dtype),
            old_log_prob=old_log_prob.detach().to(dtype),
            ceiling=None if method.dual_clip is None else method.dual_clip.log_ceiling(positions),
        )
        terms = method.rule(tokens)
        objective, slope = masked(terms.objective, bits), masked(terms.slope, bits)
    return Surrogate(
        objective=with_slope(log_prob, objective, slope),
        log_ratio=values,
        clipped_high=terms.clipped_high,
        clipped_low=terms.clipped_low,
        token_log_ratio=increments,
        positions=positions,
        dual_clipped=terms.dual_clipped,
    )
