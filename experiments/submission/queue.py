"""What Slurm's commands say: whether there is a queue here, which jobs are in it, whether it takes a request."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import psutil

_TIMEOUT_S = 60
#: What Slurm's commands say where there is no controller to ask.
_NOBODY = ("Could not establish a configuration source", "Unable to contact slurm controller")
#: States in which a job may still run.
PENDING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "SPECIAL_EXIT"})
ALIVE = PENDING | {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING"}

#: What a new job must not inherit: variables of the job that this command runs in, which srun in the new job would take
#: for requests; and sbatch's variables for what the request has a field for, as they win over the lines of a script. A
#: person's other choices (SBATCH_RESERVATION, SLURM_CONF, ...) stay.
_OF_OTHER_JOBS = re.compile(
    r"SLURM_(?!(CONF|CONF_SERVER|CLUSTERS|JWT|DEBUG)$).*|SLURMD_.*|SRUN_.*|SUBMITIT_.*|PMIX?_.*"
    r"|SBATCH_(ACCOUNT|ARRAY_INX|CONSTRAINT|ERROR|EXCLUSIVE|GPUS.*|GRES|JOB_NAME|MEM_PER_.*|NO_REQUEUE|OPEN_MODE|OUTPUT"
    r"|PARTITION|QOS|REQUEUE|SIGNAL|TIMELIMIT|WAIT)"
)


class QueueError(RuntimeError):
    """The cluster cannot be asked, or refuses; the message has its own words."""


class Unreachable(QueueError):
    """Slurm is installed here, but its controller does not answer."""


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


def asked_from_outside(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment for Slurm's commands, as if no job were around; it is what the new job inherits as well."""
    return {name: value for name, value in variables.items() if not _OF_OTHER_JOBS.fullmatch(name)}


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Give this process the environment of `asked_from_outside`, because submitit takes none as an argument."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(asked_from_outside(before))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def has_slurm() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None and shutil.which("squeue") is not None


def answers() -> bool:
    """Whether there is a Slurm here that can be asked."""
    if not has_slurm():
        return False
    try:
        _run(["sinfo", "--noheader"])
    except QueueError:
        return False
    return True


def live_jobs(executor: str, job_ids: Iterable[str]) -> dict[str, str]:
    """State of those of `job_ids` that wait or run, by id, in Slurm's words (`PENDING`, `RUNNING`, ...).

    Raises:
        QueueError: squeue does not answer. Then nothing is known, and nothing should be submitted.
    """
    wanted = set(job_ids)
    if not wanted:
        return {}
    if executor == "local":
        return _live_processes(wanted)
    return {job_id: job.state for job_id, job in _queued(wanted).items()}


def job_states(job_ids: Iterable[str]) -> dict[str, Job]:
    """The jobs that Slurm knows, ended ones too, by id (`12` or `12_3`); empty without a Slurm that answers."""
    wanted, found = set(job_ids), dict[str, Job]()
    if wanted:
        with contextlib.suppress(QueueError):
            found = _queued(wanted, "--states=all")
    if gone := wanted - set(found):
        with contextlib.suppress(QueueError):
            found |= _accounted(gone)
    return found


def _queued(wanted: set[str], *options: str) -> dict[str, Job]:
    # --array: one line a task. All jobs are asked for: a single id that is gone would fail the whole request.
    found = {}
    for job_id, state, reason in _fields("squeue", "--noheader", "--array", "--format=%i|%T|%r", *options):
        if job_id in wanted:
            found[job_id] = Job(state, "" if reason == "None" else reason)
    return found


def _accounted(wanted: set[str]) -> dict[str, Job]:
    request = ("--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode")
    return {
        job_id: Job(state.split()[0], f"exit code {code}" if code != "0:0" else "")  # "CANCELLED by 1000"
        for job_id, state, code in _fields("sacct", *request, f"--jobs={','.join(sorted(wanted))}")
    }


def _fields(*command: str) -> list[list[str]]:
    """The three fields of each line that a command prints; anything else it says is left out."""
    return [line.split("|", 2) for line in _run([*command]).splitlines() if line.count("|") >= 2]


def _live_processes(wanted: set[str]) -> dict[str, str]:
    """submitit's local executor names a job by the process that controls it."""
    alive = {}
    for job_id in wanted:
        try:
            # In a shell's command line, among other words, where the profile has set-up lines.
            if any("submitit.local._local" in word for word in psutil.Process(int(job_id)).cmdline()):
                alive[job_id] = "RUNNING"
        except (ValueError, psutil.Error):
            continue
    return alive


def check_request(script: str) -> str:
    """What `sbatch --test-only` says to a batch script that it would take.

    Raises:
        QueueError: it would not.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        return _run(["sbatch", "--test-only", file.name]).strip()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=asked_from_outside(os.environ)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueError(f"{command[0]} does not answer: {error}") from None
    said = (done.stderr + done.stdout).strip()
    if done.returncode and any(words in said for words in _NOBODY):
        raise Unreachable(
            f"Slurm's controller does not answer ({said.splitlines()[-1]}).\n"
            "  Submit from a login node of the cluster, or start a local one with `make slurm-up`."
        )
    if done.returncode:
        raise QueueError(said or f"{command[0]} ended with code {done.returncode}")
    return said
