"""How far a run is, for whoever watches it from another process. Not a record: it may be lost."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ctpo.records.files import read_lines, read_note, write_text
from ctpo.records.schema import METRICS_ROW

PHASE_FILE = "phase"
#: Before the reason for which a request is refused, in the phase of a run that never began.
REFUSED = "refused: "


@dataclass(frozen=True)
class Progress:
    """`step`: last one logged; `headline`: a few values of its row for a progress line."""

    phase: str = "starting"
    step: int = 0
    headline: dict[str, str] = field(default_factory=dict)


def set_phase(run_directory: Path, phase: str) -> None:
    """Say what the run is doing now, in a word or two; on a full disk nothing is said."""
    with suppress(OSError):
        write_text(run_directory / PHASE_FILE, phase)


def read_progress(run_directory: Path) -> Progress:
    """The run's progress; a run that has said nothing yet is starting."""
    phase = read_note(run_directory / PHASE_FILE) or "starting"
    rows, _ = read_lines(run_directory / "metrics.jsonl", METRICS_ROW)
    if not rows:
        return Progress(phase)
    headline = {}
    for row in rows:
        for name, value in row.items():
            if not isinstance(value, int | float):
                continue
            if name.startswith("val-core/") and "/mean@" in name:
                headline["held-out"] = f"{value:.3f}"
            elif name == "critic/score/mean":
                headline["train"] = f"{value:.3f}"
            elif name == "actor/pg_clipfrac":
                headline["clipped"] = f"{value:.1%}"
            elif name == "timing_s/step":
                headline["s/step"] = f"{value:.1f}"
    return Progress(phase, rows[-1]["step"], headline)
