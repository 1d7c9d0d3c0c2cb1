"""Table 1 of arXiv 2605.07331, and two more ratios, as pure tensor functions: which log-ratio a token gets.

Each is called with `(log_prob, old_log_prob, response_mask)`, all `[batch, response_length]`, and
returns a tensor of that shape in natural-log units, float32 at least whatever the inputs' dtype.

With `d_t = log pi_theta(a_t|s_t) - log pi_old(a_t|s_t)` and `sg` the stop-gradient:

====================================  ==========================================
`token_log_ratio`                     `d_t`
`length_normalized_log_ratio`         `sg(mean_t' d_t') + d_t - sg(d_t)`
`sequence_log_ratio`                  `sg(S_T) + d_t - sg(d_t)`
`cumulative_log_ratio`                `sg(S_t) + d_t - sg(d_t)`, `S_t = sum_{t'<=t} d_t'`
`running_mean_log_ratio`              `sg(S_t / t) + d_t - sg(d_t)`
`minimum_prefix_log_ratio`            `sg(min_{t'<t} d_t') + d_t`
====================================  ==========================================

Every row has the same derivative: 1 with respect to its own token's log-probability, 0 with respect to any
other token's. So the value is computed without autograd and the derivative is attached to it, which also
keeps the value free of the rounding that `S + d - d` would add. Tool output and padding (mask 0) get a
log-ratio of exactly 0 and a gradient of exactly 0 and never enter a sum, even where their log-probabilities
are NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_ABS_TOKEN_LOG_RATIO = 20.0
"""`d_t` is clamped to plus or minus this, so that one broken log-probability cannot make a sum infinite."""


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
    """Return `value` as a function of `source` with elementwise derivative `slope` (all the same shape)."""
    result: Tensor = _WithSlope.apply(source, value, slope)
    return result


def token_positions(response_mask: Tensor) -> Tensor:
    """1-based position of every model token, int64 `[batch, response_length]`.

    Tool output and padding do not advance it: they hold the position of the last model token before them.
    """
    return torch.cumsum(response_mask, dim=-1, dtype=torch.int64)


def mask_bits(response_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as bit patterns for floats of `dtype`: all ones where it is 1, all zeros where it is 0.

    `tensor & bits` is exactly 0 where masked whatever stood there, NaN included, at a tenth of
    `torch.where`'s cost.
    """
    return response_mask.to(torch.int64 if dtype == torch.float64 else torch.int32).neg()


def masked(values: Tensor, bits: Tensor) -> Tensor:
    """`values` where the mask is 1, exactly 0 elsewhere; `bits` from `mask_bits` for their dtype."""
    return (values.view(bits.dtype) & bits).view(values.dtype)


def wide_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype to compute in: the widest of the tensors', at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def token_increments(log_prob: Tensor, old_log_prob: Tensor, bits: Tensor) -> Tensor:
    """`d_t` without a gradient: clamped to `MAX_ABS_TOKEN_LOG_RATIO`, exactly 0 where masked."""
    dtype = torch.float64 if bits.dtype == torch.int64 else torch.float32
    difference = log_prob.detach().to(dtype) - old_log_prob.detach().to(dtype)
    return masked(difference, bits).clamp_(-MAX_ABS_TOKEN_LOG_RATIO, MAX_ABS_TOKEN_LOG_RATIO)


@dataclass(frozen=True)
class LogRatio:
    """A row of Table 1.

    `accumulate(increments, bits)` makes the row's values from `d_t` (`token_increments`) and the mask
    (`mask_bits`), without autograd; its result must be 0 where masked.
    """

    name: str
    accumulate: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, log_prob: Tensor, old_log_prob: Tensor, response_mask: Tensor) -> Tensor:
        """The log-ratio of every token, with its gradient; all tensors `[batch, response_length]`."""
        with torch.no_grad():
            bits = mask_bits(response_mask, wide_dtype(log_prob, old_log_prob))
            values = self.accumulate(token_increments(log_prob, old_log_prob, bits), bits)
        return with_slope(log_prob, values, response_mask)


def _token(increments: Tensor, bits: Tensor) -> Tensor:
    return increments


def _mean(increments: Tensor, bits: Tensor) -> Tensor:
    lengths = bits.sum(dim=-1, keepdim=True).neg_().clamp_(min=1)
    return masked(increments.sum(dim=-1, keepdim=True) / lengths, bits)


def _total(increments: Tensor, bits: Tensor) -> Tensor:
    return masked(increments.sum(dim=-1, keepdim=True), bits)


def _prefix_sums(increments: Tensor, bits: Tensor) -> Tensor:
    return masked(increments.cumsum(dim=-1), bits)


def _running_means(increments: Tensor, bits: Tensor) -> Tensor:
    # Masked tokens hold the count before them, which can be 0.
    counts = bits.cumsum(dim=-1, dtype=bits.dtype).neg_().clamp_(min=1)
    return masked(increments.cumsum(dim=-1).div_(counts), bits)


def _minimum_prefix(increments: Tensor, bits: Tensor) -> Tensor:
    # Where masked there is no ratio, not a ratio of 1: lifted above every clamped increment, it is never the minimum.
    beyond = 2 * MAX_ABS_TOKEN_LOG_RATIO
    running = (increments + (bits + 1) * beyond).cummin(dim=-1).values
    smallest = torch.cat([torch.full_like(running[..., :1], beyond), running[..., :-1]], dim=-1)
    # The first token has no prefix: its product is empty.
    smallest *= torch.lt(smallest, beyond, out=torch.empty_like(smallest))
    return masked(smallest.add_(increments), bits)


token_log_ratio = LogRatio("token", _token)
"""`d_t`: GRPO's (PPO's) token ratio."""

length_normalized_log_ratio = LogRatio("length_normalized", _mean)
"""The mean of `d` over the response at every model token: GSPO's ratio (arXiv 2507.18071, GSPO-token)."""

sequence_log_ratio = LogRatio("sequence", _total)
"""`S_T`, the whole response's log-ratio, at every model token: the full-sequence ratio."""

cumulative_log_ratio = LogRatio("cumulative", _prefix_sums)
"""`S_t`, the log-ratio of the response up to and including this token: CTPO's cumulative token ratio."""

running_mean_log_ratio = LogRatio("running_mean", _running_means)
"""`S_t / t`: the running geometric mean of the token ratios, CTPO's ratio per token of the prefix."""

minimum_prefix_log_ratio = LogRatio("minimum_prefix", _minimum_prefix)
"""`min_{i<t} d_i + d_t`, `d_1` for the first token: MinPRO's stand-in for the prefix' product (arXiv 2601.22718)."""
