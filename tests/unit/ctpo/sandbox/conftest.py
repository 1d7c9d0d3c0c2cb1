"""One client per set of limits and per test process, driven from ordinary (not asynchronous) tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from ctpo.sandbox import ExecutionResult, Limits, SandboxClient
from ctpo.sandbox.probes import PROBE_LIMITS

Run = Callable[..., ExecutionResult]


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """`run(code, limits=PROBE_LIMITS)`: the result of one call in the real sandbox."""
    loop = asyncio.new_event_loop()
    clients: dict[Limits, SandboxClient] = {}

    def call(code: str, limits: Limits = PROBE_LIMITS) -> ExecutionResult:
        client = clients.setdefault(limits, SandboxClient(limits, 1))
        return loop.run_until_complete(client.run(code))

    yield call
    for client in clients.values():
        loop.run_until_complete(client.close())
    loop.close()
