"""Table 1 of arXiv 2605.07331, and two more ratios: which importance log-ratio a token gets.

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

Every row has derivative 1 with respect to its own token's log-probability and 0 with respect to any other token's.
Tool output and padding (mask 0) get a log-ratio and a gradient of exactly 0 and never enter a sum, even where their
log-probabilities are NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_ABS_TOKEN_LOG_RATIO = 20.0
"""`d_t` is clamped to plus or minus this, so that one broken log-probability cannot make a sum infinite."""


def token_positions(response_mask: Tensor) -> Tensor:
    """1-based position of every model token, int64 `[batch, response_length]`.

    Tool output and padding do not advance it: they hold the position of the last model token before them.
    """
    return response_mask.bool().cumsum(dim=-1)


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where the bool `mask` is True, exactly 0 elsewhere, NaN included; so is the gradient."""
    return torch.where(mask, values, 0.0)


def with_own_gradient(value: Tensor, d: Tensor) -> Tensor:
    """`sg(value) + d - sg(d)`: `value`, with the derivative of `d`."""
    return value.detach() + (d - d.detach())


def token_increments(log_prob: Tensor, old_log_prob: Tensor, mask: Tensor) -> Tensor:
    """`d_t`, clamped to `MAX_ABS_TOKEN_LOG_RATIO`, with derivative 1 in the clamp as well; float32 or wider."""
    dtype = torch.promote_types(torch.promote_types(log_prob.dtype, old_log_prob.dtype), torch.float32)
    log_prob, old_log_prob = masked(log_prob.to(dtype), mask), masked(old_log_prob.to(dtype), mask)
    d = (log_prob - old_log_prob).clamp(-MAX_ABS_TOKEN_LOG_RATIO, MAX_ABS_TOKEN_LOG_RATIO)
    return with_own_gradient(d, log_prob.nan_to_num())  # infinity minus infinity would be NaN


@dataclass(frozen=True)
class LogRatio:
    """A row of Table 1.

    `accumulate(d, mask)` makes the row's values from `d_t` (0 where masked) and the bool mask, both
    `[batch, response_length]`. Its own gradient is not used, and what it gives where masked is ignored.
    """

    name: str
    accumulate: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, log_prob: Tensor, old_log_prob: Tensor, response_mask: Tensor) -> Tensor:
        """The log-ratio of every token, with its gradient; all tensors `[batch, response_length]`."""
        mask = response_mask.bool()
        return self.of(token_increments(log_prob, old_log_prob, mask), mask)

    def of(self, d: Tensor, mask: Tensor) -> Tensor:
        """The same from `token_increments`."""
        return with_own_gradient(masked(self.accumulate(d.detach(), mask), mask), d)


def _token(d: Tensor, mask: Tensor) -> Tensor:
    return d


def _mean(d: Tensor, mask: Tensor) -> Tensor:
    return (d.sum(dim=-1, keepdim=True) / mask.sum(dim=-1, keepdim=True).clamp(min=1)).expand_as(d)


def _total(d: Tensor, mask: Tensor) -> Tensor:
    return d.sum(dim=-1, keepdim=True).expand_as(d)


def _prefix_sums(d: Tensor, mask: Tensor) -> Tensor:
    return d.cumsum(dim=-1)


def _running_means(d: Tensor, mask: Tensor) -> Tensor:
    return d.cumsum(dim=-1) / token_positions(mask).clamp(min=1)


def _minimum_prefix(d: Tensor, mask: Tensor) -> Tensor:
    running = torch.where(mask, d, torch.inf).cummin(dim=-1).values
    before = torch.nn.functional.pad(running, (1, 0), value=torch.inf)[..., :-1]
    return d + torch.where(before.isinf(), 0.0, before)  # the first token has no prefix: its product is empty


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
