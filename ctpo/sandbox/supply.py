"""A worker's isolated processes before a program runs in them: started on demand, or one ahead of demand.

A warm parent forks a process for the next call while the caller of the last one reads its answer. Such a spare has
run no line of anybody's code: it waits for its order in namespaces of its own.

A worker runs one program at a time, so its calls share one cgroup with their warm parents: moving a process can take
10 ms.
"""

from __future__ import annotations

import contextlib
import os
import socket
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
        """Start an isolated process, in the worker's cgroup if it has one, that reads its order
        from `ends.channel`. Raises OSError."""

    def ready(self) -> None:
        """Prepare now rather than at the first call. Raises OSError."""

    def note_death(self, pid: int) -> None:
        """Process `pid`, perhaps a parent, is dead and reaped."""


class Supply:
    """Processes of one worker. `group`: of all its calls, where the host permits one."""

    def __init__(self, starter: Starter, group: Cgroup | None) -> None:
        self._starter, self._group = starter, group
        if group:
            group.forget_limits()  # a worker before this one may have set others
        self._spares: dict[str, Call] = {}

    @property
    def spares(self) -> list[Call]:
        """Processes that wait for an order."""
        return list(self._spares.values())

    def take(self, request: Request) -> Call:
        """A process for `request`, which is still to be handed over. Raises OSError."""
        call = self._spares.pop(self._starter.kind(request), None)
        if call and call.status is not None:
            call.close()
            call = None
        return call or self._new(request)

    def prepare(self, request: Request) -> None:
        """Start a process ahead for another request of this kind, if that can be."""
        kind = self._starter.kind(request)
        if kind and kind not in self._spares:
            with contextlib.suppress(OSError):  # the next call will meet it, and say so
                self._spares[kind] = self._new(request)

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
        call = Call(Started(0), ours, out, err, self._group)
        try:
            call.origin = self._starter.start(Ends(theirs.fileno(), their_out, their_err), request)
        except OSError:
            call.close()
            raise
        finally:
            theirs.close()
            os.close(their_out)
            os.close(their_err)
        return call
