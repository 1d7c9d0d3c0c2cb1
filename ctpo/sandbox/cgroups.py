"""A memory and a process-count limit on all of a call's processes together, where the host lets us set one.

Version 1: a group below our own in each hierarchy. Version 2: a sibling of our own group or of an ancestor,
since a group that holds processes cannot pass controllers on; the nearest one that offers both controllers
is taken, so that a batch job's own limits keep holding. Groups are named after the process that made them;
whatever a killed one left is removed at the next start.

Where there is a `cpu` controller too, calls that run at once get equal shares of the processors, however many processes
or sessions each has.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from ctpo.sandbox.limits import Limits

_PREFIX = "ctpo-sandbox"
_OWN_PROCESSES = 4  # two warm parents with a spare each; or bubblewrap outside and as pid 1
_USAGE_FILES = {1: "memory.usage_in_bytes", 2: "memory.current"}
_FILE_CACHE = {1: r"^total_(?:in)?active_file (\d+)$", 2: r"^(?:in)?active_file (\d+)$"}
_KILLS_FILES = {1: "memory.oom_control", 2: "memory.events"}
_LIMIT_FILES = {1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), 2: ("memory.max", "memory.swap.max")}


@dataclass(frozen=True)
class CgroupHome:
    """Directories in which groups can be made: one (version 2) or one per controller (version 1)."""

    version: int
    memory: Path
    pids: Path
    cpu: Path | None = None  # where processors are shared out between groups


class Cgroup:
    """One group (a directory per controller in version 1) that exists.

    The files that admit a process and set the limits are opened at once: what is opened as root still works
    for a worker that has given root up.
    """

    def __init__(self, home: CgroupHome, name: str) -> None:
        self.version, self.memory, self.pids = home.version, home.memory / name, home.pids / name
        self.folders = {self.memory, self.pids, *((home.cpu / name,) if home.cpu else ())}
        self._bounds = (0, 0)
        self._resident = 0
        self._files: dict[str, FileIO] = {}

    def open(self) -> None:
        """Open the files. Raises OSError."""
        limit, swap = _LIMIT_FILES[self.version]
        for folder in self.folders:
            self._files[str(folder)] = (folder / "cgroup.procs").open("wb", buffering=0)
        self._files["memory"] = (self.memory / limit).open("wb", buffering=0)
        self._files["pids"] = (self.pids / "pids.max").open("wb", buffering=0)
        if (self.memory / swap).exists():  # where the kernel counts swap
            self._files["swap"] = (self.memory / swap).open("wb", buffering=0)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def set_limits(self, limits: Limits) -> None:
        """Bound the memory and the number of processes. Raises OSError."""
        bounds = (limits.memory_mb, limits.processes)
        if bounds == self._bounds:
            return
        size = b"%d" % (self._resident + (limits.memory_mb << 20))
        swap = b"0" if self.version == 2 else size
        with contextlib.suppress(OSError):  # in version 1 neither limit may pass the other on the way
            if "swap" in self._files:
                self._files["swap"].write(swap)
        self._files["memory"].write(size)
        if "swap" in self._files:
            self._files["swap"].write(swap)
        self._files["pids"].write(b"%d" % (limits.processes + _OWN_PROCESSES))
        self._bounds = bounds

    def settle(self) -> None:
        """What the group holds now is not a call's: limits set from here on come on top of it.

        Cached files do not count: the kernel gives them up before it runs out.
        """
        cached = re.findall(_FILE_CACHE[self.version], (self.memory / "memory.stat").read_text(), re.MULTILINE)
        self._resident = int((self.memory / _USAGE_FILES[self.version]).read_text()) - sum(map(int, cached))
        self.forget_limits()

    def forget_limits(self) -> None:
        """The next limits are written, whatever another process has set before."""
        self._bounds = (0, 0)

    def die_as_one(self) -> None:
        """When it is out of memory the kernel kills all of it (version 2 alone can), not one process."""
        file = self.memory / "memory.oom.group"
        if file.exists():
            file.write_text("1")

    def admit(self, pid: int) -> None:
        """Put process `pid` (0: the calling one), and so all its future children, into the group.

        The kernel may take 10 ms over it, waiting for all processors: not something to do for every call.
        """
        for folder in self.folders:
            self._files[str(folder)].write(b"%d" % pid)

    def out_of_memory_kills(self) -> int:
        """How many processes of the group the kernel has killed for memory so far."""
        if "kills" not in self._files:
            self._files["kills"] = (self.memory / _KILLS_FILES[self.version]).open("rb", buffering=0)
        text = os.pread(self._files["kills"].fileno(), 4096, 0)
        found = re.search(rb"^oom_kill (\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else 0

    def remove(self) -> None:
        """Remove the group; its processes must be dead or dying. Waits up to a second for them."""
        self.close()
        for folder in self.folders:
            for _ in range(200):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.005)


def find_home(proc: Path = Path("/proc")) -> CgroupHome | None:
    """Where this process may make groups with a memory and a pids limit; None when nowhere."""
    mounts = [line.split() for line in (proc / "self/mounts").read_text().splitlines()]
    own = {}
    for line in (proc / "self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        own.update(dict.fromkeys(names.split(","), path.lstrip("/")))
    for _, where, kind, *_ in mounts:
        if kind == "cgroup2":
            for folder in _upwards(Path(where), Path(where) / own.get("", "")):
                passed_on = _passed_on(folder)
                home = CgroupHome(2, folder, folder, folder if "cpu" in passed_on else None)
                if {"memory", "pids"} <= passed_on and _works(home):
                    return home
    roots = {}
    for _, where, kind, options, *_ in mounts:
        for name in {"memory", "pids", "cpu"} & set(options.split(",")) if kind == "cgroup" else ():
            inner = Path(where) / own.get(name, "")
            roots[name] = inner if inner.is_dir() else Path(where)
    if {"memory", "pids"} <= roots.keys():
        for cpu in (roots.get("cpu"), None):
            home = CgroupHome(1, roots["memory"], roots["pids"], cpu)
            if _works(home):
                return home
    return None


def make(home: CgroupHome, slot: str, limits: Limits) -> Cgroup:
    """Make the group `slot` of this process, with `limits` set. Raises OSError."""
    name = f"{_PREFIX}-{os.getpid()}-{_start_time(os.getpid())}-{slot}"
    group = Cgroup(home, name)
    try:
        for folder in group.folders:
            folder.mkdir()
        group.open()
        group.set_limits(limits)
    except OSError:
        group.remove()
        raise
    return group


def sweep(home: CgroupHome) -> None:
    """Remove the groups of processes that are gone."""
    for parent in {home.memory, home.pids, home.cpu or home.pids}:
        for folder in parent.glob(f"{_PREFIX}-*-*-*"):
            pid, started = folder.name.removeprefix(f"{_PREFIX}-").split("-")[:2]
            if _start_time(int(pid)) != started:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _works(home: CgroupHome) -> bool:
    """Whether a group can be made there and a process of ours can enter it."""
    try:
        group = make(home, "probe", Limits())
    except OSError:
        return False
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(OSError):
            group.admit(0)
            status = 0
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    group.remove()
    return status == 0


def _upwards(top: Path, start: Path) -> list[Path]:
    return [p for p in (start, *start.parents) if (p == top or top in p.parents) and p.is_dir()]


def _passed_on(folder: Path) -> set[str]:
    with contextlib.suppress(OSError):
        return set((folder / "cgroup.subtree_control").read_text().split())
    return set()


def _start_time(pid: int) -> str:
    """Start time of a process in clock ticks since boot (field 22 of /proc/pid/stat); empty if it is dead."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else numbers[18]
