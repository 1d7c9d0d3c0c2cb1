"""What tests see of a server from outside: its processes, cgroups and descriptors."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from ctpo.sandbox.memory_watch import children_of, descendants, proportional, state_of

PARENTS = 2  # warm parents of a worker


async def until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.01)


def workers(server: int) -> list[int]:
    return children_of(server)


def calls(server: int) -> list[int]:
    """First processes of the calls that run; a worker's oldest children are its warm parents."""
    return [pid for worker in workers(server) for pid in children_of(worker)[PARENTS:]]


async def warm(server: int) -> None:
    """Wait until every worker has both its parents and takes calls."""
    await until(lambda: bool(workers(server)) and all(len(children_of(w)) >= PARENTS for w in workers(server)), 120.0)


def running(pid: int) -> bool:
    """Whether process `pid` is still there (a zombie that init has yet to reap is not)."""
    return state_of(pid) not in "ZX"


def groups(server: int) -> list[str]:
    root = "/sys/fs/cgroup"
    return [f"{at}/{d}" for at, names, _ in os.walk(root) for d in names if d.startswith(f"ctpo-sandbox-{server}-")]


def descriptors(server: int) -> dict[int, int]:
    """Open descriptors of the server, its workers and their warm parents."""
    pids = [server, *descendants(server)]
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids}


def megabytes(server: int) -> float:
    return sum(map(proportional, (server, *descendants(server)))) / 2**20


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()
