"""What Slurm says about jobs, where there is a Slurm: the queue first, accounting for what has left it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

TIMEOUT_S = 10.0
#: States in which a job may still run.
PENDING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "SPECIAL_EXIT"})
ALIVE = PENDING | {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}


@dataclass(frozen=True)
class Job:
    """`state`: Slurm's word, for example `PENDING`; `reason`: why it waits, or its exit code where it failed."""

    state: str
    reason: str = ""

    @property
    def waits(self) -> bool:
        return self.state in PENDING

    @property
    def alive(self) -> bool:
        return self.state in ALIVE


def job_states(job_ids: Iterable[str]) -> dict[str, Job]:
    """The jobs that Slurm knows, by id (`12` or `12_3`); empty where there is no Slurm or it does not answer."""
    wanted = sorted(set(job_ids))
    if not wanted:
        return {}
    found = _queued(wanted)
    gone = [job for job in wanted if job not in found]
    return {**_accounted(gone), **found}


def _queued(job_ids: list[str]) -> dict[str, Job]:
    # --array: one line a task. All jobs are asked for: a single id that is gone would fail the whole request.
    lines = _lines("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r")
    jobs = {}
    for line in lines:
        job, state, reason = line.split("|", 2)
        if job in job_ids:
            jobs[job] = Job(state, "" if reason == "None" else reason)
    return jobs


def _accounted(job_ids: list[str]) -> dict[str, Job]:
    if not job_ids:
        return {}
    request = ("--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode")
    jobs = {}
    for line in _lines("sacct", *request, f"--jobs={','.join(job_ids)}"):
        job, state, code = line.split("|", 2)
        jobs[job] = Job(state.split()[0], f"exit code {code}" if code != "0:0" else "")  # "CANCELLED by 1000"
    return jobs


def _lines(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        return []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line for line in done.stdout.splitlines() if line.count("|") >= 2] if done.returncode == 0 else []
