"""How training ends early because it was asked to."""

from __future__ import annotations


class Stopped(RuntimeError):
    """Training ended at a safe point because it was asked to; its state is on disk, and it continues from there."""
