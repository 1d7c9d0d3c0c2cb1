"""Persistent sessions: what is kept, what is not, and that nobody else sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from watching import PARENTS, calls, running, until, warm, workers

from ctpo.sandbox import ExecutionResult, Limits, SandboxClient, SandboxServer, SandboxUnavailable
from ctpo.sandbox.memory_watch import children_of, descendants, state_of

LIMITS = Limits(wall_s=30.0, cpu_s=30.0, processes=16)


@pytest.fixture(scope="module")
def pool():
    server = SandboxServer(1, sessions=2)
    server.ready()
    asyncio.run(warm(server.process.pid))
    yield server
    server.close()


def _use(server: SandboxServer, use: Callable[[SandboxClient], Awaitable[None]]) -> None:
    async def main() -> None:
        await use(SandboxClient(LIMITS, 4, server=server))

    asyncio.run(main())


def test_a_session_keeps_its_variables_and_modules_between_programs(pool: SandboxServer) -> None:
    async def use(client: SandboxClient) -> None:
        async with client.session() as session:
            outputs = [await session.run(code) for code in ("import sympy as s; x = 5", "1/0", "exit(3)", "x, s.pi")]
        assert [r.reason for r in outputs] == ["ok", "error", "error", "ok"]
        assert "ZeroDivisionError" in outputs[1].stderr
        assert outputs[3].stdout == "(5, pi)\n"

    _use(pool, use)


def test_sessions_and_fresh_calls_see_nothing_of_each_other(pool: SandboxServer) -> None:
    async def use(client: SandboxClient) -> None:
        async with client.session() as one, client.session() as other:
            await one.run("x = 'secret'; open('/tmp/x', 'w').write(x); import builtins; builtins.left = 1")
            look = "import os, builtins; 'x' in globals(), os.listdir('/tmp'), hasattr(builtins, 'left')"
            assert (await other.run(look)).stdout == "(False, [], False)\n"
            assert (await client.run(look)).stdout == "(False, [], False)\n"
            assert (await one.run("x, open('/tmp/x').read()")).stdout == "('secret', 'secret')\n"

    _use(pool, use)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import time; time.sleep(99)", "timeout"),
        ("while True: pass", "timeout"),
        ("while True: print('x' * 999)", "output"),
        ("import ctypes; ctypes.string_at(0)", "killed"),
        ("import os; os._exit(0)", "ok"),
    ],
)
def test_a_session_that_ends_badly_is_replaced_by_an_empty_one(pool: SandboxServer, code: str, reason: str) -> None:
    limits = Limits(wall_s=1.0) if reason == "timeout" else LIMITS

    async def use(client: SandboxClient) -> None:
        async with client.session() as session:
            await session.run("x = 5")
            assert (await session.run(code, limits=limits)).reason == reason
            assert "NameError" in (await session.run("x")).stderr

    _use(pool, use)


def test_a_lost_warm_parent_is_replaced_whatever_the_last_call_was_allowed(pool: SandboxServer) -> None:
    async def use(client: SandboxClient) -> None:
        (worker,) = workers(pool.process.pid)
        async with client.session() as session:
            await session.run("1")
            packages = children_of(worker)[PARENTS - 1]  # the parent that has imported the packages
            os.kill(packages, signal.SIGKILL)
            await until(lambda: not running(packages))
        assert (await client.run("print(1)", limits=Limits(memory_mb=32))).stdout == "1\n"
        for _ in range(2):  # the first may be answered by a process that was forked ahead
            assert (await client.run("import sympy; print(sympy.pi)")).stdout == "pi\n"

    _use(pool, use)


def test_the_cpu_limit_of_a_session_is_per_program(pool: SandboxServer) -> None:
    async def use(client: SandboxClient) -> None:
        limits = Limits(wall_s=60.0, cpu_s=0.5)
        burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
        async with client.session() as session:
            results = [await session.run(burn, limits=limits) for _ in range(3)]
            results.append(await session.run("while True: pass", limits=limits))
        assert [r.reason for r in results] == ["ok", "ok", "ok", "timeout"]

    _use(pool, use)


def test_a_session_rests_between_two_programs_with_all_its_processes_and_threads(pool: SandboxServer) -> None:
    busy = (
        "import os, threading\ndef spin():\n  while True: pass\n"
        "threading.Thread(target=spin, daemon=True).start()\n"
        "for i in range(3):\n  if os.fork() == 0: spin()\n"
    )

    async def use(client: SandboxClient) -> None:
        async with client.session() as session:
            assert (await session.run(busy)).reason == "ok"
            # The kernel's list of children can miss one while another is being reaped.
            await until(lambda: len(calls(pool.process.pid)) == 1)
            (first,) = calls(pool.process.pid)
            processes = [first, *descendants(first)]
            assert len(processes) == 4
            assert {state_of(pid) for pid in processes} == {"T"}
            assert (await session.run("6 * 7")).stdout == "42\n"
        await until(lambda: calls(pool.process.pid) == [])

    _use(pool, use)


def test_a_session_ends_with_its_caller(pool: SandboxServer) -> None:
    async def use(client: SandboxClient) -> None:
        async with client.session() as session:
            await session.run("1")
            await until(lambda: len(calls(pool.process.pid)) == 1)
        await until(lambda: calls(pool.process.pid) == [])
        assert calls(pool.process.pid) == []

    _use(pool, use)


def test_a_session_beyond_the_last_waits_for_one_to_end(pool: SandboxServer) -> None:
    async def use(_: SandboxClient) -> None:
        client = SandboxClient(LIMITS, 1, server=pool)  # those that wait must not keep the others from ending

        async def trajectory(number: int) -> list[ExecutionResult]:
            async with client.session() as session:
                first = await session.run(f"n = {number}")
                await asyncio.sleep(0.2)
                return [first, await session.run("n")]

        results = await asyncio.gather(*(trajectory(i) for i in range(4)))
        assert [second.stdout for _, second in results] == [f"{i}\n" for i in range(4)]

    _use(pool, use)


def test_forged_frames_confuse_nobody_but_the_forger(pool: SandboxServer) -> None:
    forge = "import os\nfor fd in range(3, 256):\n  try: os.write(fd, b'\\0\\0\\0\\0' * 64)\n  except OSError: pass"

    async def use(client: SandboxClient) -> None:
        async with client.session() as forger, client.session() as other:
            await other.run("x = 5")
            for _ in range(3):
                await forger.run(forge)
            assert (await other.run("x")).stdout == "5\n"
            assert (await client.run("6 * 7")).stdout == "42\n"

    _use(pool, use)


def test_a_pool_without_sessions_says_so_instead_of_waiting_for_ever() -> None:
    async def use(client: SandboxClient) -> None:
        begun = time.monotonic()
        async with client.session() as session:
            with pytest.raises(SandboxUnavailable, match="session"):
                await session.run("1")
        assert time.monotonic() - begun < 60.0

    server = SandboxServer(1, modules="numbers")
    try:
        _use(server, use)
    finally:
        server.close()
    assert not os.path.exists(f"/proc/{server.process.pid}")
