"""What one tool call may use."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Limits of one call. Reaching one ends that call, never the run.

    wall_s: seconds from the start of the isolated process to its end.
    cpu_s: CPU seconds of each process of the call (whole seconds; fractions are rounded up).
    memory_mb: MiB of all processes of the call together, beyond what the warm parent has imported for it.
    output_bytes: bytes kept of stdout, and as many of stderr; writing more ends the call.
    processes: processes and threads alive at once.
    file_mb: MiB of the largest file, and of the whole scratch directory.
    files: files, directories and links in the scratch directory.

    Raises ValueError naming the field when a value is out of range.
    """

    wall_s: float = 5.0
    cpu_s: float = 5.0
    memory_mb: int = 512
    output_bytes: int = 65536
    processes: int = 32
    file_mb: int = 32
    files: int = 4096

    def __post_init__(self) -> None:
        least = {
            "wall_s": 0.05,
            "cpu_s": 0.05,
            "memory_mb": 32,
            "output_bytes": 256,
            "processes": 1,
            "file_mb": 1,
            "files": 16,
        }
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = "a number" if field.name in ("wall_s", "cpu_s") else "a whole number"
            kinds = (int, float) if wanted == "a number" else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(f"sandbox.{field.name}={value!r}: give {wanted}")
            if not (least[field.name] <= value and math.isfinite(value)):
                raise ValueError(f"sandbox.{field.name}={value!r}: must be at least {least[field.name]} and finite")
