"""Real verl training on a real Slurm, through everything that a shared cluster does to a long job.

One sweep of two runs: the first is left in peace and is the reference, the second is disturbed in five ways. What is
promised of a resumed run, and compared here: the same steps with the same prompts in the same order, one row of each,
the same number of responses and samples. Their methods differ, so their losses do: tests/e2e compares the bytes of a
killed run with those of an undisturbed run of one configuration.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctpo.records import RunDirectory, RunRecord, find_runs
from ctpo.records.position_archive import read_position_stats
from ctpo.records.position_stats import PositionSums

from .conftest import (
    Sweep,
    kill,
    manifest,
    processes,
    restarts,
    slurm,
    state,
    step_daemons,
    training_process,
    wait_until,
)

STEPS = 7
#: Start-up and a step, on a machine with other work to do.
PATIENCE_S = 900


@dataclasses.dataclass
class Disturbed:
    """The run that is disturbed, and its job."""

    sweep: Sweep
    run: Path
    job: str
    attempts: int = 0

    def wait_for(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, PATIENCE_S, lambda: self.sweep.output(self.job) + slurm("squeue"))

    def trained(self) -> int:
        """Steps of which statistics are on disk."""
        return sum(1 for _ in self.run.glob("position_stats/step_*.npz"))

    def wait_for_a_step(self) -> None:
        """It has loaded its checkpoint in the newest attempt, and trained one more step since."""
        self.wait_for(self._has_begun)
        before = self.trained()
        self.wait_for(lambda: self.trained() > before)

    def _has_begun(self) -> bool:
        if RunDirectory(self.run).state != "running":
            return False
        known = manifest(self.run)["restarts"]
        return len(known) == self.attempts and all(restart["step"] is not None for restart in known)

    def wait_for_restart(self) -> None:
        self.attempts += 1
        self.wait_for(lambda: restarts(self.job) == self.attempts and state(self.job) == "RUNNING")


def user_signal(disturbed: Disturbed) -> None:
    slurm("scancel", "--signal=USR2", disturbed.job)


def kill_of_the_trainer(disturbed: Disturbed) -> None:
    kill(training_process(disturbed.job))


def node_failure(disturbed: Disturbed) -> None:
    node = slurm("squeue", "-h", "-j", disturbed.job, "-o", "%N")
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    disturbed.wait_for(lambda: state(disturbed.job) == "PENDING")
    # Slurm drains a node, and holds the job, if it starts there again while its former attempt is still dying.
    disturbed.wait_for(lambda: not processes(disturbed.job) and not step_daemons(disturbed.job))
    slurm("scontrol", "update", f"nodename={node}", "state=resume")


def time_limit(disturbed: Disturbed) -> None:
    *hours, minutes, _ = map(int, slurm("squeue", "-h", "-j", disturbed.job, "-o", "%M").split(":"))
    limit = 60 * sum(hours) + minutes + 3
    # Slurm looks at time limits every 30 s. The trainer is held still meanwhile, or it would be done before.
    (trainer,) = processes(disturbed.job, "ray::TaskRunnerV1")
    trainer.suspend()
    slurm("scontrol", "update", f"jobid={disturbed.job}", f"timelimit={limit}")
    asked = disturbed.sweep.output(disturbed.job).count("asked to save")
    disturbed.wait_for(lambda: disturbed.sweep.output(disturbed.job).count("asked to save") > asked)
    trainer.resume()
    disturbed.wait_for(lambda: state(disturbed.job) == "PENDING")
    slurm("scontrol", "update", f"jobid={disturbed.job}", "timelimit=60")


def pre_emption(disturbed: Disturbed) -> None:
    slurm("sbatch", "--partition=main", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")


#: Each with what the manifest then says of how that attempt ended.
DISRUPTIONS = {
    user_signal: "saved",
    kill_of_the_trainer: "killed by signal 9",
    node_failure: "",
    time_limit: "saved",
    pre_emption: "saved",
}


@pytest.mark.timeout(3600)
def test_a_run_survives_what_a_cluster_does_to_it(new_sweep: Callable[..., Sweep]) -> None:
    sweep = new_sweep(
        "slurm=cpu_local", "slurm.partition=spare", "method=grpo,ctpo", f"trainer.total_training_steps={STEPS}",
        f"trainer.save_freq={STEPS}", f"trainer.test_freq={STEPS}", "trainer.val_before_train=false",
    )  # fmt: skip
    submitted = sweep.submit()
    assert submitted.returncode == 0, submitted.stderr
    reference, run = sweep.run("grpo"), sweep.run("ctpo")
    disturbed = Disturbed(sweep, run, sweep.job("ctpo"))
    wait_until(
        lambda: not state(sweep.job("grpo")), 2 * PATIENCE_S, lambda: sweep.output(sweep.job("grpo")) + slurm("squeue")
    )
    for disrupt in DISRUPTIONS:
        disturbed.wait_for_a_step()
        print(f"{time.strftime('%H:%M:%S')} {disturbed.trained()} steps trained; now {disrupt.__name__}", flush=True)
        disrupt(disturbed)
        disturbed.wait_for_restart()
    disturbed.wait_for(lambda: not state(disturbed.job))

    ends = [restart["previous_error"] or "" for restart in manifest(run)["restarts"]]
    for end, said in zip(ends, DISRUPTIONS.values(), strict=True):
        assert said in end, ends
    record = manifest(run)
    assert record["state"] == "finished", record["error"]
    by_name = {found.method: found for found in find_runs(sweep.root, "s").runs}
    assert by_name["ctpo"].problems == []
    assert_same_work(by_name["ctpo"], by_name["grpo"])
    assert manifest(reference)["restarts"] == []
    (wandb,) = {path.name.split("-", 3)[3] for path in (run / "wandb").glob("offline-run-*")}
    assert wandb.startswith("s-tiny-ctpo-seed0-"), "one wandb run for a run, however often it restarts"


def assert_same_work(run: RunRecord, reference: RunRecord) -> None:
    """Steps, prompts in their order, responses and samples; no row twice."""
    rows, problems = RunDirectory(run.path).rows()
    assert problems == []
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["step"] for row in reference.metrics] == list(range(1, STEPS + 1))
    for row in rows:
        # Trainer and rollout have the same weights after a resume as ever: float32's rounding apart.
        assert row["training/rollout_probs_diff_max"] < 5e-5
    assert run.position_stats_steps == reference.position_stats_steps == list(range(1, STEPS + 1))
    for step in run.position_stats_steps:
        assert (prompts(run, step) == prompts(reference, step)).all(), f"step {step} had other prompts"
    mine, theirs = run.samples("arithmetic", STEPS), reference.samples("arithmetic", STEPS)
    assert mine is not None
    assert theirs is not None
    keys = ["problem_id", "sample_index"]
    assert sorted(map(tuple, mine[keys].values)) == sorted(map(tuple, theirs[keys].values))


def prompts(run: RunRecord, step: int) -> np.ndarray:
    """Which folds of prompts a step's batch had: 16 of them in 32 folds tell one batch from another."""
    arrays, _ = read_position_stats(run.path / "position_stats" / f"step_{step}.npz")
    stats = PositionSums.from_arrays(arrays)
    # 16 prompts x 8 responses x 7 of 8 updates: every one of them has a first token.
    assert stats.positions.count[0].item() == 112
    return stats.folds.count.sum(-1) > 0


