"""What is asked of Slurm, and that asking twice, or wrongly, does no harm. No training here."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from ctpo.records.progress import read_progress
from experiments import prepare, resolvers

from .conftest import PROJECT, Sweep, accounted, slurm, state, wait_until

HELD = "+slurm.sbatch.hold=true"


def failed(job: str) -> bool:
    """Whether Slurm's accounting calls it that."""
    return accounted(job).startswith("FAILED")


def a_model_of_long_context(folder: Path) -> list[str]:
    """Overrides for the paper's 4B request with a model folder that is here: the tiny one, declaring a long context."""
    with initialize_config_dir(str(PROJECT / "experiments" / "configs"), version_base="1.3"):
        resolvers.register()
        made = prepare.prepare_model(compose("run"))
    shutil.copytree(made, folder / "model")
    settings = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 40960}))
    return ["model=qwen3_4b", "dataset=arithmetic", f"model_spec.path={folder / 'model'}", "model_spec.hub_id=null"]


def patience(seconds: float) -> float:
    """So long on a machine that does nothing else; more where others compute as well."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.timeout(300)
def test_the_papers_grid_is_accepted_and_each_job_sees_eight_gpus(
    new_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = new_sweep(
        "sweeps=main_results", "slurm=h100_node", "run.seed=0", "run.sweep=s", *a_model_of_long_context(tmp_path)
    )
    submitted = sweep.submit()
    assert submitted.returncode == 0, submitted.stderr
    assert "3 submitted" in submitted.stdout
    jobs = {method: sweep.job(method, "qwen3_4b") for method in ("grpo", "gspo", "ctpo")}
    for job in jobs.values():
        facts = slurm("scontrol", "show", "job", job)
        for fact in ("NumNodes=1", "TimeLimit=1-00:00:00", "Requeue=1", "gres:gpu:8", "OverSubscribe=NO"):
            assert fact in facts, facts
    wait_until(lambda: not any(map(state, jobs.values())), 200, lambda: slurm("squeue"))
    for method, job in jobs.items():
        assert "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7\n" in sweep.output(job)
        # The GPUs are declared, not real: the job finds that out, says so where a watcher looks, and does not return.
        phase = read_progress(sweep.run(method, "qwen3_4b")).phase
        assert phase.startswith("refused: trainer.n_gpus_per_node=8: this machine has 0 NVIDIA GPUs")
        wait_until(functools.partial(failed, job), 60, functools.partial(accounted, job))
        record = accounted(job, "State,ElapsedRaw")
        assert int(record.split("|")[1]) <= patience(30), f"{job}: failed, but only after {record} s"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("slurm.gpus_per_node=9", "Requested node configuration is not available"),
        ("slurm.partition=nowhere", "invalid partition specified: nowhere"),
    ],
)
def test_what_slurm_refuses_is_not_half_submitted(
    new_sweep: Callable[..., Sweep], tmp_path: Path, override: str, said: str
) -> None:
    sweep = new_sweep("slurm=h100_node", "method=ctpo,grpo", override, *a_model_of_long_context(tmp_path))
    refused = sweep.submit()
    assert refused.returncode == 2
    assert said in refused.stderr
    assert f"#SBATCH --{override.split('.')[1].replace('_', '-')}" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(sweep.root.glob("s/*/*/*/submission.json"))
    assert slurm("squeue", "-h", "-n", "s-qwen3_4b-ctpo-seed0,s-qwen3_4b-grpo-seed0") == ""


@pytest.mark.timeout(600)
def test_a_job_is_submitted_once_however_often_and_from_wherever(new_sweep: Callable[..., Sweep]) -> None:
    sweep = new_sweep("slurm=cpu_local", "method=gspo,ctpo_fixed", HELD)
    shown = sweep.submit("--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "#SBATCH --hold" in shown.stdout
    assert "sbatch --test-only takes 2 of 2 requests: sbatch: Job" in shown.stdout
    assert {path.name for path in (sweep.root / "s" / ".dry_run").iterdir()} == {
        f"s-tiny-{method}-seed0.{kind}" for method in ("gspo", "ctpo_fixed") for kind in ("sh", "yaml")
    }
    assert not list(sweep.root.glob("s/*/*/*/submission.json"))

    both = [
        subprocess.Popen(sweep.command(), cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(text.strip().splitlines()[-1].split(",")[0] for text in said) == ["0 submitted", "2 submitted"]
    jobs = {method: sweep.job(method) for method in ("gspo", "ctpo_fixed")}
    queued = slurm("squeue", "-h", "-n", "s-tiny-gspo-seed0,s-tiny-ctpo_fixed-seed0", "-o", "%i").split()
    assert sorted(queued) == sorted(jobs.values())

    changed = sweep.submit("actor_rollout_ref.actor.optim.lr=1e-5")
    assert changed.returncode == 2
    assert f"scancel {jobs['gspo']}" in changed.stderr
    slurm("scancel", jobs["ctpo_fixed"])
    wait_until(lambda: not state(jobs["ctpo_fixed"]), 30, lambda: slurm("squeue"))
    again = sweep.submit()
    assert "1 submitted, 1 left as they are" in again.stdout
    assert sweep.job("gspo") == jobs["gspo"]
    assert sweep.job("ctpo_fixed") != jobs["ctpo_fixed"]


@pytest.mark.timeout(300)
def test_an_array_holds_back_what_is_beyond_its_limit(new_sweep: Callable[..., Sweep]) -> None:
    sweep = new_sweep("slurm=cpu_local", "slurm.array_parallelism=2", "run.seed=0,1,2,3", HELD)
    submitted = sweep.submit()
    assert submitted.returncode == 0, submitted.stderr
    job = sweep.job("ctpo")
    assert job.endswith("_0")
    assert "ArrayTaskThrottle=2" in slurm("scontrol", "show", "job", job.split("_")[0])
    assert len(slurm("squeue", "-h", "-r", "-j", job.split("_")[0], "-o", "%i").splitlines()) == 4
    assert "0 submitted, 4 left as they are" in sweep.submit().stdout
    slurm("scancel", job.split("_")[0])


@pytest.mark.timeout(300)
def test_a_run_without_its_data_fails_soon_and_says_why(new_sweep: Callable[..., Sweep], tmp_path: Path) -> None:
    data = tmp_path / "such.jsonl"
    data.write_text('{"problem": "What is 2 + 3?", "answer": 5}\n' * 16)
    sweep = new_sweep("slurm=cpu_local", "dataset=files", f"dataset_spec.train={data}", f"dataset_spec.test={data}")
    submitted = sweep.submit(HELD)
    assert submitted.returncode == 0, submitted.stderr
    job = sweep.job("ctpo")
    data.unlink()  # it was there when the run was submitted
    slurm("scontrol", "release", job)
    wait_until(lambda: state(job) != "PENDING", 60, lambda: slurm("squeue"))
    started = time.monotonic()
    wait_until(lambda: not state(job), 300, lambda: sweep.output(job))
    took = time.monotonic() - started
    phase = read_progress(sweep.run("ctpo")).phase
    assert phase.startswith("refused: ")
    assert str(data) in phase
    assert took < patience(30)
    data.write_text('{"problem": "What is 2 + 3?", "answer": 5}\n' * 16)
    assert "1 submitted" in sweep.submit(HELD).stdout, "a failed run is tried again when a person asks"
