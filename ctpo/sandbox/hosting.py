"""Starts a sandbox server as a child of this process, and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ctpo.sandbox import seccomp
from ctpo.sandbox.bubblewrap import find_bubblewrap
from ctpo.sandbox.results import SandboxUnavailable, advice
from ctpo.sandbox.runtime import find_packages
from ctpo.sandbox.warm import MODULES, WARM

#: Names the server of the run on this node, for all processes of the run.
ADDRESS_ENV = "CTPO_SANDBOX_ADDRESS"
_START_S = 30.0
_BACKLOG = 4096


class SandboxServer:
    """A pool of `concurrency` workers that runs calls of this user's processes on this node.

    warm: False starts an interpreter per call through bubblewrap, as hosts do that allow no more.
    modules: what warm parents import, separated by blanks.

    Its address is a random abstract Unix socket: no file to leave behind; other users are turned away by their
    uid. It ends with `close`, or when this process dies, however it dies.
    Raises SandboxUnavailable when packages or, for cold calls, bubblewrap are missing.
    """

    def __init__(self, concurrency: int, warm: bool = True, modules: str = MODULES) -> None:
        try:
            bubblewrap, self._no_bubblewrap = find_bubblewrap(), ""
        except SandboxUnavailable as error:
            if not warm:
                raise
            bubblewrap, self._no_bubblewrap = None, str(error)
        filter_program = seccomp.filter_program()
        config = {
            "packages": find_packages(),
            "bubblewrap": bubblewrap,  # found here because the server has no PATH
            "filter": filter_program.hex(),  # compiled here because the server has none of the environment's packages
            "calls": len(seccomp.allowed_numbers()),
            "concurrency": concurrency,
            "warm": warm,
            "modules": modules,
        }
        home = str(Path(__file__).resolve().parents[2])
        start = (
            "import sys; sys.path.append(sys.argv.pop(1)); "
            "from ctpo.sandbox.server import main; sys.exit(main(sys.argv[1:]))"
        )
        self.address = f"ctpo-sandbox-{os.getpid()}-{secrets.token_hex(8)}"
        self.summary = ""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"\0{self.address}")
        listener.listen(_BACKLOG)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, listener:
            handles = [theirs.fileno(), listener.fileno()]
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-c", start, home, *map(str, handles), json.dumps(config)],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=handles,
                start_new_session=True,  # to clean up even if the whole process group of the run is killed
            )

    def ready(self) -> str:
        """Wait until the isolation is prepared; one line that says what isolates. Blocks for up to a second.

        Raises SandboxUnavailable with the reason if it cannot be.
        """
        if self.summary:
            return self.summary
        self._control.settimeout(_START_S)
        try:
            said = self._control.recv(65536)
        except OSError as error:
            raise SandboxUnavailable(f"sandbox: the server did not start within {_START_S:.0f} s") from error
        if not said:
            raise SandboxUnavailable("sandbox: the server died at its start; see its traceback above")
        hello = json.loads(said)
        if "error" in hello:
            message = hello["error"] if hello["error"].startswith("sandbox: ") else advice(hello["error"])
            raise SandboxUnavailable("; ".join(filter(None, (message, self._no_bubblewrap))))
        self.summary = hello["summary"]
        return self.summary

    @property
    def warm(self) -> bool:
        """Whether calls are forked from warm parents on this host; known once `ready`."""
        return self.summary.startswith(WARM)

    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """End the server and with it every call; kill it if it does not go within a few seconds."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def node_server(concurrency: int) -> Iterator[SandboxServer]:
    """A server for this process and all that it starts: they find it by `ADDRESS_ENV`."""
    server = SandboxServer(concurrency)
    before = os.environ.get(ADDRESS_ENV)
    try:
        server.ready()
        os.environ[ADDRESS_ENV] = server.address
        yield server
    finally:
        server.close()
        if before is None:
            os.environ.pop(ADDRESS_ENV, None)
        else:
            os.environ[ADDRESS_ENV] = before