@pytest.mark.timeout(1200)
def test_two_tasks_of_a_job_train_as_one_ray_cluster(new_sweep: Callable[..., Sweep]) -> None:
    sweep = new_sweep(
        "slurm=cpu_local", "slurm.nodes=1", "slurm.tasks_per_node=2", "slurm.cpus_per_task=1", "trainer.nnodes=2",
        "slurm.mem_gb=16", "trainer.total_training_steps=1", "trainer.test_freq=-1", "trainer.save_freq=-1",
        "trainer.val_before_train=false", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
    )  # fmt: skip
    submitted = sweep.submit()
    assert submitted.returncode == 0, submitted.stderr
    job = sweep.job("ctpo")
    wait_until(lambda: not state(job), PATIENCE_S, lambda: sweep.output(job))
    assert manifest(sweep.run("ctpo"))["state"] == "finished", sweep.output(job)
    (row,) = RunDirectory(sweep.run("ctpo")).rows()[0]
    assert row["training/rollout_probs_diff_max"] < 5e-5
    arrays, _ = read_position_stats(sweep.run("ctpo") / "position_stats" / "step_1.npz")
    assert PositionSums.from_arrays(arrays).positions.count[0].item() == 112
    assert "2 tasks are one Ray cluster" in sweep.output(job)
