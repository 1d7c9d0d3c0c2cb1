"""The socket on which a trainer sends weights to the vLLM of its own run.

verl's name for it holds Ray's job id, which is ``01000000`` in every private Ray cluster: two runs on one machine would
exchange weights or hang. Here both ends add a hash of the run's directory. Imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import os

from ctpo.training.platforms.environment import RUN_ENV

#: Set by verl's server for the processes of vLLM, which read Ray's job id from it.
JOB_ENV = "VERL_RAY_JOB_ID"


def of_this_run(job: str) -> str:
    """Ray's job id with a hash of the run's directory; given again, the same."""
    run = os.environ.get(RUN_ENV)
    if not run:
        return job
    own = hashlib.blake2b(run.encode(), digest_size=6).hexdigest()
    return job if job.endswith(own) else f"{job}-{own}"


def name_receiver() -> None:
    """In a process of vLLM, before it opens the socket."""
    if job := os.environ.get(JOB_ENV):
        os.environ[JOB_ENV] = of_this_run(job)


def sender(handle: str, job: str) -> str:
    """The trainer's end: verl's `handle` with the job's name in this run.

    Raises:
        RuntimeError: verl no longer names its socket by Ray's job id, so that both ends would miss each other.
    """
    if f"-{job}-" not in handle:
        raise RuntimeError(f"ctpo: verl's weight socket {handle} does not hold Ray's job id {job}")
    return handle.replace(f"-{job}-", f"-{of_this_run(job)}-")
