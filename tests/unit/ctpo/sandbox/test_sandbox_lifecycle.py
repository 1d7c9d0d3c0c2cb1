"""Concurrency, cancellation, crashes: no call lost or crossed, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from watching import at_rest, calls, groups, mounts, running, standing, until, warm, workers

from ctpo.sandbox import (
    Limits,
    SandboxClient,
    SandboxServer,
    SandboxUnavailable,
    hosting,
    node_server,
    require_isolation,
    runtime,
)
from ctpo.sandbox.bubblewrap import find_bubblewrap
from ctpo.sandbox.memory_watch import children_of, descendants
from ctpo.sandbox.protocol import Request

pytestmark = pytest.mark.slow

SLEEP = "import os, time\nif os.fork() == 0: time.sleep(600)\ntime.sleep(600)"
LONG = Limits(wall_s=60.0)


def _with_server(
    use: Callable[[SandboxClient, int], Awaitable[None]], workers: int = 2, warm_start: bool = True
) -> None:
    """Run `use(client, pid of the server)` on a server whose parents import nothing but the standard library."""

    async def session(server: SandboxServer) -> None:
        client = SandboxClient(LONG, workers, server=server)
        await use(client, server.process.pid)
        await client.close()

    server = SandboxServer(workers, warm=warm_start, modules="numbers")
    try:
        server.ready()
        if warm_start:
            asyncio.run(warm(server.process.pid))
        asyncio.run(session(server))
    finally:
        server.close()


def test_workers_that_cannot_start_end_in_an_error_not_in_an_endless_wait() -> None:
    server = SandboxServer(2, modules="no_such_module")
    try:
        server.ready()
        client = SandboxClient(LONG, 2, address=server.address)
        client._start_own = _refuse  # type: ignore[method-assign]
        with pytest.raises(SandboxUnavailable, match="nothing else serves"):
            asyncio.run(asyncio.wait_for(client.run("print(1)"), 60))
        assert server.process.wait(20) == 0
    finally:
        server.close()


async def _refuse() -> None:
    raise SandboxUnavailable("nothing else serves")


def test_require_isolation_says_quickly_what_isolates() -> None:
    begun = time.monotonic()
    summary = require_isolation()
    assert time.monotonic() - begun < 20.0
    assert summary.startswith("warm parents as ")
    assert "\n" not in summary


def test_require_isolation_works_inside_a_running_event_loop() -> None:
    async def inside() -> str:
        return require_isolation()

    assert asyncio.run(inside()) == require_isolation()


def test_concurrent_calls_each_get_their_own_answer() -> None:
    async def use(client: SandboxClient, _: int) -> None:
        nonces = [f"{i}-{os.urandom(8).hex()}" for i in range(60)]
        results = await asyncio.gather(*(client.run(f"print({nonce!r})") for nonce in nonces))
        assert [r.stdout for r in results] == [f"{nonce}\n" for nonce in nonces]

    _with_server(use)


def test_two_calls_run_at_the_same_time_and_a_third_waits() -> None:
    async def use(client: SandboxClient, server: int) -> None:
        waits = [asyncio.ensure_future(client.run(SLEEP)) for _ in range(3)]
        await until(lambda: len(calls(server)) == 2)
        await asyncio.sleep(0.2)
        assert len(calls(server)) == 2
        assert not any(w.done() for w in waits)
        for wait in waits:
            wait.cancel()

    _with_server(use)


def test_clients_of_other_processes_wait_in_line_at_the_server_without_losing_their_patience() -> None:
    """More calls at once than workers, from clients that know nothing of each other."""

    async def use(client: SandboxClient, _: int) -> None:
        others = [SandboxClient(LONG, 1, address=client._address) for _ in range(6)]
        results = await asyncio.gather(*(c.run(f"import time; time.sleep(0.3); {i}") for i, c in enumerate(others)))
        assert [r.stdout for r in results] == [f"{i}\n" for i in range(6)]

    _with_server(use, workers=1)


@pytest.mark.parametrize("warm_start", [True, False], ids=["warm", "cold"])
def test_cancelling_a_call_kills_all_its_processes_and_frees_its_slot(warm_start: bool) -> None:
    async def use(client: SandboxClient, server: int) -> None:
        await client.run("1")
        await at_rest(server)
        idle = standing(server)
        call = asyncio.ensure_future(client.run(SLEEP))
        await until(lambda: len(standing(server)) >= len(idle) + 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: standing(server) == idle)
        assert (await asyncio.wait_for(client.run("6 * 7"), 20)).stdout == "42\n"

    _with_server(use, workers=1, warm_start=warm_start)


def test_a_call_that_is_cancelled_in_line_never_starts() -> None:
    async def use(client: SandboxClient, server: int) -> None:
        first = asyncio.ensure_future(client.run("import time; time.sleep(1)"))
        await until(lambda: len(calls(server)) == 1)
        other = SandboxClient(LONG, 1, address=client._address)
        second = asyncio.ensure_future(other.run(SLEEP))
        await asyncio.sleep(0.2)
        second.cancel()
        await first
        assert (await asyncio.wait_for(client.run("6 * 7"), 20)).stdout == "42\n"
        assert calls(server) == []

    _with_server(use, workers=1)


def test_a_killed_worker_costs_no_call() -> None:
    async def use(client: SandboxClient, server: int) -> None:
        call = asyncio.ensure_future(client.run("import time; time.sleep(0.5); print('done')"))
        await until(lambda: len(calls(server)) == 1)
        victim = next(worker for worker in workers(server) if set(children_of(worker)) & set(calls(server)))
        orphans = list(descendants(victim))
        os.kill(victim, signal.SIGKILL)
        assert (await asyncio.wait_for(call, 60)).stdout == "done\n"
        await until(lambda: not any(running(pid) for pid in orphans))
        await until(lambda: len(workers(server)) == 2)

    _with_server(use)


def test_a_killed_warm_parent_is_replaced_and_costs_no_call() -> None:
    async def use(client: SandboxClient, server: int) -> None:
        call = asyncio.ensure_future(client.run("import time; time.sleep(1); print('done')"))
        await until(lambda: len(calls(server)) == 1)
        (worker,) = workers(server)
        parents = children_of(worker)[:2]
        for parent in parents:
            os.kill(parent, signal.SIGKILL)
        # The call is the worker's child, not the parent's: it goes on.
        assert (await asyncio.wait_for(call, 60)).stdout == "done\n"
        results = await asyncio.gather(*(client.run(f"{i}") for i in range(3)))
        assert [r.stdout for r in results] == ["0\n", "1\n", "2\n"]
        assert workers(server) == [worker]
        assert not any(running(parent) for parent in parents)

    _with_server(use, workers=1)


def test_a_killed_server_takes_its_calls_along_costs_none_and_its_groups_are_swept() -> None:
    async def session() -> None:
        client = SandboxClient(LONG, 1)
        try:
            await client.start()
            assert client._own is not None
            first = client._own.process.pid
            await warm(first)
            call = asyncio.ensure_future(client.run("import time; time.sleep(1.5); print('done')"))
            await until(lambda: len(calls(first)) == 1)
            processes = list(descendants(first))
            os.kill(first, signal.SIGKILL)
            await until(lambda: not any(running(pid) for pid in processes))
            assert (await asyncio.wait_for(call, 120)).stdout == "done\n"
            assert client._own.process.pid != first
            assert groups(first) == []
        finally:
            await client.close()

    asyncio.run(session())


def test_close_ends_running_calls_and_leaves_nothing() -> None:
    before, open_before = mounts(), os.listdir("/proc/self/fd")

    async def session() -> None:
        client = SandboxClient(LONG, 2)
        await client.start()
        assert client._own is not None
        server = client._own.process.pid
        await warm(server)
        call = asyncio.ensure_future(client.run(SLEEP))
        await until(lambda: len(calls(server)) == 1)
        processes = [server, *descendants(server)]
        await client.close()
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))
        assert groups(server) == []
        with pytest.raises(RuntimeError, match="closed"):
            await client.run("1")
        with pytest.raises((RuntimeError, SandboxUnavailable)):
            await call
        await client.close()

    asyncio.run(session())
    assert mounts() == before
    assert len(os.listdir("/proc/self/fd")) == len(open_before)


def test_processes_of_a_run_share_the_nodes_server_and_it_ends_with_the_run() -> None:
    program = (
        "import asyncio, os\nfrom ctpo.sandbox import Limits, SandboxClient\n"
        "async def main():\n  c = SandboxClient(Limits(wall_s=60.0), 2)\n"
        "  print((await c.run('6 * 7')).stdout, c._own is None)\n  await c.close()\nasyncio.run(main())"
    )
    with node_server(1) as server:
        assert os.environ[hosting.ADDRESS_ENV] == server.address
        said = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(2)]
        assert [(s.stdout, s.stderr) for s in said] == [("42\n True\n", "")] * 2
        processes = [server.process.pid, *descendants(server.process.pid)]
    assert hosting.ADDRESS_ENV not in os.environ
    assert not any(running(pid) for pid in processes)


@pytest.mark.parametrize("how", ["client", "server"])
def test_kill_9_of_the_trainer_leaves_no_process_mount_cgroup_or_file(how: str, tmp_path: Path) -> None:
    program = f"""
