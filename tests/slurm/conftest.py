"""A real Slurm on this machine, for the whole session, and ways to see and disturb what runs on it."""

from __future__ import annotations

import functools
import json
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

from ctpo.records import RunDirectory, read_submission

PROJECT = Path(__file__).resolve().parents[2]
CLUSTER = PROJECT / "slurm" / "cluster"
#: With these of an allocation around it, the job's own srun would refuse or ask for something else.
OUTER_JOB = {
    "SLURM_JOB_ID": "1", "SLURM_NTASKS": "7", "SLURM_MEM_PER_CPU": "1", "SLURM_MEM_PER_GPU": "1",
    "SLURM_CPU_BIND": "map_cpu:99", "SLURM_CPUS_PER_TASK": "99", "SRUN_CPUS_PER_TASK": "99", "SBATCH_TIMELIMIT": "1",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


def slurm(*command: str, check: bool = True) -> str:
    """The output of one of Slurm's commands."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def accounted(job: str, fields: str = "State") -> str:
    """What slurmdbd knows of the job, a moment later than the queue does."""
    return slurm("sacct", "-X", "-n", "-P", "-j", job, "-o", fields)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """`make slurm-up`; down again afterwards unless it was up before."""
    was_up = (
        subprocess.run(["sinfo", "-h"], capture_output=True, check=False).returncode == 0 if _installed() else False
    )
    done = subprocess.run([CLUSTER / "up.sh"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    yield
    if not was_up:
        subprocess.run([CLUSTER / "down.sh"], capture_output=True, timeout=120, check=True)


def _installed() -> bool:
    return any((Path(folder) / "sinfo").exists() for folder in os.environ["PATH"].split(":"))


@dataclass
class Sweep:
    """Runs below a root of their own, and the command that submits them."""

    root: Path
    arguments: list[str]

    def command(self, *more: str) -> list[str]:
        return [
            sys.executable, "experiments/run.py", "-m", f"run.root={self.root}", "run.sweep=s", *self.arguments, *more
        ]  # fmt: skip

    def submit(self, *more: str) -> subprocess.CompletedProcess[str]:
        """What a person does, here inside of another job; returns as soon as everything is queued."""
        return subprocess.run(
            self.command(*more),
            cwd=PROJECT,
            env={**os.environ, **OUTER_JOB},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def run(self, method: str, model: str = "tiny") -> Path:
        return self.root / "s" / model / method / "seed0"

    def job(self, method: str, model: str = "tiny") -> str:
        submission = read_submission(self.run(method, model))
        assert submission is not None
        return submission.job_id

    def output(self, job: str) -> str:
        """All that the job's tasks said."""
        folder = self.root / "s" / ".jobs" / job
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in sorted(folder.glob("*log*")))


@pytest.fixture
def new_sweep(cluster: None, tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """Makes sweeps; cancels whatever of their jobs is left afterwards."""
    made: list[Sweep] = []

    def make(*arguments: str) -> Sweep:
        made.append(Sweep(tmp_path / f"runs{len(made)}", list(arguments)))
        return made[-1]

    # A node that a failed test left down or drained is no failure of the next one; refused for one that serves.
    slurm("scontrol", "update", "nodename=ALL", "state=resume", check=False)
    yield make
    for sweep in made:
        jobs = [json.loads(path.read_text())["job_id"] for path in sweep.root.glob("s/*/*/*/submission.json")]
        for job in jobs:
            slurm("scancel", job, check=False)
        wait_until(functools.partial(all_ended, jobs), 60, lambda: slurm("squeue"))


def all_ended(jobs: list[str]) -> bool:
    """Whether none of the jobs waits or runs."""
    return not any(map(state, jobs))


def state(job: str) -> str:
    """Slurm's word for a job that waits or runs; empty once it has ended."""
    return slurm("squeue", "-h", "-r", "-j", job, "-o", "%T", check=False)


def restarts(job: str) -> int:
    """How often Slurm has started the job again."""
    words = slurm("scontrol", "show", "job", job).split()
    return int(next(word.removeprefix("Restarts=") for word in words if word.startswith("Restarts=")))


def wait_until(condition: Callable[[], bool], timeout: float, explain: Callable[[], str]) -> None:
    """Return as soon as `condition` holds; fail with an explanation after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"nothing within {timeout} s\n{explain()}")
        time.sleep(0.3)


def processes(job: str, words: str = "") -> list[psutil.Process]:
    """Processes of a job with `words` in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if words in " ".join(process.cmdline()) and process.environ().get("SLURM_JOB_ID") == job:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def step_daemons(job: str) -> list[psutil.Process]:
    """What slurmd runs for each step of a job; it goes after the step's own processes."""
    title = f"slurmstepd: [{job}."
    return [process for process in psutil.process_iter(["cmdline"]) if title in " ".join(process.info["cmdline"] or [])]


def training_process(job: str) -> psutil.Process:
    """The process that drives the training of a job."""
    (process,) = processes(job, "experiments.submission.training")
    return process


def kill(process: psutil.Process) -> None:
    """`kill -9`."""
    os.kill(process.pid, signal.SIGKILL)


def manifest(run: Path) -> dict:
    return RunDirectory(run).manifest()
