"""Table 1 of arXiv 2605.07331 as pure tensor functions: which importance log-ratio a token gets.

All functions take `(log_prob, old_log_prob, response_mask)`, each `[batch, response_length]`, and return a tensor
of that shape in natural-log units, float32 at least whatever the inputs' dtype.

With `d_t = log pi_theta(a_t|s_t) - log pi_old(a_t|s_t)` and `sg` the stop-gradient:

====================================  ==========================================
`token_log_ratio`                     `d_t`
`length_normalized_log_ratio`         `sg(mean_t' d_t') + d_t - sg(d_t)`
`sequence_log_ratio`                  `sg(S_T) + d_t - sg(d_t)`
`cumulative_log_ratio`                `sg(S_t) + d_t - sg(d_t)`, `S_t = sum_{t'<=t} d_t'`
====================================  ==========================================

Every row has the same derivative: 1 with respect to its own token's log-probability, 0 with respect to any other
token's. So the value is computed without autograd and the derivative is attached to it, which also keeps the value
free of the rounding that `S + d - d` would add. Tool output and padding (mask 0) get a log-ratio of exactly 0 and a
gradient of exactly 0 and never enter a sum, even where their log-probabilities are NaN or infinite.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

MAX_ABS_TOKEN_LOG_RATIO = 20.0
"""`d_t` is clamped to plus or minus this, so that one broken log-probability cannot make a sum infinite."""


class LogRatio(Protocol):
    """A row of Table 1: `(log_prob, old_log_prob, response_mask) -> Tensor`, all `[batch, response_length]`."""

    def __call__(self, log_prob: Tensor, old_log_prob: Tensor, response_mask: Tensor) -> Tensor: ...


class _WithSlope(torch.autograd.Function):
    """`value`, differentiable with respect to `source` with the elementwise derivative `slope`."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        ctx.source_dtype = source.dtype
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (grad_outputs[0] * slope).to(ctx.source_dtype), None, None


def with_slope(source: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """Return `value` as a function of `source` whose elementwise derivative is `slope` (all the same shape)."""
    return _WithSlope.apply(source, value, slope)


def token_positions(response_mask: Tensor) -> Tensor:
    """1-based position of every model token, int64 `[batch, response_length]`.

    Tool output and padding do not advance it: they hold the position of the last model token before them.
    """
    return torch.cumsum(response_mask, dim=-1, dtype=torch.int64)


@torch.no_grad()
def token_log_ratio_values(log_prob: Tensor, old_log_prob: Tensor, response_mask: Tensor) -> Tensor:
    """`d_t` without a gradient: clamped to `MAX_ABS_TOKEN_LOG_RATIO`, exactly 0 where the mask is 0."""
    wide = torch.promote_types(torch.promote_types(log_prob.dtype, old_log_prob.dtype), torch.float32)
    difference = log_prob.to(wide) - old_log_prob.to(wide)
    kept = torch.where(response_mask.bool(), difference, 0.0)
    return kept.clamp_(-MAX_ABS_TOKEN_LOG_RATIO, MAX_ABS_TOKEN_LOG_RATIO)


def token_log_ratio(log_prob: Tensor, old_log_prob: Tensor, response_mask: Tensor) -> Tensor:
    """`d_t`: GRPO's (PPO's) token ratio."""
    values = token_log_ratio_values(log_prob, old_log_prob, response_mask)
    return with_slope(log_prob, values, response_mask)


def length_normalized_log_ratio(log_prob: Tensor, old_log_prob: Tensor, response_mask: Tensor) -> Tensor:
    """The mean of `d` over the response at every model token: GSPO's ratio (arXiv 2507.18071, GSPO-token)."""
    values = token_log_ratio_values(log_prob, old_log_prob, response_mask)
    length = response_mask.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = values.sum(dim=-1, keepdim=True) / length
    return with_slope(log_prob, mean * response_mask, response_mask)


def sequence_log_ratio(log_prob: Tensor, old_log_prob: Tensor, response_mask: Tensor) -> Tensor:
    """`S_T`, the whole response's log-ratio, at every model token: the full-sequence ratio."""
    values = token_log_ratio_values(log_prob, old_log_prob, response_mask)
    return with_slope(log_prob, values.sum(dim=-1, keepdim=True) * response_mask, response_mask)


def cumulative_log_ratio(log_prob: Tensor, old_log_prob: Tensor, response_mask: Tensor) -> Tensor:
    """`S_t`, the log-ratio of the response up to and including this token: CTPO's cumulative token ratio."""
    values = token_log_ratio_values(log_prob, old_log_prob, response_mask)
    return with_slope(log_prob, values.cumsum_(dim=-1).mul_(response_mask), response_mask)
