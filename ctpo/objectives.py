"""The clipped surrogate, written once for every method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ctpo.log_ratios import mask_bits, masked, token_increments, token_positions, wide_dtype, with_slope

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
    token_log_ratio: Tensor
    """`d_t`, whatever the method's log-ratio."""
    positions: Tensor
    """`token_positions(response_mask)`."""
    dual_clipped: Tensor | None = None
    """`A < 0` and log-ratio above the dual clip's ceiling: no gradient. None if the method has none."""


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
    2605.07331), else 0. Where the log-ratio exceeds `MAX_LOG_RATIO` the surrogate is constant: gradient 0 as
    well. NaN in a *model* token's log-probability is not hidden: a broken model must be seen.
    """
    with torch.no_grad():
        bits = mask_bits(response_mask, wide_dtype(log_prob, old_log_prob))
        increments = token_increments(log_prob, old_log_prob, bits)
        values = method.log_ratio.accumulate(increments, bits)
        positions = token_positions(response_mask)
        low, high = method.window.log_bounds(positions)
        advantages = advantages.to(values.dtype)
        candidates = clip_candidates(values, advantages)
        effective = (values - candidates).add_(torch.clamp(candidates, low, high))
        dual_clipped = None
        if method.dual_clip is not None:
            ceiling = method.dual_clip.log_ceiling(positions)
            dual_clipped = exceeds(values, ceiling).logical_and_(advantages < 0)
            effective = torch.where(dual_clipped, ceiling, effective)
        effective.clamp_(max=MAX_LOG_RATIO)
        surrogate = masked(effective.exp().mul_(advantages), bits)
        # Neither clipped nor guarded: the only tokens whose surrogate moves with their log-probability.
        slope = effective.eq_(values).mul_(surrogate)
    return Surrogate(
        objective=with_slope(log_prob, surrogate, slope),
        log_ratio=values,
        clipped_high=exceeds(candidates, high),
        clipped_low=exceeds(low, candidates),
        token_log_ratio=increments,
        positions=positions,
        dual_clipped=dual_clipped,
    )


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
    full = left if left.shape == torch.broadcast_shapes(left.shape, right.shape) else right
    return torch.gt(left, right, out=torch.empty_like(full, dtype=torch.float32)).bool()