import asyncio, os
from ctpo.sandbox import Limits, SandboxClient, node_server

async def main():
    with node_server(2) as server:
        client = SandboxClient(Limits(wall_s=60.0), 2)
        print(server.process.pid, flush=True)
        await asyncio.gather(*(client.run({SLEEP!r}) for _ in range(2)))

asyncio.run(main())
"""
    before = mounts()
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as trainer:
        assert trainer.stdout is not None
        server = int(trainer.stdout.readline())

        # two calls of two processes each
        asyncio.run(until(lambda: len(calls(server)) == 2 and all(children_of(c) for c in calls(server)), 120.0))
        processes = [server, *descendants(server)]
        if how == "server":
            os.kill(server, signal.SIGKILL)
        trainer.kill()
    asyncio.run(until(lambda: not any(running(pid) for pid in processes)))
    assert mounts() == before
    assert list(tmp_path.iterdir()) == []
    assert f"ctpo-sandbox-{trainer.pid}-" not in Path("/proc/net/unix").read_text()
    if how == "server":  # nobody was left to remove its groups: the next server does
        require_isolation()
    assert groups(server) == []


def test_other_users_are_turned_away_and_nonsense_is_not_run() -> None:
    async def use(client: SandboxClient, _: int) -> None:
        assert client._address is not None
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, (3).to_bytes(8, "little") + b"{}\n", b""):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.settimeout(20)
                caller.connect(f"\0{client._address}")
                caller.sendall(nonsense)
                caller.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    assert caller.recv(100) == b""
        if os.geteuid() == 0:
            stranger = (
                "import os, socket, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
                "s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(chr(0) + sys.argv[1])\n"
                f"s.sendall({Request(b'print(1)', Limits()).pack()!r}); print(s.recv(100))\n"
            )
            said = subprocess.run([sys.executable, "-c", stranger, client._address], capture_output=True, text=True)
            assert said.stdout == "b''\n" or "ConnectionReset" in said.stderr or "BrokenPipe" in said.stderr
        assert (await client.run("6 * 7")).stdout == "42\n"

    _with_server(use, workers=1)


def test_calls_through_bubblewrap_behave_the_same() -> None:
    async def use(client: SandboxClient, _: int) -> None:
        assert (await client.run("1 + 2")).stdout == "3\n"
        assert (await client.run("1/0")).reason == "error"
        assert (await client.run("import time; time.sleep(9)", limits=Limits(wall_s=1.0))).reason == "timeout"
        seen = await client.run("import os\nprint(os.getuid(), sorted(os.listdir('/')), os.listdir('/tmp'))")
        assert seen.stdout == "1000 ['dev', 'lib', 'lib64', 'packages', 'tmp', 'usr'] []\n"

    _with_server(use, workers=1, warm_start=False)


def test_a_missing_package_is_a_refusal_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "find_packages", lambda: runtime.find_packages(("sympy", "no_such_package")))
    with pytest.raises(SandboxUnavailable, match="pip install no_such_package"):
        require_isolation()


def test_a_missing_bubblewrap_is_a_refusal_that_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        find_bubblewrap(system=str(tmp_path))


def test_an_old_bubblewrap_is_passed_over_and_named_if_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bubblewrap 0.6.1\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match=r"0\.8\.0 or newer, not .*bubblewrap 0\.6\.1"):
        find_bubblewrap(system=str(tmp_path))
    assert find_bubblewrap()[0] != str(old)


def test_no_code_runs_when_the_host_forbids_namespaces() -> None:
    """A host that forbids user namespaces, made by a namespace around this one that does."""
    program = "from ctpo.sandbox import require_isolation\nrequire_isolation()"
    forbid = ["bwrap", "--dev-bind", "/", "/", "--unshare-user", "--uid", "1000", "--disable-userns", "--"]
    result = subprocess.run([*forbid, sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "SandboxUnavailable: sandbox: calls cannot be isolated" in result.stderr
    assert "user.max_user_namespaces" in result.stderr
