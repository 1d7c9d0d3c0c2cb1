"""What feeds the statistics while a run trains."""

from __future__ import annotations

from torch import Tensor

from ctpo.methods import Method, Surrogate, cumulative_log_ratio
from ctpo.positions.stats import PositionStats


class PositionRecorder:
    """The observer (`ctpo.training.policy_loss.LossObserver`) that feeds a `PositionStats`.

    The training loop calls `begin_step` before each step's updates, `begin_update` before each mini-batch update, and
    sets `folds` (int64 `[batch]`) before each micro-batch.
    """

    def __init__(self, stats: PositionStats):
        self.stats = stats
        self.folds: Tensor | None = None
        self.begin_step()

    def begin_step(self) -> None:
        """The next update is the first of a step: the policy has not moved."""
        self._update = -1

    def begin_update(self) -> None:
        """All micro-batches until the next call belong to one mini-batch update."""
        self._update += 1

    def observe(self, method: Method, surrogate: Surrogate, advantages: Tensor, response_mask: Tensor) -> None:
        """Add a micro-batch; tensors are `[batch, response_length]`."""
        is_cumulative = method.log_ratio == cumulative_log_ratio
        self.stats.update(
            surrogate.log_ratio if is_cumulative else surrogate.token_log_ratio.cumsum(-1),
            *(advantages, response_mask),
            token_log_ratio=surrogate.token_log_ratio,
            clipped_high=surrogate.clipped_high,
            clipped_low=surrogate.clipped_low,
            dual_clipped=surrogate.dual_clipped,
            update_index=max(self._update, 0),
            folds=self.folds,
        )
