"""One worker: takes calls from the server's listening socket and supervises each in its own isolated process.

A caller connects and sends a request; the worker answers with a header and the raw output. When the caller's
end closes (cancellation, death) the call is killed. A session's process stays when its program has ended,
stopped, until the next request comes over the same connection. The worker is a single-threaded process
without secrets that, started by root, has given root up before its first call.
"""

from __future__ import annotations

import contextlib
import os
import resource  # noqa: F401  os.wait4 imports it, perhaps when it is out of reach
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ctpo.sandbox.calls import Call, drain
from ctpo.sandbox.cgroups import Cgroup
from ctpo.sandbox.memory_watch import children_of, descendants, state_of
from ctpo.sandbox.protocol import BUSY, TAKEN, UNAVAILABLE, Request, pack_result, read_request
from ctpo.sandbox.supply import Starter, Supply

_REQUEST_S = 10.0
_STOP_S = 2.0


@dataclass
class _Session:
    call: Call
    request: Request


class Worker:
    """Runs programs one after another. `groups`: as `Supply` has them."""

    def __init__(self, starter: Starter, groups: Sequence[Cgroup], user: int, sessions: int) -> None:
        self._starter, self._supply, self._user = starter, Supply(starter, groups), user
        self._sessions: dict[socket.socket, _Session] = {}
        self._most_sessions = sessions
        self._running: Call | None = None
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
            fds = {fd for fd, _ in self._poll.poll()}
            if self._child_died in fds:
                drain(self._child_died)
                self._reap()
            for caller in [caller for caller in self._sessions if caller.fileno() in fds]:
                self._go_on(caller)
            if listener.fileno() in fds:
                self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            caller, _ = listener.accept()
        except OSError:  # another worker was faster, or the caller has gone
            return
        caller.settimeout(_REQUEST_S)
        credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        request = read_request(caller) if struct.unpack("3i", credentials)[1] in (0, self._user) else None
        if request is None or _gone(caller):
            caller.close()
        elif request.session:
            self._first_of_session(request, caller)
        else:
            with caller:
                self._answer(caller, self._fresh(request, caller))
            self._supply.prepare(request)

    def _answer(self, caller: socket.socket, answer: bytes) -> bool:
        with contextlib.suppress(OSError):
            caller.settimeout(_REQUEST_S)
            caller.sendall(answer)
            return True
        return False

    def _fresh(self, request: Request, caller: socket.socket) -> bytes:
        """Run a program in a process of its own; the packed answer. No process of it is left."""
        call = self._start(request, caller)
        if isinstance(call, bytes):
            return call
        self._attend(call, request, caller)
        self._bury(call)
        answer = call.answer(request)
        self._supply.give_back(call)
        return answer

    def _start(self, request: Request, caller: socket.socket) -> Call | bytes:
        """A process with the program handed over; or a packed refusal."""
        self._answer(caller, TAKEN)
        try:
            call = self._supply.take(request)
        except OSError as error:
            return pack_result(UNAVAILABLE, 0.0, b"", str(error).encode())
        try:
            call.begin(request, request.order(call.origin.data_mb, call.origin.address_mb))
        except OSError:  # it died at its start and left word on stderr, or its limits cannot be set
            os.kill(call.pid, signal.SIGKILL)
        return call

    def _attend(self, call: Call, request: Request, caller: socket.socket) -> None:
        self._running = call
        call.attend(request, caller, self._child_died, self._reap)

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
                        call.cpu_s = used.ru_utime + used.ru_stime
                self._starter.note_death(pid)

    def _calls(self) -> list[Call]:
        kept = [*(session.call for session in self._sessions.values()), *self._supply.spares]
        return [self._running, *kept] if self._running else kept

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

    def _first_of_session(self, request: Request, caller: socket.socket) -> None:
        if not self._most_sessions:
            refusal = b"this server keeps no persistent sessions: start it with sessions"
            self._answer(caller, TAKEN + pack_result(UNAVAILABLE, 0.0, b"", refusal))
            caller.close()
            return
        if len(self._sessions) >= self._most_sessions:
            self._answer(caller, TAKEN + pack_result(BUSY, 0.0, b"", b""))
            caller.close()
            return
        call = self._start(request, caller)
        if isinstance(call, bytes):
            self._answer(caller, call)
            caller.close()
        else:
            self._turn(_Session(call, request), caller)

    def _go_on(self, caller: socket.socket) -> None:
        """A session's connection has something to read: its next program, or its end."""
        session = self._sessions.pop(caller)
        self._poll.unregister(caller)
        caller.settimeout(_REQUEST_S)
        request = read_request(caller)
        if request is None or session.call.status is not None:
            # A dead session's caller gets no answer and starts another.
            self._end(session, caller)
            return
        self._answer(caller, TAKEN)
        _signal_all(session.call.pid, signal.SIGCONT)
        try:
            session.call.begin(request, request.order(0, 0))
        except OSError:
            self._end(session, caller)
            return
        self._turn(_Session(session.call, request), caller)

    def _turn(self, session: _Session, caller: socket.socket) -> None:
        """See a program of a session through; keep the process if it is fit for another."""
        call, request = session.call, session.request
        self._attend(call, request, caller)
        lives = call.status is None and call.answered is not None and not call.stopped_for
        if lives and _stop_all(call.pid):
            self._running = None
            if self._answer(caller, call.answer(request)):
                self._sessions[caller] = session
                self._poll.register(caller, select.EPOLLIN)
                return
            self._running = call
        self._bury(call)
        self._answer(caller, call.answer(request))
        self._supply.give_back(call)
        caller.close()

    def _end(self, session: _Session, caller: socket.socket) -> None:
        self._running = session.call
        self._bury(session.call)
        self._supply.give_back(session.call)
        caller.close()


def _gone(caller: socket.socket) -> bool:
    """Whether the caller has left while it stood in line; before the answer it has no more to say."""
    return bool(select.select([caller], [], [], 0)[0])


def _signal_all(pid: int, number: int) -> list[int]:
    pids = [pid, *descendants(pid)]
    for each in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(each, number)
    return pids


def _stop_all(pid: int) -> bool:
    """Stop a process and its descendants, so that a session uses no CPU between two programs.

    False if one always gets away: a stopped process cannot fork, but another can in the meantime. On a busy machine
    a process stops only when it next gets a processor.
    """
    stopped: list[int] = []
    give_up = time.monotonic() + _STOP_S
    while time.monotonic() < give_up:
        found = _signal_all(pid, signal.SIGSTOP)
        if sorted(found) == sorted(stopped) and all(state_of(each) in "TtZX" for each in found):
            return True
        stopped = found
        time.sleep(0.001)
    return False
