"""The run directory: nothing lost, nothing doubled, nothing half read."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctpo.positions import PositionStats
from ctpo.records import (
    SAMPLE_FIELDS,
    ConfigMismatch,
    RecordError,
    RunDirectory,
    RunDirectoryBusy,
    RunRecord,
    find_runs,
)
from ctpo.records.progress import read_progress, set_phase

SEEDS = {"run": 0}


def config(**changes: Any) -> dict[str, Any]:
    return {
        "run": {"sweep": "demo", "model": "tiny", "method": "ctpo", "seed": 0, "dir": "here"},
        "trainer": {"total_training_steps": 3, "resume_mode": "auto"},
        "actor": {"optim": {"lr": 1e-3}, "betas": [0.9, 0.999]},
        **changes,
    }


def sample(problem: str, index: int, **changes: Any) -> dict[str, Any]:
    row = {
        "problem_id": problem,
        "sample_index": index,
        "score": 1.0,
        "answer": "4",
        "model_tokens": 9,
        "turns": 2,
        "tool_calls": 1,
        "tool_failures": 0,
        "finish_reason": "answer",
        "wall_s": 0.5,
    }
    return {**row, **changes}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "demo" / "tiny" / "ctpo" / "seed0")


def only_run(run: RunDirectory) -> RunRecord:
    (record,) = find_runs(run.path.parents[3], "demo").runs
    return record


def statistics(tokens: int = 3) -> PositionStats:
    """Of one response, in the second update of a step."""
    stats = PositionStats.zeros(8, bin_width=8, folds=2, max_updates=2)
    ratios = torch.full((1, 8), 0.01).cumsum(-1)
    mask = torch.arange(8)[None] < tokens
    stats.update(ratios, torch.ones(1, 8), mask, folds=torch.tensor([1]))
    return stats


def train(run: RunDirectory, *steps: int) -> None:
    for step in steps:
        run.append_metrics(step, {"loss": step / 2})
        run.write_position_stats(step, statistics().to_arrays(), {"method": "ctpo"})
        run.write_samples("toy", step, [sample("a", 0), sample("a", 1, score=0.0)])


def test_importing_the_writer_loads_neither_torch_nor_pandas_nor_pyarrow() -> None:
    code = "import sys, ctpo.records; print({'torch', 'pandas', 'pyarrow', 'yaml'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_whole_run_reads_back_as_it_was_written(run: RunDirectory) -> None:
    assert run.state is None
    run.open_for_training(config(), seeds=SEEDS)
    assert run.state == "created"
    run.begin_training(0)
    assert run.state == "running"
    train(run, 1, 2, 3)
    run.finish("finished")

    record = only_run(run)
    assert (record.name, record.state, record.total_steps, record.last_step) == (
        "demo/tiny/ctpo/seed0",
        "finished",
        3,
        3,
    )
    assert [row["step"] for row in record.metrics] == [1, 2, 3]
    steps, values = record.series("loss")
    assert (steps.tolist(), values.tolist()) == ([1, 2, 3], [0.5, 1.0, 1.5])
    assert record.position_stats_steps == [1, 2, 3]
    arrays, meta = record.position_stats(2) or ({}, {})
    assert arrays["position_counts"][0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert meta == {"step": 2, "method": "ctpo"}
    assert record.benchmarks == ["toy"]
    frame = record.samples("toy", 3)
    assert frame is not None
    assert list(frame.columns) == list(SAMPLE_FIELDS)
    assert frame["score"].tolist() == [1.0, 0.0]
    assert record.problems == []


def test_the_manifest_says_what_the_run_was_made_of(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds={"run": 0, "data": 7})
    manifest = run.manifest()
    assert manifest["config"] == config()
    assert manifest["seeds"] == {"run": 0, "data": 7}
    assert {"commit", "dirty"} <= manifest["git"].keys()
    assert manifest["packages"]["numpy"] == np.__version__
    assert manifest["hardware"]["cpus"] >= 1
    assert manifest["restarts"] == []
    if manifest["git"]["dirty"]:
        assert (run.path / manifest["git"]["diff_file"]).stat().st_size > 0


def test_another_config_is_refused_naming_the_first_field_that_differs(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    run.finish("failed", "boom")
    changed = config(actor={"optim": {"lr": 2e-3}, "betas": [0.9, 0.999]})
    with pytest.raises(ConfigMismatch, match=r"actor\.optim\.lr \(recorded 0\.001, now 0\.002\)"):
        RunDirectory(run.path).open_for_training(changed, seeds=SEEDS)
    assert run.manifest()["restarts"] == []


def test_a_field_that_appears_or_vanishes_is_a_difference(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    run.finish("finished")
    with pytest.raises(ConfigMismatch, match=r"algorithm\.kl \(recorded absent, now 0\.1\)"):
        RunDirectory(run.path).open_for_training(config(algorithm={"kl": 0.1}), seeds=SEEDS)


def test_a_run_may_continue_elsewhere_and_resume_otherwise(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    run.finish("failed", "boom")
    moved = config(trainer={"total_training_steps": 3, "resume_mode": "disable"})
    moved["run"] = {**moved["run"], "dir": "elsewhere"}
    again = RunDirectory(run.path)
    again.open_for_training(moved, seeds=SEEDS)
    again.begin_training(0)
    (restart,) = run.manifest()["restarts"]
    assert (restart["previous_state"], restart["previous_error"], restart["step"]) == ("failed", "boom", 0)


def test_a_finished_run_is_left_alone(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    run.finish("finished")
    before = run.manifest_path.read_bytes()
    assert RunDirectory(run.path).open_for_training(config(), seeds=SEEDS) == "finished"
    assert run.manifest_path.read_bytes() == before


def test_a_moved_checkout_is_the_same_run_but_another_model_is_not(run: RunDirectory) -> None:
    run.open_for_training(config(model="/old/cache/models/tiny-1a2b"), seeds=SEEDS)
    run.finish("failed", "boom")
    run.open_for_training(config(model="/new/models/tiny-1a2b"), seeds=SEEDS)
    run.finish("failed", "boom")
    with pytest.raises(ConfigMismatch, match=r"model \(recorded '/old/cache/models/tiny-1a2b'"):
        RunDirectory(run.path).open_for_training(config(model="/new/models/tiny-3c4d"), seeds=SEEDS)


def test_a_watcher_sees_phase_step_and_figures_even_before_the_run_begins(run: RunDirectory) -> None:
    assert (read_progress(run.path).step, read_progress(run.path).phase) == (0, "starting")
    run.open_for_training(config(), seeds=SEEDS)
    run.append_metrics(0, {"val-core/toy/reward/mean@4": 0.25})
    run.append_metrics(1, {"critic/score/mean": 0.5})
    set_phase(run.path, "training")
    progress = read_progress(run.path)
    assert (progress.step, progress.phase) == (1, "training")
    assert progress.headline == {"train": "0.500", "held-out": "0.250"}


def test_the_trainer_can_ask_which_row_survived(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    run.append_metrics(1, {})
    assert RunDirectory(run.path).last_step() == 1


def test_a_directory_in_use_is_refused(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    with pytest.raises(RunDirectoryBusy, match="in use"):
        RunDirectory(run.path).open_for_training(config(), seeds=SEEDS)


def test_resuming_from_a_checkpoint_drops_every_row_beyond_it_and_repeats_none(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    run.begin_training(0)
    train(run, 1, 2, 3)
    run.finish("failed", "killed")

    again = RunDirectory(run.path)
    assert again.open_for_training(config(), seeds=SEEDS) == "failed"
    again.begin_training(2)
    record = only_run(run)
    assert [row["step"] for row in record.metrics] == [1, 2]
    assert record.position_stats_steps == record.sample_steps("toy") == [1, 2]
    train(again, 3)
    again.finish("finished")
    record = only_run(run)
    assert [row["step"] for row in record.metrics] == [1, 2, 3]
    assert record.problems == []
    assert run.manifest()["restarts"][0]["step"] == 2


def test_the_trainer_in_another_process_sees_and_continues_the_same_rows(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    RunDirectory(run.path).append_metrics(1, {"x": 1})
    RunDirectory(run.path).append_metrics(2, {"x": 2})
    with pytest.raises(RecordError, match=r"step 2 is recorded already \(last is 2\)"):
        RunDirectory(run.path).append_metrics(2, {"x": 2})


@pytest.mark.parametrize("torn", [b'{"step": 2, "lo', b'{"step": 2, "loss": 1.0}', b"\0\0\0"])
def test_a_torn_last_line_is_never_read_and_is_repaired_on_the_next_append(run: RunDirectory, torn: bytes) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    run.append_metrics(1, {"loss": 1})
    with run.metrics_path.open("ab") as file:
        file.write(torn)
    assert [row["step"] for row in only_run(run).metrics] == [1]
    RunDirectory(run.path).append_metrics(2, {"loss": 3})
    assert [row["loss"] for row in only_run(run).metrics] == [1, 3]


def test_non_finite_and_numpy_values_survive_as_strict_json(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    run.append_metrics(1, {"a": math.nan, "b": -math.inf, "c": np.float32(0.5), "d": np.array([3]), "e": True})
    assert json.loads(run.metrics_path.read_text())["a"] == "NaN"
    (row,) = only_run(run).metrics
    assert math.isnan(row["a"])
    assert (row["b"], row["c"], row["d"], row["e"]) == (-math.inf, 0.5, 3, True)


def test_a_value_that_cannot_be_recorded_is_named(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    with pytest.raises(RecordError, match=r"metrics\.jsonl\.odd: object cannot be recorded"):
        run.append_metrics(1, {"odd": object()})
    assert only_run(run).metrics == []


def test_malformed_duplicate_and_missing_rows_are_reported(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    run.metrics_path.write_text('{"step": 1, "x": 1}\nnot json\n{"step": 1, "x": 2}\n{"step": 3, "x": 3}\n')
    record = only_run(run)
    assert [(row["step"], row["x"]) for row in record.metrics] == [(1, 2), (3, 3)]
    messages = " | ".join(problem.message for problem in record.problems)
    assert "metrics.jsonl line 2: not JSON" in messages
    assert "1 steps twice" in messages
    assert "lacks 1 steps in between, the first is 2" in messages


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows for step 1"),
        ([sample("a", 0), sample("a", 0)], "problem_id='a' sample_index=0 is given twice"),
        ([{"problem_id": "a"}], "samples row 0: sample_index: Field required"),
        ([sample("a", 0, colour="red")], "colour: Extra inputs are not permitted, not 'red'"),
        ([sample("a", 0, score="good")], "score: Input should be a valid number.*, not 'good'"),
        ([sample("a", 0, score=1.5)], "score: Input should be less than or equal to 1, not 1.5"),
        ([sample("a", 0, score=math.nan)], "score: .*, not nan"),
        ([sample("a", 0), sample("a", 1, turns=-1)], "samples row 1: turns: .*, not -1"),
    ],
)
def test_bad_samples_are_refused_and_leave_no_file(run: RunDirectory, rows: list[Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        run.write_samples("toy", 1, rows)
    assert not list(run.path.glob("samples/toy/*"))


def test_a_benchmark_that_is_no_folder_name_is_refused(run: RunDirectory) -> None:
    with pytest.raises(RecordError, match="benchmark"):
        run.write_samples("../escape", 1, [sample("a", 0)])


def test_a_missing_answer_survives(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    run.write_samples("toy", 1, [sample("a", 0, answer=None), sample("a", 1, answer="NaN")])
    frame = only_run(run).samples("toy", 1)
    assert frame is not None
    assert frame["answer"].isna().tolist() == [True, False]


def test_unreadable_files_are_left_out_and_named(run: RunDirectory) -> None:
    run.open_for_training(config(), seeds=SEEDS)
    train(run, 1)
    for file in [*run.path.glob("position_stats/*"), *run.path.glob("samples/toy/*")]:
        file.write_bytes(file.read_bytes()[:40])
    record = only_run(run)
    assert record.position_stats(1) is None
    assert record.samples("toy", 1) is None
    messages = [problem.message for problem in record.problems if problem.kind == "malformed"]
    assert any("position_stats/step_1.npz: not a position-stats archive" in message for message in messages)
    assert any("samples/toy/step_1.parquet: not a samples file" in message for message in messages)


def test_equal_position_stats_give_equal_bytes(run: RunDirectory) -> None:
    first = run.write_position_stats(1, {"x": np.arange(9.0)}, {"k": 1}).read_bytes()
    assert run.write_position_stats(1, {"x": np.arange(9.0)}, {"k": 1}).read_bytes() == first


def test_finding_runs_names_everything_that_is_not_a_finished_run(tmp_path: Path) -> None:
    def start(method: str, seed: int, state: Any, steps: int) -> None:
        path = tmp_path / "demo" / "tiny" / method / f"seed{seed}"
        own = config(run={"sweep": "demo", "model": "tiny", "method": method, "seed": seed})
        run = RunDirectory(path)
        run.open_for_training(own, seeds=SEEDS)
        run.begin_training(0)
        for step in range(1, steps + 1):
            run.append_metrics(step, {})
        if state:
            run.finish(state, "CUDA out of memory\ntraceback" if state == "failed" else None)

    start("ctpo", 0, "finished", 3)
    start("ctpo", 1, "finished", 2)
    start("grpo", 0, "failed", 1)
    start("gspo", 0, None, 1)
    model = tmp_path / "demo" / "tiny"
    (model / "grpo" / "seed1").mkdir()
    (model / "grpo" / "seed1" / "metrics.jsonl").write_text("")
    # Hydra makes the folder of a request that is then refused: not a run, and nothing to report.
    (model / "grpo" / "seed2").mkdir()
    (model / "grpo" / "notes.txt").write_text("beside the runs")
    (model / "grpo" / "seed3").write_text("a file in place of a folder")

    found = find_runs(tmp_path, "demo")
    assert [run.name for run in found.runs] == [
        "demo/tiny/ctpo/seed0",
        "demo/tiny/ctpo/seed1",
        "demo/tiny/grpo/seed0",
        "demo/tiny/gspo/seed0",
    ]
    assert sorted(map(str, found.problems)) == [
        "malformed: demo/tiny/ctpo/seed1: says finished, but 2 of 3 steps recorded",
        "malformed: demo/tiny/grpo/seed1: manifest.json: cannot be read (No such file or directory); restore it, or "
        "move the run's directory away to start anew",
        "malformed: demo/tiny/grpo/seed3: cannot be read (Not a directory)",
        "unfinished: demo/tiny/grpo/seed0: failed after 1 of 3 steps recorded: CUDA out of memory",
        "unfinished: demo/tiny/gspo/seed0: state is 'running', 1 of 3 steps recorded",
    ]
    assert find_runs(tmp_path, "absent").runs == []
