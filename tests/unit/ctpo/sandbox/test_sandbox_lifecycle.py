"""Concurrency, cancellation, crashes: no call lost or crossed, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ctpo.sandbox import Limits, SandboxClient, SandboxUnavailable, client, require_isolation, runtime
from ctpo.sandbox.bubblewrap import find_bubblewrap
from ctpo.sandbox.memory_watch import children_of, descendants

SLEEP = "import os, time\nif os.fork() == 0: time.sleep(600)\ntime.sleep(600)"
LONG = Limits(wall_s=60.0)


def _with_client(use: Callable[[SandboxClient], Awaitable[None]], limits: Limits = LONG, concurrency: int = 2) -> None:
    async def session() -> None:
        sandbox = SandboxClient(limits, concurrency)
        try:
            await use(sandbox)
        finally:
            await sandbox.close()

    asyncio.run(session())


def _launcher_pid(sandbox: SandboxClient) -> int:
    assert sandbox._launcher is not None
    return sandbox._launcher.process.pid


def _groups(launcher: int) -> list[str]:
    root = "/sys/fs/cgroup"
    return [f"{at}/{d}" for at, names, _ in os.walk(root) for d in names if d.startswith(f"ctpo-sandbox-{launcher}-")]


async def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.01)


def test_require_isolation_says_quickly_what_isolates() -> None:
    begun = time.monotonic()
    summary = require_isolation()
    assert time.monotonic() - begun < 5.0
    assert summary.startswith("bubblewrap ")
    assert "\n" not in summary


def test_require_isolation_works_inside_a_running_event_loop() -> None:
    async def inside() -> str:
        return require_isolation()

    assert asyncio.run(inside()) == require_isolation()


def test_concurrent_calls_each_get_their_own_answer() -> None:
    async def use(sandbox: SandboxClient) -> None:
        nonces = [f"{i}-{os.urandom(8).hex()}" for i in range(60)]
        results = await asyncio.gather(*(sandbox.run(f"print({nonce!r})") for nonce in nonces))
        assert [r.stdout for r in results] == [f"{nonce}\n" for nonce in nonces]

    _with_client(use)


def test_two_calls_run_at_the_same_time_and_a_third_waits() -> None:
    async def use(sandbox: SandboxClient) -> None:
        await sandbox.run("1")
        waits = [asyncio.ensure_future(sandbox.run(SLEEP)) for _ in range(3)]
        launcher = _launcher_pid(sandbox)
        busy = lambda: sum(bool(children_of(worker)) for worker in children_of(launcher))  # noqa: E731
        await _until(lambda: busy() == 2)
        await asyncio.sleep(0.2)
        assert busy() == 2
        assert not any(w.done() for w in waits)
        for wait in waits:
            wait.cancel()

    _with_client(use)


def test_cancelling_a_call_kills_all_its_processes_and_frees_its_slot() -> None:
    async def use(sandbox: SandboxClient) -> None:
        await sandbox.run("1")
        launcher = _launcher_pid(sandbox)
        idle = sorted(descendants(launcher))
        call = asyncio.ensure_future(sandbox.run(SLEEP))
        await _until(lambda: len(list(descendants(launcher))) >= len(idle) + 4)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await _until(lambda: sorted(descendants(launcher)) == idle, 3.0)
        assert (await asyncio.wait_for(sandbox.run("6 * 7"), 5)).stdout == "42\n"

    _with_client(use, concurrency=1)


def test_a_killed_worker_costs_no_call() -> None:
    async def use(sandbox: SandboxClient) -> None:
        await sandbox.run("1")
        launcher = _launcher_pid(sandbox)
        call = asyncio.ensure_future(sandbox.run("import time; time.sleep(0.5); print('done')"))
        await _until(lambda: any(children_of(worker) for worker in children_of(launcher)))
        victim = next(worker for worker in children_of(launcher) if children_of(worker))
        orphans = list(descendants(victim))
        os.kill(victim, signal.SIGKILL)
        assert (await asyncio.wait_for(call, 20)).stdout == "done\n"
        await _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
        assert len(children_of(launcher)) == 2

    _with_client(use)


def test_a_killed_launcher_takes_its_calls_along_costs_none_and_its_groups_are_swept() -> None:
    async def use(sandbox: SandboxClient) -> None:
        call = asyncio.ensure_future(sandbox.run("import time; time.sleep(1.5); print('done')"))
        await _until(lambda: sandbox._launcher is not None)
        first = _launcher_pid(sandbox)
        await _until(lambda: len(list(descendants(first))) >= 5)
        processes = list(descendants(first))
        os.kill(first, signal.SIGKILL)
        await _until(lambda: not any(_running(pid) for pid in processes), 1.0)
        assert (await asyncio.wait_for(call, 20)).stdout == "done\n"
        assert _launcher_pid(sandbox) != first
        assert _groups(first) == []

    _with_client(use)


def test_close_ends_running_calls_and_leaves_nothing() -> None:
    before = Path("/proc/self/mounts").read_text()
    open_before = os.listdir("/proc/self/fd")

    async def session() -> None:
        sandbox = SandboxClient(LONG, 2)
        await sandbox.run("1")
        launcher = _launcher_pid(sandbox)
        call = asyncio.ensure_future(sandbox.run(SLEEP))
        await _until(lambda: len(list(descendants(launcher))) >= 6)
        processes = [launcher, *descendants(launcher)]
        await sandbox.close()
        await _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))
        assert _groups(launcher) == []
        with pytest.raises(RuntimeError, match="closed"):
            await sandbox.run("1")
        with pytest.raises((RuntimeError, SandboxUnavailable)):
            await call
        await sandbox.close()

    asyncio.run(session())
    assert Path("/proc/self/mounts").read_text() == before
    assert len(os.listdir("/proc/self/fd")) == len(open_before)


def test_kill_9_of_the_client_leaves_no_process_mount_or_cgroup() -> None:
    program = f"""
