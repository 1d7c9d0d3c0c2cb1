"""The clipped surrogate, written once for every method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctpo.log_ratios import token_positions, with_slope

if TYPE_CHECKING:
    from ctpo.methods import Method

MAX_LOG_RATIO = 10.0
"""The log-ratio enters `exp` as at most this: a ratio of 22,026, whose sums stay finite in float32."""


@dataclass(frozen=True)
class Surrogate:
    """One micro-batch's surrogate; all `[batch, response_length]`, 0 or False where the mask is 0.

    `objective` is to be maximised and carries the gradient; the other fields carry none.
    """

    objective: Tensor
    log_ratio: Tensor
    """The method's log-ratio, before the `MAX_LOG_RATIO` guard."""
    clipped_high: Tensor
    """`A > 0` and log-ratio above the window: no gradient."""
    clipped_low: Tensor
    """`A < 0` and log-ratio below the window: no gradient."""
    positions: Tensor
    """`token_positions(response_mask)`."""
    dual_clipped: Tensor | None = None
    """`A < 0` and log-ratio above the dual clip's ceiling: no gradient. None for methods without a dual clip."""


def clipped_surrogate(
    method: Method, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, response_mask: Tensor
) -> Surrogate:
    """`min(rho A, clip(rho, e^low, e^high) A)` per token, `rho = exp(log-ratio)`.

    Args:
        method: the log-ratio, window and dual clip to use.
        log_prob, old_log_prob: log-probabilities of the sampled tokens in nats, `[batch, response_length]`.
        advantages: of the same shape.
        response_mask: of the same shape, bool or 0/1: 1 for tokens that the model generated.

    The gradient is `rho_t A_t grad log pi(a_t|s_t)` where a token is not clipped (Proposition 1 of arXiv
    2605.07331), else 0. Where the log-ratio exceeds `MAX_LOG_RATIO` the surrogate is constant: gradient 0 as well.
    `log_ratio` is reported before that guard. NaN in a *model* token's log-probability is not hidden: a broken
    model must be seen.
    """
    log_ratio = method.log_ratio(log_prob, old_log_prob, response_mask)
    with torch.no_grad():
        values = log_ratio.detach()
        mask = response_mask.bool()
        positions = token_positions(response_mask)
        low, high = method.window.log_bounds(positions)
        positive, negative = advantages > 0, advantages < 0
        clipped_high = (values > high).logical_and_(positive)
        clipped_low = (values < low).logical_and_(negative)
        # For A > 0 the minimum picks min(rho, e^high), for A < 0 it picks max(rho, e^low).
        effective = torch.where(negative, torch.maximum(values, low), torch.minimum(values, high))
        flat = clipped_high | clipped_low | (values > MAX_LOG_RATIO)
        dual_clipped = None
        if method.dual_clip is not None:
            ceiling = method.dual_clip.log_ceiling(positions)
            dual_clipped = (values > ceiling).logical_and_(negative)
            effective = torch.where(dual_clipped, ceiling, effective)
            flat |= dual_clipped
        surrogate = effective.clamp_(max=MAX_LOG_RATIO).exp_() * advantages
        surrogate = torch.where(mask, surrogate, 0.0)
        slope = surrogate.masked_fill(flat, 0.0)
    return Surrogate(with_slope(log_ratio, surrogate, slope), values, clipped_high, clipped_low, positions, dual_clipped)
