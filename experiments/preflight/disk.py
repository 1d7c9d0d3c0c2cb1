"""Room for a run's checkpoints and records."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from ctpo.records.shapes import shown
from experiments.planner.checkpoint_size import bytes_of_checkpoints, exact_parameters
from experiments.planner.shapes import model_settings


def disk_problems(config: DictConfig) -> Iterator[str]:
    """A place where the run cannot write, or where less is free than its checkpoints can come to take."""
    folder = Path(config.trainer.default_local_dir)
    if problem := _unwritable(Path(config.run.dir)) or _unwritable(folder):
        yield f"run.root={shown(config.run.root)}: {problem}; name a folder that you may write to"
        return
    try:
        parameters = exact_parameters(model_settings(config))
    except (KeyError, TypeError, ValueError):
        return  # a model that is not known yet; `model_folder` says what is wrong with it
    needed = bytes_of_checkpoints(parameters, config.trainer.max_actor_ckpt_to_keep or 1)
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    free = shutil.disk_usage(_there(folder)).free
    if free + held < needed:
        yield (
            f"run.root={config.run.root}: {in_units(free)} are free there, checkpoints can take "
            f"{in_units(needed)} (trainer.max_actor_ckpt_to_keep={config.trainer.max_actor_ckpt_to_keep}, the "
            "best, one in writing); name a larger disk"
        )


def in_units(count: int) -> str:
    """Bytes with two digits or more, in the largest decimal unit for that."""
    for exponent, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10 ** (exponent + 1):
            return f"{count / 10**exponent:,.0f} {unit}"
    return f"{count} bytes"


def _there(folder: Path) -> Path:
    """`folder`, or the nearest one above it that is there."""
    return folder if folder.exists() or folder.is_symlink() else _there(folder.parent)


def _unwritable(folder: Path) -> str | None:
    if str(folder).startswith("~"):
        return "~ is an ordinary name here"
    if not str(folder).isprintable():
        return "it has characters that no terminal shows"
    try:
        there = _there(folder.absolute())
        longest = max((len(os.fsencode(part)) for part in folder.parts), default=0)
        most = os.pathconf(there, "PC_NAME_MAX") if there.is_dir() else longest
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    if not there.is_dir():
        return f"{there} is no folder"
    if longest > most:
        return f"a name of {longest} bytes is longer than the {most} that its file system takes"
    return None if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written to"
