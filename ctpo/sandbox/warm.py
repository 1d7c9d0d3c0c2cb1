"""The worker's side of a warm parent: starts it inside the tree, has it fork calls, replaces it when it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import select
import signal
import socket
from pathlib import Path

from ctpo.sandbox import system
from ctpo.sandbox.calls import Ends, Started
from ctpo.sandbox.cgroups import Cgroup
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.protocol import Request
from ctpo.sandbox.runtime import PACKAGES, PYTHON, Layout, inside_program

WARM = "warm parents"  # how a server's summary begins
# What mathematics asks for; scipy.stats and others that few programs use are imported by those that do.
MODULES = "numpy sympy mpmath networkx scipy.linalg scipy.optimize scipy.integrate scipy.special"
BARE_MODULES = (
    "math cmath fractions decimal itertools functools collections operator random re statistics string heapq bisect "
    "json datetime time copy typing numbers array"
)
_PACKAGE = re.compile("|".join(PACKAGES).encode())
_ENVIRONMENT = {"HOME": "/tmp", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_UID = 1000
_START_S, _FORK_S = 300.0, 10.0
_WHILE_IMPORTING = Limits(memory_mb=2048)
_MIB = 1 << 20


class WarmParentLost(OSError):
    """The warm parent could not be started, or died; the message is its own where it left one."""


_PROGRAM = inside_program("inside.run(warm_inside.main())", "uncaught", "inside", "warm_inside")


class WarmStart:
    """Starts calls of one worker from two warm parents: a bare one, and one that has imported the packages.

    A fork copies the page tables of all that is imported, so a program that names no package is forked from the
    bare parent at a third of the cost. `modules`: what the other imports; empty for none but the bare one. `group`: of
    the parents, and so of all that they fork.
    """

    leaves_orphans = False  # a pid namespace dies with its first process

    def __init__(self, tree: str | Layout, bpf: bytes, modules: str = MODULES, group: Cgroup | None = None) -> None:
        self._bare = WarmParent(tree, bpf, BARE_MODULES, group)
        self._full = WarmParent(tree, bpf, f"{BARE_MODULES} {modules}", group) if modules else self._bare

    @property
    def parents(self) -> frozenset[int]:
        return frozenset((self._bare.pid, self._full.pid))

    def ready(self) -> None:
        """Start both now rather than at the first call. Raises OSError."""
        self._bare.ready()
        self._full.ready()

    def note_death(self, pid: int) -> None:
        """Process `pid`, perhaps a parent, is dead and reaped."""
        for parent in (self._bare, self._full):
            if parent.pid == pid:
                parent.note_death()

    def kind(self, request: Request) -> str:
        """Which of the two parents forks the call."""
        return "full" if _PACKAGE.search(request.code) else "bare"

    def start(self, ends: Ends, request: Request) -> Started:
        """Fork a call. Raises OSError."""
        parent = self._full if self.kind(request) == "full" else self._bare
        return Started(parent.fork(ends), *parent.inherited)


class WarmParent:
    """One warm parent, replaced when it dies. `tree`: the staged root directory, or the layout to build one from."""

    def __init__(self, tree: str | Layout, bpf: bytes, modules: str, group: Cgroup | None) -> None:
        self._tree, self._bpf, self._modules, self._group = tree, bpf, modules, group
        self.pid = 0
        self.inherited = (0, 0, 0)  # MiB of private memory, MiB of address space, resident bytes
        self._control: socket.socket | None = None

    def fork(self, ends: Ends) -> int:
        """Fork a call; its pid. Raises OSError; after WarmParentLost the next attempt has a new parent.

        That attempt needs ends of its own: the lost parent may have forked before it died.
        """
        try:
            return self._fork(ends)
        except WarmParentLost:
            self.close()
            raise

    def ready(self) -> None:
        """Start the parent now rather than at the first call. Raises OSError, of which WarmParentLost is one."""
        if self._control is not None:
            return
        if self._group:
            self._group.set_limits(_WHILE_IMPORTING)  # not what the last call was allowed
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        worker = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._become(theirs.fileno(), worker)
            except BaseException as error:
                theirs.send(f"failed: {error}".encode())
            finally:
                os._exit(127)
        theirs.close()
        self.pid, self._control = pid, ours
        said = self._hear(_START_S)
        if said != b"ready":
            self.close()
            raise WarmParentLost(said.decode("utf-8", "replace").removeprefix("failed: ") or "it died at its start")
        status = Path(f"/proc/{pid}/status").read_text()
        sizes = {name: int(kib) << 10 for name, kib in re.findall(r"^(Vm\w+):\s+(\d+) kB", status, re.MULTILINE)}
        self.inherited = (-(-sizes["VmData"] // _MIB), -(-sizes["VmSize"] // _MIB), sizes["VmRSS"])
        if self._group:
            self._group.settle()

    def close(self) -> None:
        """End the parent. The worker reaps it with its other children."""
        if self._control is not None:
            self._control.close()
            self._control = None
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def note_death(self) -> None:
        """The worker has reaped the parent: its number may be another process's soon."""
        if self._control is not None:
            self._control.close()
            self._control = None
        self.pid = 0

    def _fork(self, ends: Ends) -> int:
        self.ready()
        assert self._control is not None
        try:
            socket.send_fds(self._control, [b"f"], [ends.channel, ends.stdout, ends.stderr])
        except OSError as error:
            raise WarmParentLost(str(error)) from error
        said = self._hear(_FORK_S)
        if not said:
            raise WarmParentLost("the warm parent died")
        if not said.isdigit():
            raise OSError(said.decode("utf-8", "replace"))
        return int(said)

    def _hear(self, patience_s: float) -> bytes:
        """The parent's next message; empty if it is gone or does not answer."""
        assert self._control is not None
        if not select.select([self._control], [], [], patience_s)[0]:
            return b""
        try:
            return self._control.recv(4096)
        except OSError:
            return b""

    def _become(self, control: int, worker: int) -> None:
        """In the forked process: leave everything of the host behind, then become the interpreter of the tree."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        # When memory runs out a parent, which can be replaced, goes before what belongs to the run, and after a call
        # (see `warm_inside`): in a group of its own there is nothing but calls beside it.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("0" if self._group else "500")
        if self._group:
            self._group.admit(0)
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        system.enter_user_namespace(_UID)
        system.die_with(worker)  # after the change of credentials, which would clear it
        system.leave_the_host()
        system.change_root(self._tree if isinstance(self._tree, str) else system.stage(self._tree))
        system.no_new_privileges()
        nothing = os.open("/dev/null", os.O_RDWR)
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 8) for fd in (nothing, nothing, nothing, control, proc)]
        for target, fd in enumerate(moved):
            os.dup2(fd, target)
        os.closerange(len(moved), 4096)
        column = 0 if platform.machine() == "x86_64" else 1
        arguments = [PYTHON, "-I", "-S", "-B", "-X", "utf8", "-c", _PROGRAM]
        os.execve(PYTHON, [*arguments, str(column), self._bpf.hex(), self._modules], _ENVIRONMENT)
