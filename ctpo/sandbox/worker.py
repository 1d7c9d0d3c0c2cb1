"""One worker: takes calls from the shared control socket and supervises each in its own isolated process.

A call arrives as one end of a socket pair: the caller writes a length and the code, the worker answers with
a header and the raw output. When the caller's end closes (cancellation, death) the call is killed. The
worker is a single-threaded process without secrets that, started by root, has given root up before its
first call.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import resource  # noqa: F401  os.wait4 imports it, perhaps when it is out of reach
import select
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctpo.sandbox import memory_watch
from ctpo.sandbox.bubblewrap import SECCOMP, STARTED, STDERR, STDIN, STDOUT
from ctpo.sandbox.cgroups import Cgroup
from ctpo.sandbox.inside import OUT_OF_MEMORY
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.protocol import UNAVAILABLE, pack_result, read_request

_CHUNK = 65536
_SIGNALS = range(1, 65)


@dataclass
class _Call:
    """State of the call that is running."""

    pid: int
    streams: dict[int, bytearray]
    stdout: int
    stderr: int
    started_fd: int
    started: bool = False
    stopped_for: str = ""
    status: int | None = None
    cpu_s: float = 0.0
    begun: float = field(default_factory=time.monotonic)


class Worker:
    """Runs calls one after another. `arguments`: bubblewrap's command line; `bpf`: the filter."""

    def __init__(self, arguments: Sequence[str], bpf: bytes, limits: Limits, group: Cgroup | None) -> None:
        self._arguments, self._limits, self._group = arguments, limits, group
        self._bpf = _memory_file(bpf)
        self._kills_seen = group.out_of_memory_kills() if group else 0
        self._child_died, wake = os.pipe()
        for end in (self._child_died, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self, control: socket.socket) -> None:
        """Take calls until the control socket closes."""
        while True:
            _, handles, _, _ = socket.recv_fds(control, 1, 1, socket.MSG_CMSG_CLOEXEC)
            if not handles:
                return
            with socket.socket(fileno=handles[0]) as caller:
                code = read_request(caller)
                if code is not None:
                    try:
                        caller.sendall(self.run(code, caller))
                    except (BrokenPipeError, ConnectionResetError):
                        continue

    def run(self, code: bytes, caller: socket.socket) -> bytes:
        """Run `code` to its end or to a limit; the packed answer for the caller. No process of it is left."""
        call = self._start(code)
        self._attend(call, caller)
        self._bury(call)
        for fd, kept in call.streams.items():
            while part := os.read(fd, _CHUNK):
                kept += part
            os.close(fd)
        self._note_start(call)
        os.close(call.started_fd)
        duration = time.monotonic() - call.begun
        reason = self._reason(call)
        return pack_result(reason, duration, bytes(call.streams[call.stdout]), bytes(call.streams[call.stderr]))

    def _start(self, code: bytes) -> _Call:
        source = _memory_file(code)
        pipes = [os.pipe() for _ in range(3)]
        os.lseek(self._bpf, 0, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            try:
                self._become_bubblewrap(source, [write for _, write in pipes])
            except OSError as error:
                os.write(STDERR, f"{self._arguments[0]}: {error}".encode())
            finally:
                os._exit(127)
        os.close(source)
        for _, write in pipes:
            os.close(write)
        out, err, started = (read for read, _ in pipes)
        for fd in (out, err, started):
            os.set_blocking(fd, False)
        return _Call(pid, {out: bytearray(), err: bytearray()}, out, err, started)

    def _become_bubblewrap(self, source: int, ends: list[int]) -> None:
        # First out of the way of the targets: a target's number may be one of the sources'.
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SECCOMP + 1) for fd in (source, *ends, self._bpf)]
        for fd, target in zip(moved, (STDIN, STDOUT, STDERR, STARTED, SECCOMP), strict=True):
            os.dup2(fd, target)
        os.closerange(SECCOMP + 1, 4096)
        # Model code goes first when the host runs out of memory, also where no cgroup bounds it.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.execve(self._arguments[0], list(self._arguments), {})

    def _attend(self, call: _Call, caller: socket.socket) -> None:
        """Collect output until the process ends, a limit is reached or the caller leaves; then stop it."""
        poll = select.poll()
        for fd in (*call.streams, caller.fileno(), self._child_died):
            poll.register(fd, select.POLLIN)
        watch = None if self._group else memory_watch.Watch(self._limits.memory_mb)
        end = call.begun + self._limits.wall_s
        while call.status is None and not call.stopped_for:
            left = end - time.monotonic()
            if left <= 0:
                call.stopped_for = "timeout"
                break
            for fd, _ in poll.poll(1000 * (min(left, watch.interval_s) if watch else left) + 1):
                if fd in call.streams:
                    self._collect(call, fd, poll)
                elif fd == caller.fileno():
                    call.stopped_for = "killed"
                else:
                    _drain(fd)
                    self._reap(call)
            if watch and call.status is None and watch.exceeded():
                call.stopped_for = "memory"

    def _collect(self, call: _Call, fd: int, poll: select.poll) -> None:
        part = os.read(fd, _CHUNK)
        call.streams[fd] += part
        if not part:
            poll.unregister(fd)
        if len(call.streams[fd]) > self._limits.output_bytes:
            call.stopped_for = "output"

    def _reap(self, call: _Call) -> bool:
        """Take note of every child that is dead; whether one is still alive."""
        while True:
            try:
                pid, status, used = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == call.pid:
                call.status = os.waitstatus_to_exitcode(status)
            call.cpu_s = max(call.cpu_s, used.ru_utime + used.ru_stime)

    def _bury(self, call: _Call) -> None:
        """Kill what is left of the call and wait until all of it is gone.

        The death of the outer bubblewrap kills the first process of the pid namespace, and with it the rest;
        that process then becomes our child (see `adopt_orphans`). If it died before the two were tied
        together, the second is killed here.
        """
        if call.status is None:
            os.kill(call.pid, signal.SIGKILL)
        give_up = time.monotonic() + 0.2
        while self._reap(call):
            if time.monotonic() > give_up:
                for pid in memory_watch.children_of(os.getpid()):
                    os.kill(pid, signal.SIGKILL)
            select.select([self._child_died], [], [], 0.01)
            _drain(self._child_died)

    def _note_start(self, call: _Call) -> None:
        try:
            call.started = bool(os.read(call.started_fd, 1))
        except BlockingIOError:
            call.started = False

    def _reason(self, call: _Call) -> str:
        """Why the call ended; `UNAVAILABLE` when the isolation was never up."""
        kills, self._kills_seen = self._kills_seen, self._group.out_of_memory_kills() if self._group else 0
        status = call.status or 0
        died_of = -status if status < 0 else status - 128 if status - 128 in _SIGNALS else 0
        used_up = call.cpu_s >= 0.9 * math.ceil(self._limits.cpu_s)
        if not call.started and not call.stopped_for and kills == self._kills_seen:
            return UNAVAILABLE
        # A program can outlive those of its processes that the kernel killed, and wait for them in vain.
        if kills != self._kills_seen or (status == OUT_OF_MEMORY and not call.stopped_for):
            return "memory"
        if call.stopped_for:
            return call.stopped_for
        if died_of == signal.SIGXCPU or (died_of == signal.SIGKILL and used_up):
            return "timeout"
        if died_of:
            return "killed"
        return "error" if status else "ok"


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("sandbox")
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass
