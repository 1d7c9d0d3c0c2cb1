"""`python -m ctpo.sandbox doctor`: which isolation this host offers, whether it holds, what a call costs."""

from __future__ import annotations

import asyncio
import math
import resource
import time

from ctpo.sandbox.client import SandboxClient, require_isolation
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.probes import PROBE_LIMITS, PROBES
from ctpo.sandbox.results import SandboxUnavailable

_CONCURRENCY = 2


def doctor(calls: int) -> int:
    """Print the findings, the verdict last; 0 if calls run isolated and every probe was contained."""
    begun = time.monotonic()
    try:
        summary = require_isolation()
    except SandboxUnavailable as error:
        print(f"FAILED: {error}")
        return 1
    print(f"isolation     {summary} ({time.monotonic() - begun:.2f} s to prove)")
    failures = asyncio.run(_probe())
    print(f"latency       {asyncio.run(_latency(calls))}")
    if failures:
        print(f"FAILED: {len(failures)} of {len(PROBES)} probes not contained: {', '.join(failures)}")
        return 1
    print(f"OK: tool calls run isolated; {len(PROBES)} of {len(PROBES)} probes contained")
    return 0


async def _probe() -> list[str]:
    """Run every probe, and an ordinary call after each; the names of those that failed."""
    client = SandboxClient(PROBE_LIMITS, 1)
    failed = []
    try:
        for probe in PROBES:
            result = await client.run(probe.code)
            failure = probe.failure(result)
            after = await client.run("6 * 7")
            if not failure and after.stdout != "42\n":
                failure = f"the next call failed: {after.reason} {after.stderr.strip()[-200:]}"
            took = f"{result.reason}, {result.duration_s * 1e3:.0f} ms"
            print(f"{probe.name:<14}{failure or 'contained'} ({took})")
            if failure:
                failed.append(probe.name)
    finally:
        await client.close()
    return failed


async def _latency(calls: int) -> str:
    """Percentiles over `calls` of `print(1 + 2)` one after another; then throughput with two at once."""
    cpu_before = _children_cpu()
    client = SandboxClient(Limits(), _CONCURRENCY)
    try:
        await client.start()
        times = []
        for _ in range(calls):
            begun = time.monotonic()
            await client.run("print(1 + 2)")
            times.append(1e3 * (time.monotonic() - begun))
        begun = time.monotonic()
        await asyncio.gather(*(client.run("print(1 + 2)") for _ in range(calls)))
        rate = calls / (time.monotonic() - begun)
    finally:
        await client.close()
    # The launcher's own start is in it, spread over the calls.
    cpu = 1e3 * (_children_cpu() - cpu_before) / (2 * calls)
    times.sort()
    p50, p90, p99 = (times[math.ceil(q * calls) - 1] for q in (0.5, 0.9, 0.99))
    spread = f"p50 {p50:.0f} ms, p90 {p90:.0f} ms, p99 {p99:.0f} ms"
    return f"{spread}; {rate:.0f} calls/s at {_CONCURRENCY} at once; {cpu:.0f} ms CPU a call"


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
