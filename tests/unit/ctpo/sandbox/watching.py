"""What tests see of a server from outside: its processes, cgroups and descriptors."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from ctpo.sandbox import ExecutionResult
from ctpo.sandbox.memory_watch import children_of, descendants, proportional, state_of

#: `run(code, limits=..., echo=...)`: one call in the real sandbox.
Run = Callable[..., ExecutionResult]
PARENTS = 2  # warm parents of a worker


async def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.01)


def workers(server: int) -> list[int]:
    return children_of(server)


def calls(server: int) -> list[int]:
    """First processes of the calls that run: they have told the kernel to kill them before all others."""
    return [pid for worker in workers(server) for pid in children_of(worker) if _given_up_on(pid)]


def spares(worker: int) -> list[int]:
    """Processes that wait for a call; a worker's oldest children are its warm parents."""
    return [pid for pid in children_of(worker)[PARENTS:] if not _given_up_on(pid)]


def standing(server: int) -> list[int]:
    """The server, its workers and their warm parents."""
    waiting = {pid for worker in workers(server) for pid in spares(worker)}
    return sorted({server, *descendants(server)} - waiting)


def _given_up_on(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    except OSError:
        return False


async def warm(server: int) -> None:
    """Wait until every worker has both its parents and takes calls."""
    await until(lambda: bool(workers(server)) and all(len(children_of(w)) >= PARENTS for w in workers(server)), 120.0)


async def at_rest(server: int) -> None:
    """Wait until no spare is being made and nothing is on its way out."""
    before: list[int] = []
    while before != (before := sorted(descendants(server))):
        await asyncio.sleep(0.5)


def running(pid: int) -> bool:
    """Whether process `pid` is still there (a zombie that init has yet to reap is not)."""
    return state_of(pid) not in "ZX"


def groups(server: int) -> list[str]:
    root = "/sys/fs/cgroup"
    return [f"{at}/{d}" for at, names, _ in os.walk(root) for d in names if d.startswith(f"ctpo-sandbox-{server}-")]


def descriptors(server: int) -> dict[int, int]:
    """Open descriptors of what stands, but for the three ends of each spare."""
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) - 3 * len(spares(pid)) for pid in standing(server)}


def megabytes(server: int) -> float:
    return sum(map(proportional, (server, *descendants(server)))) / 2**20


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()
