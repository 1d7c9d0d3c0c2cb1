"""Real runs, as a user starts them. Each has a hard outer timeout; none may leave a process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ctpo.training.platforms.environment import RUN_ENV

PROJECT = Path(__file__).resolve().parents[2]

#: What other programs leave around a run: each of these once kept one from starting.
AROUND = {
    "HOME": "/proc", "RAY_ADDRESS": "203.0.113.1:6379", "RAY_TMPDIR": "/nowhere", "RAY_NAMESPACE": "other",
    "ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "zero,0",
    "MASTER_ADDR": "203.0.113.1", "MASTER_PORT": "1", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3",
    "HTTP_PROXY": "http://203.0.113.1:9", "http_proxy": "http://203.0.113.1:9",
    "VLLM_PORT": "1", "VLLM_PLUGINS": "", "VLLM_RPC_BASE_PATH": "/nowhere", "WANDB_RUN_ID": "a/b",
    "WANDB_RESUME": "must", "WANDB_DIR": "/proc", "SLURM_NTASKS": "4",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.e2e)


@dataclass
class Run:
    """One run directory and the command that trains into it."""

    directory: Path
    arguments: list[str]
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begin training; `output` is what a user would see."""
        self.output = self.directory.parent / f"{self.directory.name}.out"
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                self.command(), cwd=PROJECT, env={**os.environ, **AROUND, "TMPDIR": self._long_folder()},
                stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip

    def _long_folder(self) -> str:
        """A TMPDIR too long for a socket in it."""
        folder = self.directory.parent / ("x" * 100)
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def command(self) -> list[str]:
        """What a user would type."""
        return [sys.executable, "experiments/run.py", f"run.dir={self.directory}", *self.arguments]

    def wait(self, timeout: float) -> int:
        """The exit code; kills everything and fails the test after `timeout` seconds."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"no exit within {timeout} s\n{self.tail()}")

    def wait_until(self, condition: Callable[[], bool], timeout: float) -> None:
        """Return as soon as `condition` holds; fail if the run ends or `timeout` seconds pass before."""
        assert self.process is not None
        end = time.monotonic() + timeout
        while not condition():
            if self.process.poll() is not None:
                pytest.fail(f"the run ended early with code {self.process.returncode}\n{self.tail()}")
            if time.monotonic() > end:
                pytest.fail(f"nothing within {timeout} s\n{self.tail()}")
            time.sleep(0.2)

    def kill(self) -> None:
        """`kill -9` of the trainer's command, as a node failure or the OOM killer would."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self) -> str:
        """The end of what the run said, for a failure message."""
        log = self.directory / "run.log"
        texts = [path.read_text(errors="replace")[-3000:] for path in (self.output, log) if path.exists()]
        return "\n---\n".join(texts)

    def processes(self) -> list[psutil.Process]:
        """All live processes of this run, whoever started them."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(RUN_ENV) == str(self.directory) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def wait_for_no_process(self, timeout: float) -> None:
        """Fail if any process of the run is alive after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self.processes() and time.monotonic() < end:
            time.sleep(0.5)
        left = [(process.pid, " ".join(process.cmdline())[:120]) for process in self.processes()]
        assert not left, f"left behind: {left}"


@pytest.fixture
def new_run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Makes runs; ends whatever is left of them afterwards."""
    runs: list[Run] = []

    def make(*arguments: str, name: str = "run") -> Run:
        # Where the default configuration would put it, so that readers find it.
        runs.append(Run(tmp_path / "runs" / "e2e" / "tiny" / name / "seed0", list(arguments)))
        return runs[-1]

    yield make
    for run in runs:
        for process in run.processes():
            process.kill()
