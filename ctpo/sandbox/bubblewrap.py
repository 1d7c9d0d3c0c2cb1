"""A call in a process of its own, isolated by bubblewrap from start to end (see bwrap(1)).

The slow way: every call starts an interpreter that must import what it uses. It serves hosts that let
bubblewrap make namespaces but not what runs inside it or beside it (AppArmor on Ubuntu from 23.10 has a
profile for bubblewrap alone), and as the yardstick of `make bench`. The kernel's own checks are the same; weaker
than the warm way is only that the number of files in the scratch directory is not bounded, and that without root a
call can set the times of /dev/null, /dev/zero and /dev/urandom.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from ctpo.sandbox import inside
from ctpo.sandbox.calls import Ends, Started
from ctpo.sandbox.cgroups import Cgroup
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.protocol import Request
from ctpo.sandbox.results import SandboxUnavailable
from ctpo.sandbox.runtime import DEVICES, PYTHON, SCRATCH, Layout, inside_program

INSTALL_HINT = "apt-get install bubblewrap (Debian, Ubuntu) or dnf install bubblewrap (Fedora, RHEL)"
OLDEST = (0, 8, 0)  # the first with --disable-userns
CHANNEL, SECCOMP = inside.CHANNEL, inside.CHANNEL + 1  # descriptors that bubblewrap is started with
_PROGRAM = inside_program("inside.run(inside.cold())", "uncaught", "inside")


def find_bubblewrap(system: str = "/usr/bin:/usr/local/bin:/bin") -> tuple[str, str]:
    """Path and version of the first bubblewrap on PATH, then in `system`, that is new enough.

    Raises SandboxUnavailable when there is none, naming those that are too old.
    """
    found = {shutil.which("bwrap"), *(shutil.which("bwrap", path=folder) for folder in system.split(":"))}
    too_old = []
    for path in sorted(filter(None, found), key=lambda p: p != shutil.which("bwrap")):
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
        numbers = re.search(r"(\d+)\.(\d+)\.(\d+)", said.stdout)
        if numbers and tuple(map(int, numbers.groups())) >= OLDEST:
            return path, numbers[0]
        too_old.append(f"{path} ({said.stdout.strip() or 'not bubblewrap'})")
    if not too_old:
        raise SandboxUnavailable(f"sandbox: bubblewrap is not installed: {INSTALL_HINT}")
    oldest = ".".join(map(str, OLDEST))
    raise SandboxUnavailable(
        f"sandbox: it needs bubblewrap {oldest} or newer, not {', '.join(too_old)}: {INSTALL_HINT}; "
        "where that is older still, build it (github.com/containers/bubblewrap) and put it on PATH"
    )


def layout_arguments(layout: Layout) -> list[str]:
    """Arguments that build the tree from its parts."""
    arguments: list[str] = ["--perms", "0755", "--dir", "/usr", "--perms", "0755", "--dir", "/usr/lib"]
    for target, link in layout.links:
        arguments += ["--symlink", target, link]
    for source, place in layout.binds:
        arguments += ["--ro-bind", source, place]
    for place in layout.empty:
        arguments += ["--tmpfs", place, "--remount-ro", place]
    return arguments + _devices("")


def staged_arguments(root: str) -> list[str]:
    """Arguments that take the whole tree from a directory where it was already put together."""
    return ["--ro-bind", root, "/", *_devices(root)]


def _devices(root: str) -> list[str]:
    """Those of the staged tree are mounted read-only; bubblewrap itself could not without making them useless."""
    return [argument for device in DEVICES for argument in ("--dev-bind", root + device, device)]


def command(bwrap: str, tree: list[str], limits: Limits) -> list[str]:
    """The whole command line; expects the order on CHANNEL and the filter on SECCOMP."""
    return [
        bwrap,
        *(
            "--unshare-user",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ),
        *("--disable-userns", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--seccomp", str(SECCOMP)),
        *tree,
        *("--size", str(limits.file_mb << 20), "--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", SCRATCH),
        "--",
        *(PYTHON, "-I", "-S", "-B", "-X", "utf8", "-c", _PROGRAM),
    ]


class ColdStart:
    """Starts calls of one worker. `tree`: bubblewrap arguments; `bpf`: the filter; `group`: of all calls."""

    parents: frozenset[int] = frozenset()
    leaves_orphans = True

    def __init__(self, path: str, tree: list[str], bpf: bytes, group: Cgroup | None) -> None:
        self._path, self._tree, self._group = path, tree, group
        self._bpf = _memory_file(bpf)

    def kind(self, request: Request) -> str:
        """Its arguments hold the request's limits: none can be started ahead."""
        return ""

    def start(self, ends: Ends, request: Request) -> Started:
        """Start the process that will read its order from the channel. Raises OSError."""
        os.lseek(self._bpf, 0, os.SEEK_SET)
        pid = os.fork()
        if pid:
            return Started(pid)
        try:
            if self._group:
                self._group.admit(0)
            self._become_bubblewrap(ends, request.limits)
        except OSError as error:
            os.write(ends.stderr, f"{self._path}: {error}".encode())
        finally:
            os._exit(127)

    def ready(self) -> None:
        """There is nothing to prepare."""

    def note_death(self, pid: int) -> None:
        """There is no parent."""

    def _become_bubblewrap(self, ends: Ends, limits: Limits) -> None:
        nothing = os.open("/dev/null", os.O_RDONLY)
        sources = (nothing, ends.stdout, ends.stderr, ends.channel, self._bpf)
        # First out of the way of the targets: a target's number may be one of the sources'.
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SECCOMP + 1) for fd in sources]
        for target, fd in enumerate(moved):
            os.dup2(fd, target)
        os.closerange(SECCOMP + 1, 4096)
        # Model code goes first when the host runs out of memory, also where no cgroup bounds it.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.execve(self._path, command(self._path, self._tree, limits), {})


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("sandbox")
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    return fd
