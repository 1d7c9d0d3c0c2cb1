"""The methods that the paper compares, each as a log-ratio, a clip window and an aggregation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctpo.clipping import DualClip, LogWindow, PositionAdaptiveWindow, RatioWindow, Window
from ctpo.log_ratios import (
    LogRatio,
    cumulative_log_ratio,
    length_normalized_log_ratio,
    sequence_log_ratio,
    token_log_ratio,
)


class MethodError(ValueError):
    """A method or one of its settings does not exist or is out of range."""


@dataclass(frozen=True)
class Method:
    """What distinguishes one method from another; everything else of a run is the same for all.

    `aggregation` is a name of verl's `agg_loss`; `dual_clip` is None for every method of the paper.
    """

    name: str
    log_ratio: LogRatio
    window: Window
    citation: str
    aggregation: str = "seq-mean-token-mean"
    dual_clip: DualClip | None = None


CTPO_CITATION = "arXiv 2605.07331"

_ALL = (
    Method("grpo", token_log_ratio, RatioWindow(1 - 0.2, 1 + 0.2), "arXiv 2402.03300"),
    Method("gspo", length_normalized_log_ratio, RatioWindow(1 - 3e-4, 1 + 4e-4), "arXiv 2507.18071"),
    Method("ctpo", cumulative_log_ratio, PositionAdaptiveWindow(0.025, 0.05, 0.5), CTPO_CITATION),
    Method("ctpo_fixed", cumulative_log_ratio, RatioWindow(0.5, 5.0), f"{CTPO_CITATION}, fixed-clip ablation"),
    Method(
        "ctpo_released",
        cumulative_log_ratio,
        PositionAdaptiveWindow(0.025, 0.05, 0.5),
        f"{CTPO_CITATION}, the authors' released code",
        aggregation="token-mean",
        dual_clip=DualClip(0.05, 0.5),
    ),
    # GSPO's interval for the mean log-ratio at a response of 1,000 tokens, where the two ratios clip alike.
    Method("full_sequence", sequence_log_ratio, LogWindow(-0.3, 0.4), f"{CTPO_CITATION}, Table 1"),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}

_TUNABLE = ("window", "dual_clip")


def configure(name: str, overrides: Mapping[str, Any] | None = None) -> Method:
    """`METHODS[name]` with some fields of its window (or dual clip) replaced.

    Args:
        name: a key of `METHODS`.
        overrides: for example `{"window": {"power": 0.7}}`; a part that is absent or None keeps its defaults.

    Raises:
        MethodError: unknown method, part or field, or a value out of range, naming the known ones.
    """
    if name not in METHODS:
        raise MethodError(f"method.name: unknown method {name!r}; known: {', '.join(METHODS)}")
    method = METHODS[name]
    changes = {}
    for part, fields in (overrides or {}).items():
        if fields is None:
            continue
        if part not in _TUNABLE or getattr(method, part) is None:
            known = ", ".join(key for key in _TUNABLE if getattr(method, key) is not None)
            raise MethodError(f"method.{part}: {name!r} has no such setting; known: {known}")
        changes[part] = _replace_fields(part, getattr(method, part), fields)
    return dataclasses.replace(method, **changes)


def _replace_fields(part: str, default: Any, fields: Any) -> Any:
    known = [field.name for field in dataclasses.fields(default)]
    if not isinstance(fields, Mapping):
        raise MethodError(f"method.{part}: expected a mapping with any of {', '.join(known)}, got {fields!r}")
    for key, value in fields.items():
        if key not in known:
            raise MethodError(f"method.{part}.{key}: unknown field; known: {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise MethodError(f"method.{part}.{key}: expected a number, got {value!r}")
    try:
        return dataclasses.replace(default, **{key: float(value) for key, value in fields.items()})
    except ValueError as error:
        raise MethodError(f"method.{error}") from None
