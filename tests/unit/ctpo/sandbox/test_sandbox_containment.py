"""Hostile programs: each is contained, ends for the stated reason, and the next call is as good as ever.

A program prints BREACH as soon as it gets anywhere it must not.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watching import Run

from ctpo.sandbox import ExecutionResult
from ctpo.sandbox.probes import AFTER, BREACH, PROBES, Probe, aftermath

SECRET = "top-secret-of-another-run"


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: p.name)
def test_a_hostile_program_is_contained_and_the_next_call_is_as_good_and_fast_as_ever(probe: Probe, run: Run) -> None:
    result = run(probe.code, probe.limits)
    assert probe.failure(result) == ""
    assert result.duration_s < probe.limits.wall_s + 5.0, "killed long after its limit"
    after = run(AFTER)
    assert aftermath(after) == ""
    assert after.duration_s < 3.0, "the next call is slow"


def test_the_suite_is_as_large_as_the_threats() -> None:
    assert len(PROBES) >= 60
    assert len({probe.name for probe in PROBES}) == len(PROBES)
    assert len({probe.code for probe in PROBES}) >= len(PROBES) - 1


def test_a_probe_that_gets_out_is_not_called_contained() -> None:
    assert Probe("open door", "").failure(ExecutionResult(f"{BREACH} /etc/shadow\n", "", "ok", 0.1))
    assert Probe("wrong end", "", ("timeout",)).failure(ExecutionResult("", "", "ok", 0.1))
    assert Probe("missing word", "", expect="word").failure(ExecutionResult("", "", "ok", 0.1))
    assert aftermath(ExecutionResult("42 ['x'] True False 3\n", "", "ok", 0.1))


def test_no_program_reads_a_file_or_the_environment_of_its_host(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret.txt"
    file.write_text(SECRET)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    code = f"""
import glob, os
os.symlink({str(file)!r}, "link")
for path in ({str(file)!r}, "link", "/proc/self/root" + {str(file)!r}, *glob.glob("/proc/*/environ")):
    try:
        print(open(path, "rb").read())
    except OSError as e:
        print(e)
print(dict(os.environ))
"""
    result = run(code)
    assert result.reason == "ok"
    assert SECRET not in result.stdout + result.stderr


@pytest.fixture
def listeners() -> Iterator[tuple[int, str, list[str]]]:
    """A TCP port on loopback and an abstract Unix socket of this process, and who connected."""
    visits: list[str] = []
    name = f"ctpo-sandbox-test-{os.getpid()}"
    tcp, local = socket.socket(), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    local.bind("\0" + name)

    def accept(server: socket.socket) -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return
            visits.append(str(server))

    for server in (tcp, local):
        server.listen()
        threading.Thread(target=accept, args=(server,), daemon=True).start()
    yield tcp.getsockname()[1], name, visits
    for server in (tcp, local):
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_no_program_reaches_a_listener_of_its_host(run: Run, listeners: tuple[int, str, list[str]]) -> None:
    port, name, visits = listeners
    probe = (
        "import socket\nfor f, a in ((2, ('127.0.0.1', {})), (1, '\\0{}')):\n"
        "  try: socket.socket(f).connect(a); print('BREACH')\n  except OSError as e: print(e)"
    )
    # The same program outside does reach both, so the listeners are there to be reached.
    exec(probe.format(port, name), {"print": lambda *_: None})
    _wait_for(lambda: len(visits) == 2)
    result = run(probe.format(port, name))
    assert result.reason == "ok"
    assert "BREACH" not in result.stdout
    time.sleep(0.05)
    assert len(visits) == 2


def test_nothing_a_program_wrote_is_there_for_the_next(run: Run) -> None:
    run("open('/tmp/left', 'w').write('x')\nimport os, sys\nos.environ['LEFT'] = 'x'\nsys.modules['left'] = sys")
    result = run("import os, sys\n(os.listdir('/tmp'), 'LEFT' in os.environ, 'left' in sys.modules)")
    assert result.stdout == "([], False, False)\n"


def test_a_program_that_dies_of_a_signal_is_told_from_one_that_was_stopped(run: Run) -> None:
    code = "import os, signal, time\nchild = os.fork()\nif child == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
    assert run(code + "print(os.waitstatus_to_exitcode(os.wait()[1]))").stdout == f"{-int(signal.SIGKILL)}\n"
    assert run("import ctypes; ctypes.string_at(0)").reason == "killed"


def test_programs_forked_from_one_parent_draw_different_random_numbers(run: Run) -> None:
    code = (
        "import random, numpy, uuid, sympy.core.random as s\n"
        "print(random.random(), numpy.random.rand(), s.rng.random(), s._assumptions_rng.random(), uuid.uuid4())"
    )
    drawn = [run(code).stdout.split() for _ in range(4)]
    assert all(len(set(column)) == len(drawn) for column in zip(*drawn, strict=True))


def _wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
