"""The `tir` node of a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ctpo.sandbox.limits import Limits
from ctpo.tir.prompts import MIN_CHARS

_RANGES = {"max_turns": (1, 10_000), "tool_output_chars": (MIN_CHARS, 10**6), "concurrency": (1, 10_000)}


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
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                path = "tir.sandbox.concurrency" if name == "concurrency" else f"tir.{name}"
                raise ValueError(f"{path}={value!r:.80}: give a whole number from {least} to {most}")

    @classmethod
    def from_node(cls, node: Mapping[str, Any] | None) -> TirConfig:
        """Build from the composed `config.tir` node (`max_turns`, `tool_output_chars`, `sandbox.*`).

        Raises:
            ValueError: a field is unknown or its value is out of range; the message has its full name.
        """
        given = dict(node or {})
        sandbox = given.pop("sandbox", None) or {}
        if not isinstance(sandbox, Mapping):
            raise ValueError(f"tir.sandbox={sandbox!r:.80}: give fields, for example tir.sandbox.wall_s=5")
        limits = {name: value for name, value in sandbox.items() if name != "concurrency"}
        own = {**given, **{name: value for name, value in sandbox.items() if name == "concurrency"}}
        for path, names, known in (
            ("tir", given, ("max_turns", "tool_output_chars")),
            ("tir.sandbox", limits, [each.name for each in fields(Limits)]),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(f"{path}.{name}: no such field; there are {', '.join(known)}")
        try:
            made = Limits(**limits)
        except ValueError as error:
            raise ValueError(f"tir.{error}") from None
        return cls(sandbox=made, **own)
