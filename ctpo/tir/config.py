"""The `tir` node of a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ctpo.sandbox.limits import Limits
from ctpo.tir.prompts import MIN_CHARS

_POOL = ("concurrency",)


@dataclass(frozen=True)
class TirConfig:
    """How a trajectory with tools runs.

    max_turns: assistant turns at most; the last one cannot call the tool.
    tool_output_chars: characters of an observation at most.
    sandbox: limits of one call.
    concurrency: calls that run at once on a node; the others wait.

    Raises ValueError naming the field when a value is out of range.
    """

    max_turns: int = 5
    tool_output_chars: int = 256
    sandbox: Limits = field(default_factory=Limits)
    concurrency: int = 2

    def __post_init__(self) -> None:
        least = {"max_turns": 1, "tool_output_chars": MIN_CHARS, "concurrency": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                path = f"tir.sandbox.{name}" if name in _POOL else f"tir.{name}"
                raise ValueError(f"{path}={value!r}: give a whole number, {minimum} or more")

    @classmethod
    def from_node(cls, node: Mapping[str, Any] | None) -> TirConfig:
        """Build from the composed `config.tir` node (`max_turns`, `tool_output_chars`, `sandbox.*`).

        Raises:
            ValueError: a field is unknown or its value is out of range; the message has its full name.
        """
        given = dict(node or {})
        sandbox = dict(given.pop("sandbox", None) or {})
        own = {name: given.pop(name) for name in ("max_turns", "tool_output_chars") if name in given}
        own |= {name: sandbox.pop(name) for name in _POOL if name in sandbox}
        limits = {f.name: sandbox.pop(f.name) for f in fields(Limits) if f.name in sandbox}
        unknown = [*(f"tir.{name}" for name in given), *(f"tir.sandbox.{name}" for name in sandbox)]
        if unknown:
            inner = [f"sandbox.{name}" for name in (*(f.name for f in fields(Limits)), *_POOL)]
            known = ", ".join(["max_turns", "tool_output_chars", *inner])
            raise ValueError(f"unknown field {unknown[0]}: known are {known}")
        try:
            return cls(sandbox=Limits(**limits), **own)
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith("tir.") else f"tir.{message}") from None
