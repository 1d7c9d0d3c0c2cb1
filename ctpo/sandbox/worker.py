"""One worker: takes calls from the server's listening socket and supervises each in its own isolated process.

A caller connects and sends a request; the worker answers with a header and the raw output. When the caller's
end closes (cancellation, death) the call is killed. The worker is a single-threaded process
without secrets that, started by root, has given root up before its first call.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource  # noqa: F401  os.wait4 imports it, perhaps when it is out of reach
import select
import signal
import socket
import struct
import time

from ctpo.sandbox.calls import Call, drain
from ctpo.sandbox.cgroups import Cgroup
from ctpo.sandbox.memory_watch import children_of
from ctpo.sandbox.protocol import TAKEN, UNAVAILABLE, Answer, Arrival, Request
from ctpo.sandbox.supply import Starter, Supply

_REQUEST_S = 10.0  # within which a request must arrive
_ALONE_S = 0.05  # of which no other caller is served
_MOST_ARRIVING = 64


class Worker:
    """Runs programs one after another. `group`: as `Supply` has it."""

    def __init__(self, starter: Starter, group: Cgroup | None, user: int) -> None:
        self._starter, self._supply, self._user = starter, Supply(starter, group), user
        self._running: Call | None = None
        self._arriving: dict[int, Arrival] = {}
        self._poll = select.epoll()
        self._child_died, wake = os.pipe()
        for end in (self._child_died, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self, listener: socket.socket) -> None:
        """Take calls for ever; the server's death is this process's."""
        listener.setblocking(False)
        self._poll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)  # one worker wakes, not all
        self._poll.register(self._child_died, select.EPOLLIN)
        while True:
            patience = min((arrival.until for arrival in self._arriving.values()), default=math.inf) - time.monotonic()
            fds = {fd for fd, _ in self._poll.poll(None if patience == math.inf else max(patience, 0.0))}
            if self._child_died in fds:
                drain(self._child_died)
                self._reap()
            for fd in [fd for fd in self._arriving if fd in fds or self._arriving[fd].until <= time.monotonic()]:
                self._receive(self._arriving[fd])
            if listener.fileno() in fds:
                self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        """Take a connection. Its request comes at once; one that does not is waited for beside other callers."""
        try:
            caller, _ = listener.accept()
        except OSError:  # another worker was faster, or the caller has gone
            return
        credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] not in (0, self._user):
            caller.close()
            return
        if len(self._arriving) == _MOST_ARRIVING:
            oldest = next(iter(self._arriving.values()))
            self._part(oldest)
            oldest.caller.close()
        caller.setblocking(False)
        begun = time.monotonic()
        arrival = self._arriving[caller.fileno()] = Arrival(caller, begun + _REQUEST_S)
        self._poll.register(caller, select.EPOLLIN)
        while caller.fileno() in self._arriving and (left := begun + _ALONE_S - time.monotonic()) > 0:
            select.select([caller], [], [], left)
            self._receive(arrival)

    def _receive(self, arrival: Arrival) -> None:
        """Read on, and run a request that is whole; drop a caller that has gone or takes too long."""
        caller = arrival.caller
        try:
            if not arrival.ended() and time.monotonic() < arrival.until:
                return
            request = arrival.request()
        except OSError:
            request = None
        self._part(arrival)
        with caller:
            if request is None or _gone(caller):
                return
            self._answer(caller, self._run(request, caller))
        self._supply.prepare(request)

    def _part(self, arrival: Arrival) -> None:
        del self._arriving[arrival.caller.fileno()]
        self._poll.unregister(arrival.caller)

    def _answer(self, caller: socket.socket, answer: bytes) -> None:
        with contextlib.suppress(OSError):
            caller.settimeout(_REQUEST_S)
            caller.sendall(answer)

    def _run(self, request: Request, caller: socket.socket) -> bytes:
        """Run a program in a process of its own; the packed answer. No process of it is left."""
        self._answer(caller, TAKEN)
        try:
            call = self._supply.take(request)
        except OSError as error:
            return Answer(UNAVAILABLE, stderr=str(error).encode()).pack()
        try:
            call.begin(request, request.order(call.origin.data_mb, call.origin.address_mb))
        except OSError:  # it died at its start and left word on stderr, or its limits cannot be set
            os.kill(call.pid, signal.SIGKILL)
        self._running = call
        call.attend(request, caller, self._child_died, self._reap)
        self._bury(call)
        answer = call.answer(request).pack()
        call.close()
        return answer

    def _reap(self) -> None:
        """Take note of every child that is dead."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, used = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                for call in self._calls():
                    if pid == call.pid:
                        call.status = os.waitstatus_to_exitcode(status)
                        call.cpu_s = max(call.cpu_s, used.ru_utime + used.ru_stime)
                self._starter.note_death(pid)

    def _calls(self) -> list[Call]:
        return [*self._supply.spares, *([self._running] if self._running else [])]

    def _bury(self, call: Call) -> None:
        """Kill what is left of the call and wait until all of it is gone.

        A warm call's process is the first of its pid namespace: the kernel lets it be reaped only when all
        others are dead. A cold one's is bubblewrap outside: its death kills the first process of the
        namespace, which then becomes our child (see `adopt_orphans`), and is killed here if it died before
        the two were tied together.
        """
        if call.status is None:
            os.kill(call.pid, signal.SIGKILL)
        give_up = time.monotonic() + 0.2
        while True:
            self._reap()
            strays = self._strays(call) if self._starter.leaves_orphans else set()
            if call.status is not None and not strays:
                break
            if time.monotonic() > give_up:
                for pid in strays:
                    os.kill(pid, signal.SIGKILL)
            select.select([self._child_died], [], [], 0.01)
            drain(self._child_died)
        self._running = None

    def _strays(self, call: Call) -> set[int]:
        known = {*self._starter.parents, *(other.pid for other in self._calls() if other is not call)}
        return set(children_of(os.getpid())) - known


def _gone(caller: socket.socket) -> bool:
    """Whether the caller has left while it stood in line; before the answer it has no more to say."""
    return bool(select.select([caller], [], [], 0)[0])
