"""Ordinary programs print, fail and end in the sandbox, warm and cold, as they do in plain Python."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from ctpo.sandbox import ExecutionResult, Limits, SandboxClient, SandboxServer

pytestmark = pytest.mark.slow

_LIMITS = Limits(wall_s=120.0, cpu_s=60.0)
_BLOCKS = Path(__file__).with_name("ordinary_programs.txt").read_text().split("=== ")[1:]
PROGRAMS = {name: code for name, _, code in (block.partition("\n") for block in _BLOCKS)}
# The interpreter's own display reads source lines from a file, which the sandbox's program is not.
_WITHOUT_SOURCE_LINES = ("exception in a thread", "atexit with an error", "thread error and exit status")


class End(NamedTuple):
    """How a program ended: what it printed, its exit status (an interrupt as shells write it), its stderr."""

    stdout: str
    status: int
    stderr: str


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, End]:
    """Each program in a process of `python`, its output going into a pipe."""

    def end(numbered: tuple[int, str]) -> End:
        folder = tmp_path_factory.mktemp(f"program{numbered[0]}")
        (folder / "scratch").mkdir()
        (folder / "program.py").write_bytes(numbered[1].encode("utf-8", "surrogatepass"))
        done = subprocess.run(
            [sys.executable, "-X", "utf8", "-X", "int_max_str_digits=0", "../program.py"],
            cwd=folder / "scratch",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            env={"HOME": "/tmp", "PYTHONPATH": str(folder / "scratch"), "PYTHONDONTWRITEBYTECODE": "1"},
            check=False,
        )
        status = 130 if done.returncode == -2 else done.returncode
        return End(done.stdout.decode("utf-8", "replace"), status, done.stderr.decode("utf-8", "replace"))

    with ThreadPoolExecutor(2) as threads:
        return dict(zip(PROGRAMS, threads.map(end, enumerate(PROGRAMS.values())), strict=True))


@pytest.fixture(scope="module", params=["warm", "cold"])
def sandboxed(request: pytest.FixtureRequest) -> dict[str, ExecutionResult]:
    """Each program in the sandbox."""
    server = SandboxServer(2, warm=request.param == "warm")

    async def results() -> list[ExecutionResult]:
        client = SandboxClient(_LIMITS, 2, server=server)
        return await asyncio.gather(*(client.run(code, echo=False) for code in PROGRAMS.values()))

    try:
        return dict(zip(PROGRAMS, asyncio.run(results()), strict=True))
    finally:
        server.close()


def test_there_are_as_many_programs_as_ways_to_print_fail_and_end() -> None:
    assert len(PROGRAMS) == len(_BLOCKS) >= 150


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ends_as_in_plain_python(
    name: str, plain: dict[str, End], sandboxed: dict[str, ExecutionResult]
) -> None:
    wanted, result = plain[name], sandboxed[name]
    assert (result.stdout, result.status) == (wanted.stdout, wanted.status), result.stderr
    assert result.reason == ("killed" if wanted.status < 0 else "error" if wanted.status else "ok")
    shown, expected = _comparable(result.stderr), _comparable(wanted.stderr)
    if name in _WITHOUT_SOURCE_LINES:
        shown, expected = (re.sub(r"(?m)^    .*\n", "", text) for text in (shown, expected))
    assert shown == expected


def _comparable(stderr: str) -> str:
    """Without what differs between any two processes: places of files, addresses, durations."""
    named = re.sub(r'[^\s"]*program\.py', "<code>", stderr)
    for pattern in (r'(?<=File ")[^"<]*/', r"(?<=\()/[^)]*/", r"0x[0-9a-f]+", r"(?<=test in )[0-9.]+"):
        named = re.sub(pattern, "", named)
    return named
