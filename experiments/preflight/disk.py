"""Room for a run's checkpoints and records."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from experiments.planner.checkpoint_size import bytes_of_checkpoints, exact_parameters
from experiments.planner.shapes import PlanError, model_settings


def disk_problems(config: DictConfig) -> Iterator[str]:
    """Less free space where the run writes than its checkpoints can come to take."""
    try:
        parameters = exact_parameters(model_settings(config))
    except (PlanError, KeyError, TypeError, ValueError):
        return  # a model that is not known yet; `model_folder` says what is wrong with it
    folder = Path(config.trainer.default_local_dir)
    needed = bytes_of_checkpoints(parameters, config.trainer.max_actor_ckpt_to_keep or 1)
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
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
