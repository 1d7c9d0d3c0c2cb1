"""What a submission does with each run, from its directory and its newest job alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ctpo.records import ConfigMismatch, RecordError, RunDirectory, Submission, config_hash, read_submission
from ctpo.records.submission import write_submission
from experiments import resolvers
from experiments.launch import resolved
from experiments.submission.submit import PlannedRun, SubmissionRefused, _checked, _decided, requested

CONFIGS = Path(__file__).resolve().parents[4] / "experiments" / "configs"


def composed(root: Path, *overrides: str) -> DictConfig:
    resolvers.register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("run", overrides=["slurm=cpu_local", f"run.root={root}", *overrides])


def planned(root: Path, *overrides: str) -> PlannedRun:
    config = composed(root, *overrides)
    return PlannedRun(config, Path(config.run.dir), requested(config))


def trained(run: PlannedRun, state: str) -> None:
    """The records of a run that was prepared, opened and ended."""
    config = run.config.copy()
    OmegaConf.update(config, "actor_rollout_ref.model.path", "/cache/tiny-abc")
    OmegaConf.update(config, "data.train_files", ["/cache/train.parquet"])
    OmegaConf.update(config, "data.val_files", ["/cache/test.parquet"])
    records = RunDirectory(run.directory)
    records.open_for_training(resolved(config), seeds={"run": 0})
    records.finish(state)  # type: ignore[arg-type]


def queued(run: PlannedRun, job_id: str = "7") -> Submission:
    write_submission(run.directory, Submission(job_id, "cpu_local", "2026-01-01T00:00:00", config_hash(run.wanted)))
    submission = read_submission(run.directory)
    assert submission is not None
    return submission


def test_a_new_run_is_submitted_and_a_waiting_one_left_alone(tmp_path: Path) -> None:
    run = planned(tmp_path)
    assert (_decided(run, None, {}).action, _decided(run, None, {}).why) == ("submit", "new")
    left = _decided(run, queued(run), {"7": "PENDING"})
    assert (left.action, left.why, left.job_id) == ("leave", "pending", "7")
    # Its job ended without a word: a failed node, scancel. It is submitted again.
    assert _decided(run, queued(run), {}).action == "submit"


@pytest.mark.parametrize(("state", "action"), [("finished", "skip"), ("failed", "submit"), ("interrupted", "submit")])
def test_what_was_recorded_decides(tmp_path: Path, state: str, action: str) -> None:
    run = planned(tmp_path)
    trained(run, state)
    assert _decided(run, None, {}).action == action
    # What may differ between two starts of a run makes no other run of it.
    again = planned(tmp_path, "slurm.timeout_min=120", "trainer.save_freq=3", "wait=true")
    assert _decided(again, None, {}).action == action


def test_another_configuration_is_refused_for_records_and_for_a_queued_job(tmp_path: Path) -> None:
    run = planned(tmp_path)
    other = planned(tmp_path, "actor_rollout_ref.actor.optim.lr=1e-5")
    with pytest.raises(RecordError, match="job 7 of other settings is PENDING"):
        _decided(other, queued(run), {"7": "PENDING"})
    trained(run, "failed")
    with pytest.raises(ConfigMismatch, match=r"optim\.lr"):
        _decided(other, None, {})


def test_a_run_that_trains_here_is_left_alone(tmp_path: Path) -> None:
    run = planned(tmp_path)
    trained(run, "failed")
    holder = RunDirectory(run.directory)
    holder._acquire()
    assert _decided(run, None, {}).why == "training, not as a job"
    holder._release()
    assert _decided(run, None, {}).action == "submit"


def test_runs_that_would_share_a_directory_are_refused_with_the_way_out(tmp_path: Path) -> None:
    configs = [composed(tmp_path, f"actor_rollout_ref.actor.optim.lr={lr}", "dry_run=true") for lr in ("1e-4", "2e-4")]
    with pytest.raises(
        SubmissionRefused, match=r"2 runs of this sweep would share it; tell them apart by run\.variant"
    ):
        _checked(configs)
    named = [composed(tmp_path, f"actor_rollout_ref.actor.optim.lr={lr}", f"run.variant=lr{lr}", "dry_run=true")
             for lr in ("1e-4", "2e-4")]  # fmt: skip
    assert _checked(named).profile == "cpu_local"
