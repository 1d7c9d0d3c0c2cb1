"""``stop``: a request to a training run to save and end at its next safe point. Not a record."""

from __future__ import annotations

from pathlib import Path

from ctpo.records.files import read_note, write_text

FILE = "stop"


class Stopped(RuntimeError):
    """Training ended at a safe point because it was asked to; its state is on disk, and it continues from there."""


def request_stop(run: Path, reason: str) -> None:
    """Ask whoever trains into `run` to save and end as soon as it safely can."""
    write_text(run / FILE, reason)


def stop_reason(run: Path) -> str | None:
    """Why the run was asked to end, None if it was not."""
    return read_note(run / FILE)


def clear_stop(run: Path) -> None:
    """The request is met, or of an attempt that is over."""
    (run / FILE).unlink(missing_ok=True)
