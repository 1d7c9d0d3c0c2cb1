"""Tool calls against a plain `python` process per call and a hardened bubblewrap process per call, same cores."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from ctpo.sandbox import Limits, SandboxClient, SandboxServer
from ctpo.sandbox.bubblewrap import find_bubblewrap
from ctpo.sandbox.doctor import pool_megabytes
from ctpo.sandbox.seccomp import filter_program
from experiments.speed.measuring import Row

WORKERS = 2
# Not the equation that the warm parents solve at their start.
PROGRAMS = {
    "print(1)": "print(1)",
    "sympy": "import sympy\nx = sympy.symbols('x')\nprint(sympy.solve(x**3 - 7*x**2 + 14*x - 8, x))",
}
BOUNDS = {("plain python", "print(1)"): 3.0, ("plain python", "sympy"): 10.0}
LEAK_CALLS = 10_000
LATENCY_CALLS = 300
_LIMITS = Limits(wall_s=120.0, cpu_s=120.0)
_COLD = "this sandbox's bubblewrap"
_HARDENED = "hardened bubblewrap"

Contender = Callable[[str, int], Awaitable[float]]


def measure(rounds: int) -> list[Row]:
    """Throughput with two at once as a multiple of each contender's, latency, memory, and what calls leave."""
    warm, cold = SandboxServer(WORKERS), SandboxServer(WORKERS, warm=False)
    try:
        warm.ready()
        cold.ready()
        return asyncio.run(_measure(warm, cold, max(3, rounds // 6)))
    finally:
        cold.close()
        warm.close()


async def _measure(warm: SandboxServer, cold: SandboxServer, rounds: int) -> list[Row]:
    ours = _through(warm)
    contenders: dict[str, Contender] = {
        "plain python": _processes([sys.executable, "-c"]),
        _HARDENED: _processes(_hardened()),
        _COLD: _through(cold),
    }
    rows: list[Row] = []
    for label, code in PROGRAMS.items():
        few = 4 if label == "sympy" else 20
        await ours(code, 20)
        rates: dict[str, list[float]] = {name: [] for name in ("ours", *contenders)}
        for _ in range(rounds):
            rates["ours"].append(await ours(code, 10 * few))
            for name, contender in contenders.items():
                rates[name].append(await contender(code, few))
        rows.append(Row(f"{label}  sandbox, {WORKERS} at once", statistics.median(rates["ours"]), "calls/s"))
        for name in contenders:
            ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates[name], strict=True))
            least = 8.0 if name == _HARDENED else BOUNDS.get((name, label))
            rows.append(Row(f"{label}  sandbox", ratio, f"x {name}", at_least=least))
    return [*rows, *await _latency(warm), *await _leaks(warm)]


def _through(server: SandboxServer) -> Contender:
    """Calls per second of `count` calls, `WORKERS` at once."""
    client = SandboxClient(_LIMITS, WORKERS, server=server)

    async def rate(code: str, count: int) -> float:
        begun = time.perf_counter()
        results = await asyncio.gather(*(client.run(code) for _ in range(count)))
        seconds = time.perf_counter() - begun
        assert all(result.reason == "ok" and result.stdout for result in results)
        return count / seconds

    return rate


def _processes(command: list[str]) -> Contender:
    async def rate(code: str, count: int) -> float:
        def one(_: int) -> None:
            subprocess.run([*command, code], check=True, capture_output=True)

        begun = time.perf_counter()
        with ThreadPoolExecutor(WORKERS) as threads:
            list(threads.map(one, range(count)))
        return count / (time.perf_counter() - begun)

    return rate


def _hardened() -> list[str]:
    """A full interpreter with its site-packages in bubblewrap, as one would write it by hand.

    The filter comes from a file that every start reads anew: it is opened by its path below /proc.
    """
    bwrap, _ = find_bubblewrap()
    fd = os.memfd_create("filter", 0)
    os.write(fd, filter_program())
    places = {sys.prefix, sys.base_prefix, "/usr", *(p for p in ("/lib", "/lib64") if os.path.isdir(p))}
    binds = [word for place in sorted(places) for word in ("--ro-bind", place, place)]
    shell = f'exec 9<"/proc/{os.getpid()}/fd/{fd}"; exec "$@" '
    hardened = [
        *(bwrap, "--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--disable-userns"),
        *("--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL", "--seccomp", "9"),
        *("--proc", "/proc", "--dev", "/dev", "--size", str(32 << 20), "--tmpfs", "/tmp", "--chdir", "/tmp"),
        *binds,
        *("--", sys.executable, "-c"),
    ]
    return ["/bin/sh", "-c", shell, "sh", *hardened]


async def _latency(server: SandboxServer) -> list[Row]:
    client = SandboxClient(_LIMITS, 1, server=server)
    times = []
    for _ in range(LATENCY_CALLS):
        begun = time.perf_counter()
        await client.run("print(1)")
        times.append(1e3 * (time.perf_counter() - begun))
    p50, p99 = (statistics.quantiles(times, n=100)[q - 1] for q in (50, 99))
    return [
        Row("print(1)  latency p50", p50, "ms", at_most=30.0),
        Row("print(1)  latency p99", p99, "ms", at_most=150.0),
    ]


async def _leaks(server: SandboxServer) -> list[Row]:
    """What `LEAK_CALLS` calls leave behind in the server and its processes."""
    rate = _through(server)

    def state() -> tuple[float, int, int]:
        from ctpo.sandbox.memory_watch import descendants

        pids = [server.process.pid, *descendants(server.process.pid)]
        descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
        prefix = f"ctpo-sandbox-{server.process.pid}-"
        groups = sum(name.startswith(prefix) for _, names, _ in os.walk("/sys/fs/cgroup") for name in names)
        return pool_megabytes(server), descriptors, groups

    async def after_calls(count: int) -> tuple[float, int, int]:
        await rate("print(1)", count)
        await asyncio.sleep(1.0)  # the last answer is out before the process for the next call is in
        return state()

    before = await after_calls(200)
    after = await after_calls(LEAK_CALLS)
    return [
        Row(f"memory of the pool, {WORKERS} workers", after[0], "MiB"),
        Row(f"memory after {LEAK_CALLS} more calls", after[0] - before[0], "MiB more", at_most=8.0),
        Row(f"descriptors after {LEAK_CALLS} more calls", after[1] - before[1], "more", at_most=0.0),
        Row(f"cgroups after {LEAK_CALLS} more calls", after[2] - before[2], "more", at_most=0.0),
    ]
