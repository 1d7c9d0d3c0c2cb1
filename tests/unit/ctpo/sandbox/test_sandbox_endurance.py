"""A minute of random programs, and a minute of two hundred clients: nothing gets out, lost, crossed or leaked."""

from __future__ import annotations

import asyncio
import os
import random
import time

import pytest
from watching import at_rest, descriptors, groups, megabytes, mounts, standing, warm

from ctpo.sandbox import ExecutionResult, Limits, SandboxClient, SandboxServer
from ctpo.sandbox.memory_watch import children_of
from ctpo.sandbox.probes import AFTER, PROBES, aftermath

pytestmark = pytest.mark.slow

SECONDS = 60.0
CLIENTS = 200
CALLS = 10_000
QUICK = Limits(wall_s=1.0, cpu_s=1.0, memory_mb=128, output_bytes=4096, processes=8, file_mb=4, files=64)
PATIENT = Limits(wall_s=60.0, cpu_s=60.0)
GRAMMAR = (
    "print(1)",
    "import sympy as s; s.factor('x**2-1')",
    "for i in range(10): print(i)",
    "def f(n): return n * f(n - 1) if n else 1\nf(20)",
    "x = [i**2 for i in range(100)]; sum(x)",
    "class A:\n    def __del__(self): print('gone')\nA()",
    "try:\n    1/0\nexcept Exception as e:\n    raise ValueError from e",
    "async def g():\n    await h()\n",
    "lambda: (yield)",
    "match x:\n    case [*_]: pass",
    *("'''", "\\", "f'{", "\x00", "\ufeff", "(" * 90, "x = " + "9" * 5000),
)


def _programs(rng: random.Random) -> str:
    """Random bytes, cut programs (hostile ones too), programs with bytes changed, several glued together."""
    attacks = [probe.code for probe in PROBES if "timeout" not in probe.reasons]
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 2000)).decode("utf-8", "replace")
    code = rng.choice([*GRAMMAR, *attacks])
    if kind == 1:
        return code[: rng.randrange(len(code) + 1)]
    if kind == 2:
        raw = bytearray(code.encode("utf-8", "replace"))
        for _ in range(rng.randrange(1, 6)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        return raw.decode("utf-8", "replace")
    return "\n".join(rng.choice(GRAMMAR) for _ in range(rng.randrange(2, 5)))


@pytest.mark.timeout(600)
def test_random_programs_for_a_minute_are_all_answered_and_contained() -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    server = SandboxServer(2)
    answered = 0

    async def shower(client: SandboxClient) -> None:
        nonlocal answered
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            code = _programs(rng)
            result = await client.run(code, limits=QUICK)
            assert isinstance(result, ExecutionResult), (seed, code)
            # A cut or changed attack may print its word without having got anywhere: only whole ones count.
            assert result.duration_s < 30.0, (seed, code)
            answered += 1

    async def main() -> None:
        server.ready()
        client = SandboxClient(PATIENT, 4, server=server)
        await warm(server.process.pid)
        workers = children_of(server.process.pid)
        await asyncio.gather(*(shower(client) for _ in range(4)))
        for _ in range(4):
            assert aftermath(await client.run(AFTER)) == "", seed
        assert children_of(server.process.pid) == workers, f"a program killed a worker (seed {seed})"

    try:
        asyncio.run(main())
    finally:
        server.close()
    assert answered > 100


@pytest.mark.timeout(900)
def test_two_hundred_clients_for_a_minute_lose_nothing_cross_nothing_and_leave_nothing() -> None:
    """Ten thousand calls at least; memory, descriptors and cgroups end where they were."""
    server = SandboxServer(2)
    pid = server.process.pid
    count = 0

    async def one(client: SandboxClient, begun: float) -> None:
        nonlocal count
        while time.monotonic() - begun < SECONDS or count < CALLS:
            nonce = os.urandom(12).hex()
            code = f"print({nonce!r})" if count % 50 else f"import sympy\nprint({nonce!r}, sympy.Integer(7))"
            result = await client.run(code)
            assert result.reason == "ok", result
            assert result.stdout.split()[0] == nonce
            count += 1

    async def main() -> None:
        server.ready()
        await warm(pid)
        clients = [SandboxClient(PATIENT, 1, server=server) for _ in range(CLIENTS)]
        await asyncio.gather(*(client.run("1") for client in clients))
        await asyncio.gather(*(client.run("import sympy; 1") for client in clients[:20]))
        await at_rest(pid)
        before = (descriptors(pid), standing(pid), groups(pid), mounts(), len(os.listdir("/proc/self/fd")))
        memory = megabytes(pid)
        await asyncio.gather(*(one(client, time.monotonic()) for client in clients))
        await at_rest(pid)
        after = (descriptors(pid), standing(pid), groups(pid), mounts(), len(os.listdir("/proc/self/fd")))
        assert after == before
        assert megabytes(pid) < memory + 8
        assert aftermath(await clients[0].run(AFTER)) == ""

    try:
        asyncio.run(main())
    finally:
        server.close()
    assert count >= CALLS
