"""Keeps the checkpoint with the best held-out accuracy, while verl keeps the newest ones.

Hard links: verl may delete its copy, no byte is stored twice. `best/` is replaced by renames, so a reader finds a
whole one; a run killed in between finds the previous one or none, never half of one.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ctpo.records.files import parsed, read_bytes, write_text
from ctpo.records.schema import BEST_NOTE

BEST = "best"
INFO = "best.json"


def best_so_far(checkpoints: Path) -> tuple[int, float] | None:
    """`(step, accuracy)` of the checkpoint kept in `checkpoints/best`; None if there is none, or its note is torn."""
    try:
        info = parsed(read_bytes(checkpoints / BEST / INFO), BEST_NOTE)
    except (OSError, ValueError):
        return None
    return info["step"], info["accuracy"]


def drop_future_best(checkpoints: Path, step: int) -> None:
    """Forget a best checkpoint of beyond `step`, which a run resumes from: that future did not happen."""
    if not (checkpoints / BEST).exists() and (checkpoints / f".{BEST}.old").exists():
        (checkpoints / f".{BEST}.old").rename(checkpoints / BEST)  # killed between the two renames
    best = best_so_far(checkpoints)
    if best is not None and best[0] > step:
        shutil.rmtree(checkpoints / BEST)


def keep_if_best(checkpoints: Path, step: int, accuracy: float) -> bool:
    """Keep `checkpoints/global_step_<step>` as `checkpoints/best` if none kept of another step is as accurate.

    Returns:
        Whether it is now the best. False also where no checkpoint was saved at this step.
    """
    source = checkpoints / f"global_step_{step}"
    best = best_so_far(checkpoints)
    if not source.is_dir() or (best is not None and best[0] != step and best[1] >= accuracy):
        return False
    made = checkpoints / f".{BEST}.new"
    replaced = checkpoints / f".{BEST}.old"
    for leftover in (made, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, made, copy_function=_link_or_copy)
    write_text(made / INFO, json.dumps({"step": step, "accuracy": accuracy}))
    if (checkpoints / BEST).exists():
        (checkpoints / BEST).rename(replaced)
    made.rename(checkpoints / BEST)
    shutil.rmtree(replaced, ignore_errors=True)
    return True


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
