"""What one tool call may use."""

from __future__ import annotations

from dataclasses import dataclass, fields

#: Least and most of each limit, inclusive. The most is beyond any use, and within what the kernel's counters hold.
BOUNDS: dict[str, tuple[float, float]] = {
    "wall_s": (0.05, 3600),
    "cpu_s": (0.05, 3600),
    "memory_mb": (32, 1 << 16),
    "output_bytes": (256, 1 << 26),
    "processes": (1, 4096),
    "file_mb": (1, 1 << 14),
    "files": (16, 1_000_000),
}


@dataclass(frozen=True)
class Limits:
    """Limits of one call. Reaching one ends that call, never the run.

    wall_s: seconds from the start of the isolated process to its end, without those (up to three times as many) in
        which it was ready to run and others had the processors.
    cpu_s: CPU seconds of each process of the call (whole seconds; fractions are rounded up).
    memory_mb: MiB of all processes of the call together, beyond what the warm parent has imported for it.
    output_bytes: bytes kept of stdout, and as many of stderr; writing more ends the call.
    processes: processes and threads alive at once.
    file_mb: MiB of the largest file, and of the whole scratch directory.
    files: files, directories and links in the scratch directory.

    Raises ValueError naming the field, its value and its `BOUNDS`.
    """

    wall_s: float = 5.0
    cpu_s: float = 5.0
    memory_mb: int = 512
    output_bytes: int = 65536
    processes: int = 32
    file_mb: int = 32
    files: int = 4096

    def __post_init__(self) -> None:
        for field in fields(self):
            value, (least, most) = getattr(self, field.name), BOUNDS[field.name]
            kind, wanted = (int | float, "a number") if isinstance(field.default, float) else (int, "a whole number")
            if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
                long = isinstance(value, int) and value.bit_length() > 128  # Python shows no number of 4,300 digits
                shown = "(over 38 digits)" if long else f"{value!r:.40}"
                raise ValueError(f"sandbox.{field.name}={shown}: give {wanted} from {least} to {most}")
