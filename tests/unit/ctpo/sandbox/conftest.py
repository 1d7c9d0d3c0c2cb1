"""One server and one client per test process, driven from ordinary (not asynchronous) tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from watching import Run

from ctpo.sandbox import ExecutionResult, Limits, SandboxClient, SandboxServer
from ctpo.sandbox.probes import PROBE_LIMITS


@pytest.fixture(scope="session")
def server() -> Iterator[SandboxServer]:
    """A server with one worker."""
    started = SandboxServer(1)
    yield started
    started.close()


@pytest.fixture(scope="session")
def run(server: SandboxServer) -> Iterator[Run]:
    """`run(code, limits=PROBE_LIMITS)`: the result of one call in the real sandbox."""
    loop = asyncio.new_event_loop()
    client = SandboxClient(PROBE_LIMITS, 1, server=server)

    def call(code: str, limits: Limits = PROBE_LIMITS, echo: bool = True) -> ExecutionResult:
        return loop.run_until_complete(client.run(code, limits=limits, echo=echo))

    yield call
    loop.run_until_complete(client.close())
    loop.close()
