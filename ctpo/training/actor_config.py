"""verl's FSDP actor configuration with the fields that a method needs.

Selected by `actor_rollout_ref.actor._target_: ctpo.training.actor_config.MethodActorConfig`; verl's own class refuses
fields it does not know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from verl.workers.config import FSDPActorConfig

from ctpo.methods import Method, MethodError, configure
from ctpo.methods.method import CONSTANT_NORMALISER
from ctpo.records.position_stats import StatsLayout


@dataclass(frozen=True)
class PositionStatsConfig:
    """Size of the position statistics. All are positive integers.

    `max_position`: last position recorded (model tokens); `bin_width`: positions per bin;
    `folds`: prompt folds of the jackknife; `max_updates`: most mini-batch updates in a step.
    """

    max_position: int = 8000
    bin_width: int = 64
    folds: int = 32
    max_updates: int = 16

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise MethodError(f"method.position_stats.{item.name}: expected a positive integer, got {value!r}")
        try:
            StatsLayout(windows=(), **dataclasses.asdict(self))
        except ValueError as error:
            raise MethodError(f"method.{error}") from None


@dataclass
class MethodActorConfig(FSDPActorConfig):
    """`FSDPActorConfig` plus `method`, the composed `method` node of the run's configuration.

    `method` is `{name, window: {...}, dual_clip: {...}, rule: {...}, position_stats: {...}}`, with `import_path` and
    `search_path` where `name` is `custom`; all but `name` may be left out. It is checked here, so that a wrong setting
    stops the run before any model is loaded. `observer` is set by the worker (see
    `ctpo.training.policy_loss.LossObserver`) and is not a setting.

    Raises:
        MethodError: `method` names an unknown method, part or field, or contradicts `loss_agg_mode` or
        `loss_mode`.
    """

    _mutable_fields = FSDPActorConfig._mutable_fields | {"observer", "_resolved_method"}

    method: dict[str, Any] = field(default_factory=dict)
    observer: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._resolved_method = method_from_config(self.method)
        method, loss_mode = self._resolved_method, self.policy_loss.loss_mode
        if loss_mode != f"ctpo/{method.name}":
            raise MethodError(
                f"actor.policy_loss.loss_mode is {loss_mode!r} but method.name is {method.name!r}; "
                f"set loss_mode to 'ctpo/{method.name}'"
            )
        if self.loss_agg_mode != method.aggregation:
            raise MethodError(
                f"actor.loss_agg_mode is {self.loss_agg_mode!r} but method {method.name!r} is defined with "
                f"{method.aggregation!r}; set actor_rollout_ref.actor.loss_agg_mode={method.aggregation}"
            )
        if method.aggregation == CONSTANT_NORMALISER and self.loss_scale_factor is None:
            raise MethodError(
                f"actor.loss_scale_factor is not set, but method {method.name!r} divides by it; "
                "set actor_rollout_ref.actor.loss_scale_factor=${data.max_response_length}"
            )
        _ = self.position_stats

    def calibrate(self, deviations: Tensor) -> None:
        """From now on clip by these standard deviations of `log rho_t` (see `CalibratedWindow`), `[positions]`."""
        method = self._resolved_method
        window = dataclasses.replace(method.window, deviations=deviations)  # type: ignore[type-var]
        self._resolved_method = dataclasses.replace(method, window=window)

    @property
    def resolved_method(self) -> Method:
        """The method with this configuration's overrides."""
        return self._resolved_method

    @property
    def position_stats(self) -> PositionStatsConfig:
        """The statistics' settings."""
        return position_stats_from_config(self.method)


def method_from_config(node: Mapping[str, Any]) -> Method:
    """The `Method` that a composed `method` node describes.

    Raises:
        MethodError: unknown method, part or field, or a value out of range.
    """
    if not node.get("name"):
        raise MethodError("method.name: missing; choose one with method=<name>, for example method=ctpo")
    return configure(node["name"], {key: value for key, value in node.items() if key not in _NOT_THE_METHOD})


_NOT_THE_METHOD = ("name", "position_stats")


def position_stats_from_config(node: Mapping[str, Any]) -> PositionStatsConfig:
    """The `position_stats` part of a composed `method` node; absent fields keep their defaults.

    Raises:
        MethodError: unknown field, or a value that is not a positive integer.
    """
    settings = node.get("position_stats") or {}
    known = [item.name for item in dataclasses.fields(PositionStatsConfig)]
    for key in settings:
        if key not in known:
            raise MethodError(f"method.position_stats.{key}: unknown field; known: {', '.join(known)}")
    return PositionStatsConfig(**settings)
