"""When a job does not come back: a person ended it, or it died three times from one checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from ctpo.records import RunDirectory

from .conftest import Sweep, accounted, kill, manifest, processes, restarts, slurm, state, training_process, wait_until


@pytest.mark.timeout(900)
def test_a_run_comes_back_after_a_death_but_not_for_ever(new_sweep: Callable[..., Sweep]) -> None:
    sweep = new_sweep("slurm=cpu_local")
    assert sweep.submit().returncode == 0
    run, job = sweep.run("ctpo"), sweep.job("ctpo")

    def begun(job: str, attempt: int) -> bool:
        # The attempt is in the manifest; killed before that, it would have failed to begin.
        if RunDirectory(run).state != "created" or not processes(job, "experiments.submission.training"):
            return False
        return len(manifest(run)["restarts"]) == attempt

    wait_until(lambda: begun(job, 0), 120, lambda: sweep.output(job))
    slurm("scancel", job)
    wait_until(lambda: not state(job), 60, lambda: slurm("squeue"))
    wait_until(lambda: accounted(job).startswith("CANCELLED"), 60, lambda: accounted(job))

    assert "continues" in sweep.submit().stdout
    job = sweep.job("ctpo")
    for death in range(3):
        wait_until(functools.partial(begun, job, 1 + death), 180, lambda: sweep.output(job))
        assert restarts(job) == death
        kill(training_process(job))
    wait_until(lambda: not state(job), 90, lambda: sweep.output(job))
    # Accounting hears of it a moment later than the queue.
    wait_until(lambda: accounted(job).startswith("FAILED"), 60, lambda: accounted(job))
    record = manifest(run)
    assert record["state"] == "failed"
    assert "died 3 times in a row after step 0 without reaching the next checkpoint" in record["error"]
    assert "the training process was killed by signal 9" in record["error"]
