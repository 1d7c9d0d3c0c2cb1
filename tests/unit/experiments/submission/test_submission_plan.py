"""What a submission does with each run, from its directory and its newest job alone."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ctpo.records import ConfigMismatch, RecordError, RunDirectory, Submission, config_hash, read_submission
from ctpo.records.submission import write_submission
from experiments import resolvers
from experiments.errors import BadRequest
from experiments.launch import request_problems, resolved
from experiments.submission import queue
from experiments.submission.submit import PlannedRun, _checked, _decided, _only_submitter, requested, submit

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize(
    ("field", "values", "fix"),
    [
        (
            "actor_rollout_ref.actor.optim.lr",
            ("1e-4", "2e-4"),
            "tell them apart by run.variant, for example run.variant='lr${actor_rollout_ref.actor.optim.lr}'",
        ),
        ("+slurm.sbatch.exclude", ("a", "b"), "quote a value that has some: '+slurm.sbatch.exclude=\"a,b\"'"),
        ("run.seed", ("0", "0"), "ask for each run once"),
    ],
)
def test_runs_that_would_share_a_directory_are_refused_with_the_way_out(
    tmp_path: Path, field: str, values: tuple[str, str], fix: str
) -> None:
    (problem,) = request_problems([composed(tmp_path, f"{field}={value}") for value in values])
    assert "2 runs of this request would share it; " in problem
    assert problem.endswith(fix)
    named = [composed(tmp_path, f"{field}={value}", f"run.variant=v{i}") for i, value in enumerate(values)]
    assert request_problems(named) == []


def test_a_model_for_the_cpu_is_not_sent_to_a_node_of_gpus(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"slurm=h100_node: asks for 8 GPUs, and model=tiny trains on the CPU; use"):
        _checked([composed(tmp_path, "slurm=h100_node", "dry_run=true")])


def test_preflight_only_submits_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit([composed(tmp_path, "slurm=local", "preflight=only")])
    assert "1 requests are in order; nothing was submitted" in capsys.readouterr().out
    assert list(tmp_path.rglob("submission.json")) == []


def test_a_slurm_without_a_controller_is_called_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "#!/bin/sh\necho 'error: x' >&2\necho 'fatal: Could not establish a configuration source' >&2\nexit 1\n"
    for name in ("sbatch", "squeue", "sinfo"):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert queue.has_slurm()
    assert not queue.answers()
    with pytest.raises(BadRequest) as refused:
        submit([composed(tmp_path / "runs")])
    said = str(refused.value)
    assert "Slurm's controller does not answer (fatal: Could not establish a configuration source)" in said
    assert "make slurm-up" in said
    submit([composed(tmp_path / "runs", "dry_run=true")])
    said = capsys.readouterr().out
    assert "no Slurm answers here" in said
    assert "1 of 1 runs would be submitted" in said
    assert len(said.splitlines()) < 50
    shown = tmp_path / "runs" / "default" / ".dry_run" / "default-tiny-ctpo-seed0"
    assert "#SBATCH --partition=cpu" in shown.with_suffix(".sh").read_text()
    assert OmegaConf.load(shown.with_suffix(".yaml")).method.name == "ctpo"


def test_a_second_submitter_says_that_it_waits_and_goes_on_after_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []

    def second() -> None:
        with _only_submitter(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with _only_submitter(tmp_path):
        thread.start()
        thread.join(0.5)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert f"another submission is under way below {tmp_path}; waiting for it" in capsys.readouterr().err
