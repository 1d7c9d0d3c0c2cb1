"""The asynchronous client: hands calls to the run's server on this node, or to one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from ctpo.sandbox import protocol
from ctpo.sandbox.calls import WALL_AT_MOST
from ctpo.sandbox.hosting import ADDRESS_ENV, SandboxServer
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.protocol import Answer, Request
from ctpo.sandbox.results import ExecutionResult, Reason, SandboxUnavailable, advice, cut_middle

_GRACE_S = 20.0
_ATTEMPTS, _WAITS = 2, 10
_PAUSE_S = 0.2
_UNTAKEN = Answer("untaken")


class SandboxClient:
    """Runs Python code, each call in a fresh isolated process; at most `concurrency` at once, the rest wait.

    Uses the server at `address` (default: the one that `ADDRESS_ENV` names) if there is one on this node, else
    starts its own, which ends with `close` or with this process, and leaves no process, mount or cgroup.
    Belongs to one event loop. Cancelling `run` kills the call.
    """

    def __init__(
        self,
        limits: Limits,
        concurrency: int,
        *,
        address: str | None = None,
        server: SandboxServer | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"sandbox.concurrency={concurrency}: must be at least 1")
        self.limits = limits
        self._concurrency = concurrency
        self._address = server.address if server else address or os.environ.get(ADDRESS_ENV)
        self._slots = asyncio.Semaphore(concurrency)
        self._starting = asyncio.Lock()
        self._own: SandboxServer | None = None
        self._closed = False

    async def run(self, code: str, *, limits: Limits | None = None, echo: bool = True) -> ExecutionResult:
        """Run `code`; every way in which it can fail is a result. Never runs it without isolation.

        `limits`: instead of the client's; `echo`: show the value of a last bare expression as a notebook does.
        Raises SandboxUnavailable when the isolation itself cannot be had, RuntimeError after `close`.
        """
        limits = limits or self.limits
        text = code.encode("utf-8", "replace")
        if len(text) > protocol.MAX_CODE_BYTES:
            error = f"SyntaxError: code longer than {protocol.MAX_CODE_BYTES} bytes"
            return ExecutionResult("", f"{error}\n", "error", 0.0, 1, error)
        answer = await self._answer(Request(text, limits, echo))
        if answer.reason == protocol.UNAVAILABLE:
            raise SandboxUnavailable(advice(answer.stderr.decode("utf-8", "replace").strip()))
        out, err = (cut_middle(text, limits.output_bytes) for text in (answer.stdout, answer.stderr))
        error = answer.error.decode("utf-8", "replace")
        return ExecutionResult(out, err, cast(Reason, answer.reason), answer.duration_s, answer.status, error)

    async def start(self) -> str:
        """Prepare the isolation now rather than at the first call; one line that says what isolates.

        Empty for a server that somebody else started.
        """
        (await self._connect()).close()
        return self._own.summary if self._own else ""

    async def close(self) -> None:
        """Kill what runs and free everything. Safe to call twice."""
        self._closed = True
        server, self._own = self._own, None
        if server:
            await asyncio.to_thread(server.close)

    async def _answer(self, request: Request) -> Answer:
        """The answer of a worker. One that was killed from outside loses its call, and a fork can fail on a host
        that is short of something for a moment: both get a second chance, a third would be no accident. Standing in
        line at a server that dies costs nothing: it is listened to for a moment longer than it lives.
        """
        failures = waits = 0
        while True:
            async with self._slots:
                answer = await self._attempt(request)
            if answer is None:
                failures += 1
                if failures == _ATTEMPTS:
                    lost = f"sandbox: a call was lost {_ATTEMPTS} times: something kills the sandbox's processes"
                    raise SandboxUnavailable(lost)
                continue
            if answer is _UNTAKEN:
                waits += 1
                if waits == _WAITS:
                    raise SandboxUnavailable(
                        f"sandbox: {_WAITS} times no worker took a call: they do not start, or die"
                    )
            elif answer.reason == protocol.UNAVAILABLE and failures + 1 < _ATTEMPTS:
                failures += 1
            else:
                return answer
            await asyncio.sleep(_PAUSE_S)

    async def _attempt(self, request: Request) -> Answer | None:
        connection = await self._connect()
        try:
            return await _exchange(connection, request)
        finally:
            # Reaches the worker even if a forked child of this process holds a copy of the descriptor.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    async def _connect(self) -> socket.socket:
        """A connection to a server that lives. Raises SandboxUnavailable."""
        if self._closed:
            raise RuntimeError("sandbox: the client is closed")
        while True:
            if self._address:
                with contextlib.suppress(ConnectionError, FileNotFoundError):
                    return await _connected(self._address)
            async with self._starting:
                # Another call of ours may have just started it.
                if not (self._own and self._own.alive() and self._address == self._own.address):
                    await self._start_own()
                    continue
            await asyncio.sleep(_PAUSE_S)

    async def _start_own(self) -> None:
        if self._closed:
            raise RuntimeError("sandbox: the client is closed")
        if self._own:
            await asyncio.to_thread(self._own.close)
        self._own = server = SandboxServer(self._concurrency)
        try:
            await asyncio.to_thread(server.ready)
        except BaseException:
            self._own = None
            await asyncio.to_thread(server.close)
            raise
        self._address = server.address


async def _connected(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setblocking(False)
        while True:
            try:
                await asyncio.get_running_loop().sock_connect(connection, f"\0{address}")
                return connection
            except BlockingIOError:  # so many are waiting that the kernel takes no more
                await asyncio.sleep(0.05)
    except BaseException:
        connection.close()
        raise


async def _exchange(connection: socket.socket, request: Request) -> Answer | None:
    """Send a program and wait for its answer, in line as long as it takes; None when the worker is lost with it."""
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(connection, request.pack())
        if await loop.sock_recv(connection, 1) != protocol.TAKEN:
            return _UNTAKEN
    except OSError:
        return _UNTAKEN
    try:
        return await asyncio.wait_for(_read_answer(connection), WALL_AT_MOST * request.limits.wall_s + _GRACE_S)
    except (OSError, asyncio.TimeoutError):
        return None


async def _read_answer(connection: socket.socket) -> Answer | None:
    loop, got = asyncio.get_running_loop(), bytearray()
    while (answer := Answer.unpack(bytes(got))) is None:
        part = await loop.sock_recv(connection, 1 << 18)
        if not part:
            return None
        got += part
    return answer


def require_isolation() -> str:
    """Prove that one call runs isolated on this host; one line that says what isolates. Under a second.

    Raises SandboxUnavailable naming what is missing and what to install or allow. May be called with or
    without a running event loop.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _prove()).result()


async def _prove() -> str:
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(f"sandbox: isolation needs Linux namespaces, this is {sys.platform}: run on Linux")
    server = SandboxServer(1, modules="")
    try:
        summary = await asyncio.to_thread(server.ready)
        client = SandboxClient(Limits(wall_s=20.0), 1, server=server)
        result = await client.run("import os; (os.getuid(), os.path.exists('/etc'), sum(range(10)))")
    finally:
        await asyncio.to_thread(server.close)
    if result.stdout != "(1000, False, 45)\n":
        raise SandboxUnavailable(
            f"sandbox: a first call went wrong ({result.reason}): {result.stdout}{result.stderr}".strip()
        )
    return summary
