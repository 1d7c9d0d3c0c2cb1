"""A worker's isolated processes before a program runs in them: started on demand, or one ahead of demand.

A warm parent forks a process for the next call while the caller of the last one reads its answer. Such a spare has
run no line of anybody's code: it waits for its order in namespaces of its own.

A worker runs one program at a time, so fresh calls share its first cgroup, in which their warm parents live: a child
is born there, and moving it would cost more than all the rest. A session outlasts its program and gets its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Protocol

from ctpo.sandbox.calls import Call, Ends, Started
from ctpo.sandbox.cgroups import Cgroup
from ctpo.sandbox.protocol import Request


class Starter(Protocol):
    """How a call's process comes to be: forked from a warm parent, or by bubblewrap from nothing."""

    #: Whether a call's process can be dead while others of the call live on, as children of the worker.
    leaves_orphans: bool

    @property
    def parents(self) -> frozenset[int]:
        """Processes that are the starter's own children and no call."""

    def kind(self, request: Request) -> str:
        """Which processes fit the request; empty where each is made for its own request."""

    def start(self, ends: Ends, request: Request) -> Started:
        """Start an isolated process, in the worker's first cgroup if it has one, that reads its order
        from `ends.channel`. Raises OSError."""

    def ready(self) -> None:
        """Prepare now rather than at the first call. Raises OSError."""

    def note_death(self, pid: int) -> None:
        """Process `pid`, perhaps a parent, is dead and reaped."""


class Supply:
    """Processes of one worker. `groups`: one for all fresh calls, then one per session; or none at all."""

    def __init__(self, starter: Starter, groups: Sequence[Cgroup]) -> None:
        self._starter = starter
        for group in groups:
            group.forget_limits()  # a worker before this one may have set others
        self._common, self._free = groups[0] if groups else None, list(groups[1:])
        self._spares: dict[str, Call] = {}

    @property
    def spares(self) -> list[Call]:
        """Processes that wait for an order."""
        return list(self._spares.values())

    def take(self, request: Request) -> Call:
        """A process for `request`, which is still to be handed over. Raises OSError."""
        call = self._spares.pop(self._starter.kind(request), None)
        if call and call.status is not None:
            self.give_back(call)
            call = None
        call = call or self._new(request)
        if request.session and self._common:
            self._move(call, self._common)
        return call

    def prepare(self, request: Request) -> None:
        """Start a process ahead for another request of this kind, if that can be."""
        kind = self._starter.kind(request)
        if kind and kind not in self._spares:
            with contextlib.suppress(OSError):  # the next call will meet it, and say so
                self._spares[kind] = self._new(request)

    def give_back(self, call: Call) -> None:
        """What a call whose processes are all gone has held."""
        call.close()
        if call.group and self._common and call.group is not self._common:
            self._free.append(call.group)
            self._common.settle()

    def _move(self, call: Call, common: Cgroup) -> None:
        """Give a session its own group. What it has touched so far stays on the common one's account."""
        call.group = self._free.pop()
        try:
            call.group.admit(call.pid)
        except OSError:
            self.give_back(call)
            raise
        common.settle()

    def _new(self, request: Request) -> Call:
        try:
            return self._started(request)
        except OSError:  # a warm parent that died is replaced at the next attempt
            return self._started(request)

    def _started(self, request: Request) -> Call:
        ours, theirs = socket.socketpair()
        (out, their_out), (err, their_err) = os.pipe(), os.pipe()
        for fd in (out, err):
            os.set_blocking(fd, False)
        call = Call(Started(0), ours, out, err, self._common)
        try:
            call.origin = self._starter.start(Ends(theirs.fileno(), their_out, their_err), request)
        except OSError:
            self.give_back(call)
            raise
        finally:
            theirs.close()
            os.close(their_out)
            os.close(their_err)
        return call
