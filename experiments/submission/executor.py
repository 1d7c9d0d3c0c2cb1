"""submitit, with what it does not offer: the exact request before it is made."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from experiments.submission import queue
from experiments.submission.profile import Profile


@dataclass(frozen=True)
class JobRequest:
    """One job to be: `name` in the queue, `work` what it calls (pickled), `directory` where its submission is noted."""

    name: str
    directory: Path
    work: Callable[[], Any]


class PreviewExecutor(submitit.SlurmExecutor):
    """Writes requests where there is no Slurm; submitit's own refuses to exist there."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def executor_for(profile: Profile, folder: Path, job_name: str, slurm: type = submitit.SlurmExecutor) -> Any:
    """submitit's executor of the profile; a job's files go to `folder/<job id>/`."""
    executor = (submitit.LocalExecutor if profile.executor == "local" else slurm)(folder / "%j")
    executor.update_parameters(**profile.submitit_parameters(job_name))
    return executor


def batch_script(profile: Profile, folder: Path, job_name: str, jobs: int) -> str:
    """Exactly what sbatch is given for `jobs` jobs (more than one: an array)."""
    executor = executor_for(profile, folder, job_name, PreviewExecutor)
    if jobs > 1:
        executor.parameters["map_count"] = jobs
    return str(executor._make_submission_file_text(executor._submitit_command_str, "preview"))


def batch_scripts(profile: Profile, folder: Path, requests: Sequence[JobRequest]) -> list[str]:
    """One script a request, or one for all where the profile makes an array."""
    if not requests:
        return []
    if _is_array(profile, requests):
        return [batch_script(profile, folder, _array_name(requests), len(requests))]
    return [batch_script(profile, folder, request.name, 1) for request in requests]


@queue.outside_of_jobs()
def enqueue(
    profile: Profile, folder: Path, requests: Sequence[JobRequest], queued: Callable[[JobRequest, str], None]
) -> None:
    """Queue all requests, calling `queued(request, job_id)` as soon as each has an id.

    Raises:
        queue.QueueError: the cluster refused one; those before it are queued and were reported.
    """
    try:
        if _is_array(profile, requests):
            executor = executor_for(profile, folder, _array_name(requests))
            jobs = executor.submit_array([request.work for request in requests])
            for request, job in zip(requests, jobs, strict=True):
                queued(request, job.job_id)
            return
        with _deaf_to_ctrl_c() if profile.executor == "local" else contextlib.nullcontext():
            for request in requests:
                job = executor_for(profile, folder, request.name).submit(request.work)
                queued(request, job.job_id)
    except submitit.core.utils.FailedJobError as error:  # what sbatch said, in submitit's wrapping
        raise queue.QueueError(str(error).strip()) from None


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started in here ignores SIGINT: a terminal sends it to all, when a person only stops watching."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_array(profile: Profile, requests: Sequence[JobRequest]) -> bool:
    return profile.executor == "slurm" and profile.array_parallelism is not None and len(requests) > 1


def _array_name(requests: Sequence[JobRequest]) -> str:
    return f"{requests[0].name.split('-')[0]}-array"
