"""The asynchronous client: starts a launcher of its own, hands it calls, survives its death."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import cast

from ctpo.sandbox import protocol
from ctpo.sandbox.bubblewrap import find_bubblewrap
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.results import ExecutionResult, Reason, SandboxUnavailable, cut_middle
from ctpo.sandbox.runtime import find_packages

_START_S = 30.0
_GRACE_S = 20.0
_ATTEMPTS = 2


class _Launcher:
    """A launcher process and this side of its control socket."""

    def __init__(self, limits: Limits, concurrency: int) -> None:
        config = {
            "packages": find_packages(),
            # Found here because the launcher has no PATH.
            "bubblewrap": find_bubblewrap(),
            "limits": asdict(limits),
            "concurrency": concurrency,
        }
        home = str(Path(__file__).resolve().parents[2])
        start = (
            "import sys; sys.path.append(sys.argv.pop(1)); "
            "from ctpo.sandbox.launcher import main; sys.exit(main(sys.argv[1:]))"
        )
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-B",
                    "-c",
                    start,
                    home,
                    str(theirs.fileno()),
                    json.dumps(config),
                ],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self.control.setblocking(False)
        self.summary = ""

    async def ready(self) -> None:
        """Wait until the isolation is prepared; raises SandboxUnavailable with the reason if it cannot be."""
        loop = asyncio.get_running_loop()
        try:
            said = await asyncio.wait_for(loop.sock_recv(self.control, 65536), _START_S)
        except (OSError, asyncio.TimeoutError) as error:
            raise SandboxUnavailable(f"sandbox: the launcher did not start within {_START_S:.0f} s") from error
        hello = (
            json.loads(said) if said else {"error": "sandbox: the launcher died at its start; see its traceback above"}
        )
        if "error" in hello:
            raise SandboxUnavailable(hello["error"])
        self.summary = hello["summary"]

    def alive(self) -> bool:
        return self.process.poll() is None

    async def close(self) -> None:
        """End the launcher and with it every call; kill it if it does not go within a few seconds."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)
        self.control.close()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, lambda: self.process.wait(5))
        except subprocess.TimeoutExpired:
            self.process.kill()
            await loop.run_in_executor(None, self.process.wait)


class SandboxClient:
    """Runs Python code, each call in a fresh isolated process; at most `concurrency` at once, the rest wait.

    Belongs to one event loop. Cancelling `run` kills the call. `close` (or the death of this process,
    however it dies) ends every call and leaves no process, mount or cgroup.
    """

    def __init__(self, limits: Limits, concurrency: int) -> None:
        if concurrency < 1:
            raise ValueError(f"sandbox.concurrency={concurrency}: must be at least 1")
        self.limits = limits
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._starting = asyncio.Lock()
        self._launcher: _Launcher | None = None
        self._closed = False

    async def run(self, code: str) -> ExecutionResult:
        """Run `code`; every way in which it can fail is a result. Never runs it without isolation.

        Raises SandboxUnavailable when the isolation itself cannot be had, RuntimeError after `close`.
        """
        text = code.encode("utf-8", "replace")
        if len(text) > protocol.MAX_CODE_BYTES:
            return ExecutionResult("", f"SyntaxError: code longer than {protocol.MAX_CODE_BYTES} bytes\n", "error", 0.0)
        async with self._slots:
            # A worker that was killed from outside loses its call; a second loss is no accident.
            for _ in range(_ATTEMPTS):
                launcher = await self._running_launcher()
                answer = protocol.unpack_result(
                    await _exchange(launcher.control, protocol.pack_request(text), self._patience_s())
                )
                if answer is not None:
                    return self._result(*answer)
        raise SandboxUnavailable(f"sandbox: a call was lost {_ATTEMPTS} times: something kills the sandbox's processes")

    async def start(self) -> str:
        """Prepare the isolation now rather than at the first call; one line that says what isolates."""
        return (await self._running_launcher()).summary

    async def close(self) -> None:
        """Kill what runs and free everything. Safe to call twice."""
        self._closed = True
        launcher, self._launcher = self._launcher, None
        if launcher:
            await launcher.close()

    def _patience_s(self) -> float:
        return self.limits.wall_s + _GRACE_S

    async def _running_launcher(self) -> _Launcher:
        async with self._starting:
            if self._closed:
                raise RuntimeError("sandbox: the client is closed")
            if self._launcher is not None and not self._launcher.alive():
                await self._launcher.close()
                self._launcher = None
            if self._launcher is None:
                launcher = _Launcher(self.limits, self._concurrency)
                try:
                    await launcher.ready()
                except BaseException:
                    await launcher.close()
                    raise
                self._launcher = launcher
            return self._launcher

    def _result(self, reason: str, duration_s: float, stdout: bytes, stderr: bytes) -> ExecutionResult:
        if reason == protocol.UNAVAILABLE:
            raise SandboxUnavailable(_advice(stderr.decode("utf-8", "replace").strip()))
        cap = self.limits.output_bytes
        return ExecutionResult(cut_middle(stdout, cap), cut_middle(stderr, cap), cast(Reason, reason), duration_s)


async def _exchange(control: socket.socket, request: bytes, patience_s: float) -> bytes:
    """Send a call to whichever worker is free; its whole answer, or fewer bytes when the worker is lost."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, contextlib.suppress(ConnectionError, asyncio.TimeoutError):
        ours.setblocking(False)
        with theirs:
            socket.send_fds(control, [b"c"], [theirs.fileno()])
        parts: list[bytes] = []

        async def talk() -> None:
            await loop.sock_sendall(ours, request)
            while part := await loop.sock_recv(ours, 1 << 18):
                parts.append(part)

        try:
            await asyncio.wait_for(talk(), patience_s)
        finally:
            # Reaches the worker even if a forked child of this process holds a copy of the descriptor.
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
        return b"".join(parts)
    return b""


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
    client = SandboxClient(Limits(wall_s=20.0), concurrency=1)
    try:
        summary = await client.start()
        result = await client.run("import os; (os.getuid(), os.path.exists('/etc'), sum(range(10)))")
    finally:
        await client.close()
    if result.stdout != "(1000, False, 45)\n":
        raise SandboxUnavailable(
            f"sandbox: a first call went wrong ({result.reason}): {result.stdout}{result.stderr}".strip()
        )
    return summary


def _advice(complaint: str) -> str:
    """bubblewrap's complaint with what to allow, from the host's own switches where they say so."""
    switches = {
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
        "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=15000"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "an AppArmor profile for bwrap, or sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
    for path, (blocking, remedy) in switches.items():
        with contextlib.suppress(OSError):
            if Path(path).read_text().strip() == blocking:
                return f"sandbox: bubblewrap cannot isolate ({complaint}); allow it: {remedy}"
    inside = "; start the container with user namespaces allowed" if os.path.exists("/.dockerenv") else ""
    return (
        f"sandbox: bubblewrap cannot isolate ({complaint}); the host must allow user namespaces "
        f"(sysctl user.max_user_namespaces, also of the namespaces around this one){inside}"
    )