import asyncio, sys
from ctpo.sandbox import Limits, SandboxClient

async def main():
    sandbox = SandboxClient(Limits(wall_s=60.0), 2)
    await sandbox.start()
    print(sandbox._launcher.process.pid, flush=True)
    await asyncio.gather(*(sandbox.run({SLEEP!r}) for _ in range(2)))

asyncio.run(main())
"""
    mounts = Path("/proc/self/mounts").read_text()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        launcher = int(trainer.stdout.readline())

        async def full() -> None:
            # launcher, 2 workers, and per call two bubblewraps, the program and its child
            await _until(lambda: len(list(descendants(trainer.pid))) >= 11)

        asyncio.run(full())
        processes = list(descendants(trainer.pid))
        trainer.kill()

    async def gone() -> None:
        await _until(lambda: not any(_running(pid) for pid in processes), 5.0)

    asyncio.run(gone())
    assert _groups(launcher) == []
    assert Path("/proc/self/mounts").read_text() == mounts


def _running(pid: int) -> bool:
    """Whether process `pid` is still there (a zombie that init has yet to reap is not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_many_calls_leave_memory_and_descriptors_where_they_were(run) -> None:
    async def use(sandbox: SandboxClient) -> None:
        await asyncio.gather(*(sandbox.run("1") for _ in range(20)))
        launcher = _launcher_pid(sandbox)
        pids = [os.getpid(), launcher, *children_of(launcher)]
        count = lambda: [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]  # noqa: E731
        before = count()
        await asyncio.gather(*(sandbox.run("1/0") for _ in range(100)))
        assert count() == before

    _with_client(use)


def test_a_missing_package_is_a_refusal_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "find_packages", lambda: runtime.find_packages(("sympy", "no_such_package")))
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


def test_no_code_runs_when_bubblewrap_cannot_make_its_namespaces() -> None:
    """A host that forbids user namespaces, made by a namespace around this one that does."""
    program = "from ctpo.sandbox import require_isolation\nrequire_isolation()"
    forbid = ["bwrap", "--dev-bind", "/", "/", "--unshare-user", "--uid", "1000", "--disable-userns", "--"]
    result = subprocess.run([*forbid, sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "SandboxUnavailable: sandbox: bubblewrap cannot isolate" in result.stderr
    assert "user.max_user_namespaces" in result.stderr
