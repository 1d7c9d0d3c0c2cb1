"""The main job, for real: verl, Ray, vLLM, FSDP and the sandbox on a tiny Qwen3."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from ctpo.records import RunDirectory, find_runs
from ctpo.records.position_archive import read_position_stats
from ctpo.records.position_stats import PositionSums

from .conftest import Run

START_S, STEP_S = 240, 120
#: Metrics that are times, or follow from them, or say how busy the machine was.
MEASURED = re.compile(r"time$|timing_|(actor/)?perf/")


def rows(run: Run) -> list[dict]:
    found, problems = RunDirectory(run.directory).rows()
    assert problems == []
    return found


def content(run: Run) -> dict[str, Any]:
    """Every recorded field that is no time and no measure of the machine's load: rows by step, bytes by file."""
    found: dict[str, Any] = {
        f"metrics {row['step']}": {name: value for name, value in row.items() if not MEASURED.match(name)}
        for row in rows(run)
    }
    for file in sorted(run.directory.glob("position_stats/*.npz")):
        found[file.name] = file.read_bytes()
    for file in sorted(run.directory.glob("samples/*/*.parquet")):
        found[f"samples {file.name}"] = pd.read_parquet(file).drop(columns="wall_s").to_dict("list")
    return found


@pytest.mark.timeout(1800)
def test_a_killed_run_resumes_and_its_records_are_those_of_an_undisturbed_one(new_run: Callable[..., Run]) -> None:
    arguments = ("trainer.total_training_steps=4", "trainer.save_freq=2", "trainer.test_freq=2")
    run, undisturbed = new_run(*arguments), new_run(*arguments, name="undisturbed")
    run.start()
    run.wait_until(lambda: (run.directory / "position_stats" / "step_3.npz").exists(), START_S + 3 * STEP_S)
    run.kill()
    run.wait_for_no_process(60)
    assert [row["step"] for row in rows(run)] in ([0, 1, 2], [0, 1, 2, 3])

    undisturbed.start()  # both at once: requests arrive in yet another order
    run.start()
    assert run.wait(START_S + 3 * STEP_S) == 0, run.tail()
    run.wait_for_no_process(60)
    assert undisturbed.wait(START_S + 4 * STEP_S) == 0, undisturbed.tail()

    assert content(run) == content(undisturbed)
    manifest = RunDirectory(run.directory).manifest()
    assert manifest["state"] == "finished"
    assert [restart["step"] for restart in manifest["restarts"]] == [2]
    assert [row["step"] for row in rows(run)] == [0, 1, 2, 3, 4]
    for row in rows(run)[1:]:
        # Float32's own rounding: each side is within 6e-6 of float64, the worst of 13,000 tokens.
        assert row["training/rollout_probs_diff_max"] < 5e-5
        assert row["training/rollout_probs_diff_mean"] < 5e-7
    assert_samples_complete(run)
    assert_position_stats_complete(run)
    assert_a_finished_run_is_left_alone(run)


def assert_samples_complete(run: Run) -> None:
    """64 problems x 4 samples at steps 0, 2 and 4; the model uses the tool and is neither perfect nor hopeless."""
    (record,) = find_runs(run.directory.parents[3], "e2e").runs
    for step in (0, 2, 4):
        samples = record.samples("arithmetic", step)
        assert samples is not None, record.problems
        assert len(samples) == 256
        assert not samples.duplicated(["problem_id", "sample_index"]).any()
        assert samples["problem_id"].nunique() == 64
        assert samples["tool_calls"].mean() > 0.3
        assert 0.1 < samples["score"].mean() < 0.9


def assert_position_stats_complete(run: Run) -> None:
    """Every model token of every response is counted once in each view of the statistics."""
    for step, row in enumerate(rows(run)):
        if step == 0:
            continue
        arrays, meta = read_position_stats(run.directory / "position_stats" / f"step_{step}.npz")
        stats = PositionSums.from_arrays(arrays)
        assert meta["method"] == "ctpo"
        tokens = round(row["model_tokens/mean"] * 128)
        counted = stats.updates.count.sum().item() + stats.overflow.sum().item()
        assert counted == tokens
        later = stats.updates.count[1:].sum().item()
        assert stats.first.count.sum().item() == stats.updates.count[0].sum().item() > 0
        assert stats.positions.count.sum().item() == later == stats.folds.count.sum().item()
        # 7 of 8 updates, 16 responses in each, and every response has a first token.
        assert stats.positions.count[0].item() == 112
        # No weight has changed before the first update; the others move away from it.
        assert not stats.updates.sums[:, 0].any()
        assert stats.positions.std[50].item() > 1e-4
        assert (stats.folds.count.sum(-1) > 0).sum() > 4


def assert_a_finished_run_is_left_alone(run: Run) -> None:
    """The same request again changes nothing; another configuration is refused before anything starts."""
    before = (run.directory / "metrics.jsonl").read_bytes()
    run.start()
    assert run.wait(60) == 0
    assert "already finished" in run.output.read_text()
    run.arguments.append("actor_rollout_ref.actor.optim.lr=1e-5")
    run.start()
    assert run.wait(60) == 2
    refusal = run.output.read_text()
    assert "holds a run of another config" in refusal
    assert "actor_rollout_ref.actor.optim.lr" in refusal
    assert "Traceback" not in refusal
    assert (run.directory / "metrics.jsonl").read_bytes() == before


@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["VLLM::EngineCore", "ray::WorkerDict"])
def test_a_crashed_worker_ends_the_run_with_an_error(new_run: Callable[..., Run], victim: str) -> None:
    run = new_run("trainer.total_training_steps=50", "trainer.val_before_train=false", "trainer.save_freq=-1")
    run.start()
    run.wait_until(lambda: (run.directory / "position_stats" / "step_1.npz").exists(), START_S + STEP_S)
    killed = [process for process in run.processes() if process.cmdline()[:1] and victim in process.cmdline()[0]]
    assert killed, [process.cmdline()[:1] for process in run.processes()]
    killed[0].kill()
    assert run.wait(120) != 0
    run.wait_for_no_process(60)
    manifest = RunDirectory(run.directory).manifest()
    assert manifest["state"] == "failed"
    assert manifest["error"]
