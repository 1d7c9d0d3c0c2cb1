"""`python -m ctpo.sandbox doctor`: which isolation this host offers, whether it holds, what a call costs."""

from __future__ import annotations

import asyncio
import math
import time

from ctpo.sandbox.client import SandboxClient, require_isolation
from ctpo.sandbox.hosting import SandboxServer
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.memory_watch import descendants, proportional
from ctpo.sandbox.results import SandboxUnavailable

_WORKERS = 2
_PRINT = "print(1 + 2)"
_SOLVE = "import sympy\nx = sympy.symbols('x')\nprint(sympy.solve(x**2 - 5*x + 6, x))"


def doctor(calls: int) -> int:
    """Print the findings, the verdict last; 0 if calls run isolated and every attack was contained."""
    begun = time.monotonic()
    try:
        summary = require_isolation()
    except SandboxUnavailable as error:
        print(f"FAILED: {error}")
        return 1
    from ctpo.sandbox.probes import PROBES  # which ask libseccomp for numbers: it is there, as calls are isolated

    print(f"isolation  {summary} ({time.monotonic() - begun:.2f} s to prove)")
    server = SandboxServer(_WORKERS)
    try:
        server.ready()
        failures = asyncio.run(_attack(server))
        for name, code in (("print", _PRINT), ("sympy", _SOLVE)):
            print(f"latency    {name}: {asyncio.run(_latency(server, code, calls))}")
        print(f"memory     {pool_megabytes(server):.0f} MiB for {_WORKERS} workers and their warm parents")
    finally:
        server.close()
    if failures:
        print(f"FAILED: {len(failures)} of {len(PROBES)} attacks not contained: {', '.join(failures)}")
        return 1
    print(f"OK: tool calls run isolated; {len(PROBES)} of {len(PROBES)} attacks contained")
    return 0


def pool_megabytes(server: SandboxServer) -> float:
    """MiB that the server and all its processes hold, each shared page counted once. Root sees all of it."""
    own = server.process.pid
    return sum(map(proportional, (own, *descendants(own)))) / 2**20


async def _attack(server: SandboxServer) -> list[str]:
    """Run every attack, and an ordinary call after each; the names of those that failed."""
    from ctpo.sandbox.probes import AFTER, PROBES, aftermath

    client = SandboxClient(Limits(), 1, server=server)
    failed = []
    for probe in PROBES:
        if probe.warm_only and not server.warm:
            print(f"{probe.name:<48}not bounded by bubblewrap, left to the other limits")
            continue
        result = await client.run(probe.code, limits=probe.limits)
        failure = probe.failure(result) or aftermath(await client.run(AFTER, limits=Limits(wall_s=30.0)))
        print(f"{probe.name:<48}{failure or 'contained'} ({result.reason}, {result.duration_s * 1e3:.0f} ms)")
        if failure:
            failed.append(probe.name)
    return failed


async def _latency(server: SandboxServer, code: str, calls: int) -> str:
    """Percentiles over `calls` one after another; then throughput with as many at once as there are workers."""
    client = SandboxClient(Limits(wall_s=60.0), _WORKERS, server=server)
    times = []
    for _ in range(calls):
        begun = time.monotonic()
        await client.run(code)
        times.append(1e3 * (time.monotonic() - begun))
    begun = time.monotonic()
    await asyncio.gather(*(client.run(code) for _ in range(calls)))
    rate = calls / (time.monotonic() - begun)
    times.sort()
    p50, p90, p99 = (times[math.ceil(q * calls) - 1] for q in (0.5, 0.9, 0.99))
    return f"p50 {p50:.0f} ms, p90 {p90:.0f} ms, p99 {p99:.0f} ms; {rate:.0f} calls/s at {_WORKERS} at once"
