"""What /proc says of a call's processes: their memory, bounded here where no cgroup can, their wait for processors."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Watch:
    """Watches a call's processes against `memory_mb` MiB beyond `base_bytes`; look every `interval_s` seconds.

    Weaker than a cgroup: between two looks a call can take what 32 processes touch in that time, and kernel
    memory (inodes, pipes) is not counted.
    """

    interval_s = 0.05

    def __init__(self, memory_mb: int, base_bytes: int) -> None:
        self._limit = (memory_mb << 20) + base_bytes

    def exceeded(self, pid: int) -> bool:
        """Whether `pid` and its descendants hold more, each shared page counted once over its sharers."""
        pids = [pid, *descendants(pid)]
        # Resident sizes count shared pages in every process: an upper bound that is cheap to read.
        if sum(map(_resident, pids)) <= self._limit:
            return False
        return sum(map(proportional, pids)) > self._limit


def children_of(pid: int) -> list[int]:
    """Living or unreaped children of all threads of `pid`; empty if it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def descendants(pid: int) -> Iterator[int]:
    """Children of `pid`, their children, and so on."""
    for child in children_of(pid):
        yield child
        yield from descendants(child)


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def state_of(pid: int) -> str:
    """One letter as in ps(1), `X` if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def kept_waiting(pid: int) -> float:
    """Seconds for which `pid` or a descendant was ready to run and had no processor: of the thread that waited longest.

    0 where the kernel keeps no account of it.
    """
    longest = 0
    for process in (pid, *descendants(pid)):
        for file in Path(f"/proc/{process}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                longest = max(longest, int(file.read_text().split()[1]))
    return longest / 1e9


def proportional(pid: int) -> int:
    """Bytes that the process holds, each shared page divided by the number of its sharers."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) << 10 if found else 0
    return 0
