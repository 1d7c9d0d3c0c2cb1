"""Record files of one training step: ``step_<n>.npz`` and ``step_<n>.parquet``."""

from __future__ import annotations

import re
from pathlib import Path

_STEP_FILE = re.compile(r"step_(0|[1-9][0-9]{0,15})\.(npz|parquet)")


def step_of(path: Path) -> int | None:
    """The step a record file is of; None for any other file (a temporary one, say)."""
    match = _STEP_FILE.fullmatch(path.name)
    return int(match.group(1)) if match else None
