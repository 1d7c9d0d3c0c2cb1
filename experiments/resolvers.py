"""OmegaConf resolvers that `experiments/configs` uses: where things are, and nothing else."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ctpo.records import method_code

PROJECT_ROOT = Path(__file__).resolve().parents[1]


def package_dir(name: str) -> Path:
    """Folder of an installed package, without importing it (verl alone takes 7 s)."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} is not installed in this environment; run `make setup`")
    return Path(spec.origin).parent


def register() -> None:
    """Register all resolvers (idempotent)."""
    OmegaConf.register_new_resolver("project_root", lambda: str(PROJECT_ROOT), replace=True)
    OmegaConf.register_new_resolver("package_dir", lambda: str(PROJECT_ROOT / "ctpo"), replace=True)
    OmegaConf.register_new_resolver("working_dir", os.getcwd, replace=True)
    OmegaConf.register_new_resolver(
        "verl_config_dir", lambda: str(package_dir("verl") / "trainer" / "config"), replace=True
    )
    OmegaConf.register_new_resolver(
        "cores_each", lambda processes: max(1, len(os.sched_getaffinity(0)) // processes), replace=True
    )
    OmegaConf.register_new_resolver(
        "variant_of", lambda method, variant: f"{method}-{variant}" if variant else method, replace=True
    )
    OmegaConf.register_new_resolver("method_code", method_code.fingerprints, replace=True)
    OmegaConf.register_new_resolver("updates_per_step", updates_per_step, replace=True)


def updates_per_step(prompts: Any, mini: Any, epochs: Any) -> int:
    """Mini-batch updates of a step; 1 where a value is none that a run can have, which preflight says."""
    if not all(type(value) is int and value > 0 for value in (prompts, mini, epochs)):
        return 1
    return int(-(-prompts // mini) * epochs)
