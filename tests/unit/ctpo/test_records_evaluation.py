"""Samples of an evaluation: recorded one by one by any number of jobs, none lost or doubled, never mixed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ctpo.records import RecordError, RunDirectory, RunDirectoryBusy, find_runs
from ctpo.records.evaluation import SampleParts, close_evaluation, open_evaluation, run_of_checkpoint

SETTINGS = {"evaluation": {"k": 3, "temperature": 0.7}, "weights": "abc", "problems": {"digest": "d"}}
PROBLEMS = [f"p{number}" for number in range(4)]
KEYS = [(problem, index) for index in range(3) for problem in PROBLEMS]


def config(**changes: Any) -> dict[str, Any]:
    run = {"sweep": "demo-eval", "model": "tiny", "method": "ctpo", "seed": 0}
    return {"run": run, "evaluation": {"k": 3}, "trainer": {"total_training_steps": 0}, **changes}


def row(problem: str, index: int, **changes: Any) -> dict[str, Any]:
    return {
        "step": 6,
        "problem_id": problem,
        "sample_index": index,
        "score": float((len(problem) + index) % 2),
        "answer": f"{problem}/{index}",
        "model_tokens": 10 + index,
        "turns": 1,
        "tool_calls": 0,
        "tool_failures": 0,
        "finish_reason": "answer",
        "wall_s": 0.5,
        **changes,
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "demo-eval" / "tiny" / "ctpo" / "seed0"
    open_evaluation(path, config(), seeds={"evaluation": 0})
    return path


def claimed(directory: Path, **changes: Any) -> SampleParts:
    parts = SampleParts(directory, "arithmetic", 6)
    parts.claim({**SETTINGS, **changes})
    return parts


def test_the_analysis_reads_a_complete_evaluation_as_it_reads_a_run(directory: Path) -> None:
    parts = claimed(directory)
    parts.open_part(0, 1)
    parts.append([row(*key) for key in KEYS])
    assert parts.merge(KEYS)
    close_evaluation(directory, "finished")
    found = find_runs(directory.parents[3])
    (run,) = found.runs
    assert found.problems == []
    assert (run.name, run.state, run.sample_steps("arithmetic")) == ("demo-eval/tiny/ctpo/seed0", "finished", [6])
    assert run.last_step == 6, "so that its accuracy is that of a final step"
    samples = run.samples("arithmetic", 6)
    assert samples is not None
    assert list(zip(samples["problem_id"], samples["sample_index"], strict=True)) == KEYS
    assert parts.scores() == {p: [row(p, i)["score"] for i in range(3)] for p in PROBLEMS}
    assert not list(directory.glob("samples/*/*.parts"))


def test_samples_count_only_when_all_are_there_whoever_drew_them(directory: Path) -> None:
    first, second = claimed(directory), claimed(directory)
    first.open_part(0, 2)
    second.open_part(1, 2)
    first.append([row(*key) for key in KEYS[::2]])
    assert not first.merge(KEYS)
    close_evaluation(directory, "finished")
    assert RunDirectory(directory).manifest()["state"] == "running", "the other part is missing"
    assert find_runs(directory.parents[3]).runs[0].sample_steps("arithmetic") == []
    second.append([row(*key) for key in KEYS[1::2]])
    assert second.rows().keys() == set(KEYS)
    assert second.merge(KEYS)
    assert first.merge(KEYS), "once more changes nothing"
    assert len(pd.read_parquet(first.path)) == len(KEYS)


def test_one_part_has_one_process(directory: Path) -> None:
    parts = claimed(directory)
    parts.open_part(0, 2)
    with pytest.raises(RunDirectoryBusy, match=r"evaluation.shard=0/2: another process"):
        claimed(directory).open_part(0, 2)
    parts.close()
    claimed(directory).open_part(0, 2)


def test_a_torn_row_is_drawn_again_and_a_sample_drawn_twice_counts_once(directory: Path) -> None:
    parts = claimed(directory)
    parts.open_part(0, 1)
    parts.append([row("p0", 0), row("p1", 0)])
    parts.close()
    (file,) = directory.glob("samples/arithmetic/step_6.parts/*.jsonl")
    file.write_bytes(file.read_bytes()[:-7])
    parts = claimed(directory)
    assert parts.rows().keys() == {("p0", 0)}
    parts.open_part(0, 1)
    parts.append([row("p1", 0, answer="again")])
    other = claimed(directory)
    other.open_part(1, 2)
    other.append([row("p1", 0, answer="of another job")])
    assert {key: found["answer"] for key, found in parts.rows().items()} == {("p0", 0): "p0/0", ("p1", 0): "again"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"evaluation": {"k": 4, "temperature": 0.7}}, "evaluation.k (recorded 3, now 4)"),
        ({"evaluation": {"k": 3, "temperature": 1.0}}, "evaluation.temperature (recorded 0.7, now 1.0)"),
        ({"weights": "other"}, "weights (recorded 'abc', now 'other')"),
    ],
)
def test_samples_of_other_settings_are_refused_also_when_complete(
    directory: Path, changes: dict[str, Any], named: str
) -> None:
    parts = claimed(directory)
    with pytest.raises(RecordError) as refused:
        claimed(directory, **changes)
    assert named in str(refused.value)
    assert "run.sweep" in str(refused.value)
    parts.open_part(0, 1)
    parts.append([row(*key) for key in KEYS])
    parts.merge(KEYS)
    with pytest.raises(RecordError, match="other settings"):
        claimed(directory, **changes)


def test_a_training_run_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "demo" / "tiny" / "ctpo" / "seed0"
    training = {name: value for name, value in config().items() if name != "evaluation"}
    run = RunDirectory(path)
    run.open_for_training(training, seeds={"run": 0})
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(RecordError, match=r"holds a training run.*another run\.sweep"):
        open_evaluation(path, config(), seeds={"evaluation": 0})
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    checkpoint = path / "checkpoints" / "global_step_6" / "actor"
    checkpoint.mkdir(parents=True)
    found = run_of_checkpoint(checkpoint)
    assert found is not None
    assert (found[0], found[1]["run"]["sweep"]) == (path, "demo-eval")
    assert run_of_checkpoint(tmp_path) is None


def test_training_refuses_the_directory_of_an_evaluation(directory: Path) -> None:
    training = {name: value for name, value in config().items() if name != "evaluation"}
    with pytest.raises(RecordError, match="evaluation"):
        RunDirectory(directory).open_for_training(training, seeds={"run": 0})


def test_a_failure_is_recorded_and_the_next_start_clears_it(directory: Path) -> None:
    close_evaluation(directory, "failed", "the server died")
    assert RunDirectory(directory).manifest()["error"] == "the server died"
    open_evaluation(directory, config(), seeds={"evaluation": 0})
    manifest = RunDirectory(directory).manifest()
    assert (manifest["state"], manifest["error"]) == ("running", None)
    assert [restart["previous_error"] for restart in manifest["restarts"]] == ["the server died"]


DRAW_ALL = """
import json, sys, time
from pathlib import Path
from ctpo.records.evaluation import SampleParts, open_evaluation
directory, config, settings, rows = json.loads(Path(sys.argv[1]).read_text())
open_evaluation(Path(directory), config, seeds={"evaluation": 0})
parts = SampleParts(Path(directory), "arithmetic", 6)
parts.claim(settings)
keys = [(row["problem_id"], row["sample_index"]) for row in rows]
if not parts.complete:
    parts.open_part(0, 1)
    done = parts.rows()
    missing = [row for row, key in zip(rows, keys) if key not in done]
    print("missing", len(missing), flush=True)
    for start in range(0, len(missing), 3):
        parts.append(missing[start : start + 3])
        time.sleep(0.002)
assert parts.merge(keys)
print("complete", flush=True)
"""


@pytest.mark.timeout(240)
def test_killed_at_random_again_and_again_every_sample_is_there_once(tmp_path: Path) -> None:
    directory = tmp_path / "demo-eval" / "tiny" / "ctpo" / "seed0"
    rows = [row(f"p{number % 40}", number // 40) for number in range(1200)]
    (tmp_path / "task.json").write_text(json.dumps([str(directory), config(), SETTINGS, rows]))
    command = [sys.executable, "-c", DRAW_ALL, str(tmp_path / "task.json")]
    chance, kills = random.Random(0), 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        if kills < 12 and first.startswith("missing"):
            time.sleep(chance.uniform(0.0, 0.08))
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += process.returncode == -signal.SIGKILL
            continue
        assert process.wait() == 0
        break
    frame = pd.read_parquet(SampleParts(directory, "arithmetic", 6).path)
    assert kills >= 3
    assert frame.to_dict("records") == rows
