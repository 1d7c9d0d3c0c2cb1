"""One isolated process as its worker sees it: the ends of its pipes, what it wrote, how its program ends."""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from ctpo.sandbox.cgroups import Cgroup
from ctpo.sandbox.memory_watch import Watch, kept_waiting
from ctpo.sandbox.protocol import UNAVAILABLE, Answer, Request
from ctpo.sandbox.uncaught import RECORD

_CHUNK = 65536
_RECORDED = re.compile(re.escape(RECORD).replace(b"%d", b"([01])").replace(b"%s", rb"([^\0]*)"))
_ORDER_S = 10.0
WALL_AT_MOST = 4  # times its wall limit lasts a call that has to wait for processors


@dataclass(frozen=True)
class Ends:
    """Descriptors that an isolated process is started with; the worker closes its copies afterwards."""

    channel: int
    stdout: int
    stderr: int


class Started(NamedTuple):
    """An isolated process that waits for its order, and what it has inherited before its limits count."""

    pid: int
    data_mb: int = 0
    address_mb: int = 0
    resident_bytes: int = 0


@dataclass
class Call:
    """An isolated process that waits for its program or runs it."""

    origin: Started
    channel: socket.socket
    stdout: int
    stderr: int
    group: Cgroup | None
    status: int | None = None  # of the process, once it is dead
    cpu_s: float = 0.0
    reported: int | None = None  # how the program ended, where it ran in a second process
    kills_seen: int = 0
    started: bool = False
    stopped_for: str = ""
    begun: float = field(default_factory=time.monotonic)
    written: dict[int, bytearray] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.origin.pid

    def begin(self, request: Request, order: bytes) -> None:
        """Hand a program over. Raises OSError if the process does not take it."""
        self.written = {self.stdout: bytearray(), self.stderr: bytearray()}
        self.begun = time.monotonic()
        self.kills_seen = self.group.out_of_memory_kills() if self.group else 0
        if self.group:
            self.group.set_limits(request.limits)
        self.channel.settimeout(_ORDER_S)
        self.channel.sendall(order)
        self.channel.setblocking(False)

    def attend(self, request: Request, caller: socket.socket, died: int, reap: Callable[[], None]) -> None:
        """Collect output until the program ends, reaches a limit, or its caller leaves (`stopped_for`)."""
        limits = request.limits
        watch = Watch(limits.memory_mb, self.origin.resident_bytes)
        poll = select.poll()
        open_fds = {self.stdout, self.stderr, self.channel.fileno(), caller.fileno(), died}
        for fd in open_fds:
            poll.register(fd, select.POLLIN)
        end = self.begun + limits.wall_s
        step = math.inf if self.group else watch.interval_s
        while self.status is None and not self.stopped_for:
            now = time.monotonic()
            if now >= end:  # time in which others kept it from running does not count
                end = self.begun + min(limits.wall_s + kept_waiting(self.pid), WALL_AT_MOST * limits.wall_s)
            if now >= end:
                self.stopped_for = "timeout"
                break
            for fd, _ in poll.poll(1000 * min(end - now, step) + 1):
                if fd in self.written:
                    self._collect(fd, limits.output_bytes, poll)
                elif fd == caller.fileno():
                    self.stopped_for = "killed"
                elif fd == died:
                    drain(died)
                    reap()
                elif not self._listen():
                    poll.unregister(fd)
            if self.group is None and self.status is None and watch.exceeded(self.pid):
                self.stopped_for = "memory"

    def _collect(self, fd: int, most: int, poll: select.poll | None = None) -> bytes:
        part = b""
        with contextlib.suppress(BlockingIOError):
            part = os.read(fd, _CHUNK)
            if not part and poll:
                poll.unregister(fd)
        self.written[fd] += part
        if len(self.written[fd]) > most:
            self.stopped_for = self.stopped_for or "output"
        return part

    def _listen(self) -> bool:
        """Read the channel: isolation is up; then perhaps how a second process ended. False at its end."""
        try:
            said = self.channel.recv(1 if not self.started else 8)
        except OSError:
            return False
        if not self.started:
            self.started = said == b"R"
        elif len(said) == 8:
            status, milliseconds = struct.unpack("<II", said)
            self.reported, self.cpu_s = os.waitstatus_to_exitcode(status), milliseconds / 1000
        return bool(said)

    def answer(self, request: Request) -> Answer:
        """What the caller is told, once the program has ended."""
        duration = time.monotonic() - self.begun
        for fd in self.written:
            while self._collect(fd, 1 << 62):
                pass
        while self._listen():
            pass
        status = self.status or 0 if self.reported is None else self.reported
        stderr = bytes(self.written[self.stderr])
        recorded = _RECORDED.findall(stderr)
        ran_out, error = recorded[-1] if recorded else (b"0", b"")
        reason = self._reason(request, status, ran_out == b"1")
        return Answer(reason, duration, bytes(self.written[self.stdout]), _RECORDED.sub(b"", stderr), status, error)

    def _reason(self, request: Request, status: int, ran_out: bool) -> str:
        """Why the program ended; `UNAVAILABLE` when the isolation was never up."""
        killed = self.group is not None and self.group.out_of_memory_kills() != self.kills_seen
        if not self.started and not self.stopped_for and not killed:
            return UNAVAILABLE
        # A program can outlive those of its processes that the kernel killed, and wait for them in vain.
        if killed or (ran_out and status and not self.stopped_for):
            return "memory"
        if self.stopped_for:
            return self.stopped_for
        # The kernel enforces the limit by sampled time, which on a busy machine is far from what it reports in the end.
        used_up = self.cpu_s >= 0.5 * math.ceil(request.limits.cpu_s)
        if status in (-signal.SIGXCPU, -signal.SIGKILL) and used_up:
            return "timeout"
        return "killed" if status < 0 else "error" if status else "ok"

    def close(self) -> None:
        self.channel.close()
        for fd in (self.stdout, self.stderr):
            os.close(fd)


def drain(fd: int) -> None:
    """Empty a non-blocking pipe."""
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass
