"""The methods as verl policy losses, named `ctpo/<method>` so that none shadows one of verl's own.

A loss is what verl calls per micro-batch, in every actor process: it computes the surrogate, hands it to the
actor configuration's observer (position statistics) if there is one, and aggregates through verl's own
`agg_loss` with `config.global_batch_info`, so that the gradient does not depend on how a mini-batch is cut.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, agg_loss, register_policy_loss

from ctpo.methods import METHODS, Method, MethodError
from ctpo.methods.custom import CUSTOM
from ctpo.methods.log_ratios import masked
from ctpo.methods.objective import Surrogate, clipped_surrogate

PREFIX = "ctpo/"


class LossObserver(Protocol):
    """Sees every micro-batch's surrogate; must neither change it nor wait for the device."""

    def observe(self, method: Method, surrogate: Surrogate, advantages: Tensor, response_mask: Tensor) -> None: ...


class MethodLoss:
    """One method with verl's policy-loss signature; None stands for the user's own, which has no defaults."""

    def __init__(self, default: Method | None):
        self.default = default
        self._name = CUSTOM if default is None else default.name
        self.__name__ = self.__qualname__ = PREFIX + self._name

    def __call__(
        self,
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str | None = None,
        config: Any = None,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss (scalar, to be minimised) and metrics of one micro-batch; tensors are `[batch,
        response_length]`.

        Args:
            loss_agg_mode: must be the method's own aggregation; None means just that.
            config: verl's actor configuration; a `MethodActorConfig` carries the method's settings and an
                observer, any other means the method's defaults. `global_batch_info` gives the normalisation.
            rollout_is_weights: verl's correction for the sampler/trainer mismatch; multiplies the surrogate
                after clipping, as verl's own losses do.

        Raises:
            MethodError: `loss_agg_mode` or the configured method contradicts this loss.
        """
        method = self._method(config)
        _check_aggregation(method, loss_agg_mode)
        surrogate = clipped_surrogate(method, log_prob, old_log_prob, advantages, response_mask)
        objective = surrogate.objective
        if rollout_is_weights is not None:
            # A weight may be anything where masked, and 0 times infinity is NaN.
            objective = objective * masked(rollout_is_weights.to(objective.dtype), response_mask.bool())
        mask = response_mask.to(objective.dtype)
        loss = -agg_loss(
            loss_mat=objective,
            loss_mask=mask,
            loss_agg_mode=method.aggregation,
            **(config.global_batch_info if config is not None else {}),
        )
        with torch.no_grad():
            observer: LossObserver | None = getattr(config, "observer", None)
            if observer is not None:
                observer.observe(method, surrogate, advantages, response_mask)
            return loss, loss_metrics(surrogate, mask)

    def _method(self, config: Any) -> Method:
        configured: Method | None = getattr(config, "resolved_method", None)
        if configured is None:
            if self.default is None:
                raise MethodError(f"{self.__name__!r} needs a MethodActorConfig whose method names an import_path")
            return self.default
        if configured.name != self._name:
            raise MethodError(
                f"actor.policy_loss.loss_mode is {self.__name__!r} but method.name is {configured.name!r}; "
                f"set loss_mode to {PREFIX + configured.name!r}"
            )
        return configured


def _check_aggregation(method: Method, loss_agg_mode: str | None) -> None:
    if loss_agg_mode not in (None, method.aggregation):
        raise MethodError(
            f"actor.loss_agg_mode is {loss_agg_mode!r} but method {method.name!r} is defined with "
            f"{method.aggregation!r}; set actor_rollout_ref.actor.loss_agg_mode={method.aggregation}"
        )


def loss_metrics(surrogate: Surrogate, mask: Tensor) -> dict[str, float]:
    """Scalars of one micro-batch, fetched from the device in one transfer; `mask` is a float.

    verl averages them over micro-batches and ranks, then takes the mean over mini-batches (the largest or
    smallest where the name has `max` or `min`), so with micro-batches of unequal length they are close to but
    not exactly the step's fractions; the exact ones come from the position statistics. Fractions are of model
    tokens; `pg_clipfrac_lower` is the dual clip's, under verl's name for it.
    """
    flags = (surrogate.clipped_high, surrogate.clipped_low, surrogate.dual_clipped)
    counts = [mask.new_zeros(()) if flag is None else torch.count_nonzero(flag) for flag in flags]
    log_ratio = surrogate.log_ratio
    extremes = torch.aminmax(log_ratio) if log_ratio.numel() else (mask.new_zeros(()), mask.new_zeros(()))
    sums = torch.stack([mask.sum(), *counts, surrogate.token_log_ratio.sum(), *extremes]).tolist()
    tokens, n_high, n_low, n_dual, log_ratio_sum, smallest, largest = sums
    tokens = max(tokens, 1.0)
    return {
        "actor/pg_clipfrac": (n_high + n_low) / tokens,
        "actor/pg_clipfrac_high": n_high / tokens,
        "actor/pg_clipfrac_low": n_low / tokens,
        "actor/pg_clipfrac_lower": n_dual / tokens,
        "actor/ppo_kl": -log_ratio_sum / tokens,
        "actor/log_ratio_min": smallest,
        "actor/log_ratio_max": largest,
    }


def register_policy_losses() -> list[str]:
    """Register every method with verl as `ctpo/<method>` and return their names; calling it again changes nothing.

    `ctpo/custom`, for a user's own method, is registered besides.

    Raises:
        RuntimeError: another loss already has one of the names.
    """
    for method_name, method in [*METHODS.items(), (CUSTOM, None)]:
        name = PREFIX + method_name
        taken = POLICY_LOSS_REGISTRY.get(name)
        if taken is None:
            register_policy_loss(name)(MethodLoss(method))
        elif not isinstance(taken, MethodLoss):
            raise RuntimeError(f"verl already has a policy loss {name!r} ({taken!r}); it must be this package's")
    return [PREFIX + name for name in METHODS]
