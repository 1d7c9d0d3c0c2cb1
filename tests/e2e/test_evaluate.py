"""Evaluation for real, of a sharded checkpoint as training writes it: verl, Ray, vLLM and the sandbox.

`CTPO_KILLS=20 pytest tests/e2e/test_evaluate.py` kills the evaluation that often instead of once.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ctpo.records import SAMPLE_FIELDS, RunDirectory, find_runs
from ctpo.records.files import read_lines
from ctpo.records.schema import SAMPLE_ROW
from ctpo.training.platforms import environment
from experiments import prepare
from experiments.compose import composed
from tests.verl_checkpoint import LOG_PROBS, log_probs, token_ids

from .conftest import PROJECT, Run

KILLS = int(os.environ.get("CTPO_KILLS", "1"))
START_S = int(os.environ.get("CTPO_START_S", "300"))
PROBLEMS, K = 16, 8
#: What decides a sample; `wall_s` is measured.
CONTENT = [field for field in SAMPLE_FIELDS if field != "wall_s"]
LOG_PROBABILITIES_OF_VLLM = """
import sys, torch
from vllm import LLM, SamplingParams
folder, target = sys.argv[1:]
ids = torch.load(target)["ids"][0].tolist()
llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=512, distributed_executor_backend="uni")
(output,) = llm.generate([{"prompt_token_ids": ids}], SamplingParams(max_tokens=1, prompt_logprobs=0))
values = [found[token].logprob for token, found in zip(ids[1:], output.prompt_logprobs[1:])]
torch.save({"ids": torch.tensor([ids]), "values": torch.tensor(values)}, target)
"""


@dataclass
class EvaluationRun(Run):
    """One evaluation's directory and the command that fills it."""

    def command(self) -> list[str]:
        root = self.directory.parents[3]
        return [sys.executable, "experiments/evaluate.py", f"run.root={root}", *self.arguments]

    def rows(self) -> int:
        """Samples on disk."""
        return sum(len(read_lines(file, SAMPLE_ROW)[0]) for file in self.directory.glob("samples/*/*.parts/*.jsonl"))

    def tail(self) -> str:
        logs = [self.output, *self.directory.glob("evaluate-*.log")]
        return "\n---\n".join(path.read_text(errors="replace")[-3000:] for path in logs if path.exists())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`global_step_3` of a training run: the tiny model, every weight moved a little, sharded over two processes."""
    run = tmp_path_factory.mktemp("runs") / "train" / "tiny" / "gspo" / "seed4"
    records = RunDirectory(run)
    records.open_for_training(
        {"run": {"sweep": "train", "model": "tiny", "method": "gspo", "seed": 4}}, seeds={"run": 4}
    )
    records.finish("finished")
    target = run / "checkpoints" / "global_step_3"
    model = prepare.prepare_model(composed(["model=tiny"]))
    command = [sys.executable, "tests/verl_checkpoint.py", str(model), str(target), "2", "1e-3"]
    variables = {**os.environ, **environment.for_device("cpu")}
    done = subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, timeout=START_S)
    assert done.returncode == 0, done.stderr[-3000:]
    return target


@pytest.fixture
def new_evaluation(tmp_path: Path, checkpoint: Path) -> Iterator[object]:
    runs: list[EvaluationRun] = []

    def make(name: str) -> EvaluationRun:
        directory = tmp_path / name / "train-eval" / "tiny" / "gspo" / "seed4"
        arguments = [
            "model=tiny", f"evaluation.checkpoint={checkpoint}", f"evaluation.problems={PROBLEMS}",
            f"evaluation.k={K}", "evaluation.concurrency=8",
        ]  # fmt: skip
        runs.append(EvaluationRun(directory, arguments))
        return runs[-1]

    yield make
    for run in runs:
        for process in run.processes():
            process.kill()


def samples(run: EvaluationRun) -> pd.DataFrame:
    (record,) = find_runs(run.directory.parents[3]).runs
    assert (record.state, record.problems) == ("finished", [])
    frame = record.samples("arithmetic", 3)
    assert frame is not None, record.problems
    return frame


@pytest.mark.timeout((KILLS + 3) * 2 * START_S)
def test_a_killed_evaluation_ends_with_the_rows_of_an_undisturbed_one(new_evaluation: Any, checkpoint: Path) -> None:
    undisturbed, killed = new_evaluation("undisturbed"), new_evaluation("killed")
    undisturbed.start()
    assert undisturbed.wait(2 * START_S) == 0, undisturbed.tail()
    wanted = samples(undisturbed)
    assert len(wanted) == PROBLEMS * K
    last = undisturbed.output.read_text().splitlines()[-1]
    assert last.startswith(f"arithmetic avg@{K} {100 * wanted['score'].mean():.1f} % [")
    drawn = f"drawn at temperature 0.7, top_p 1, k = {K}, at most 5 turns, 256 tokens"
    assert f"of {PROBLEMS} problems; {drawn}" in last
    assert last.endswith(f" -> {undisturbed.directory}")
    assert wanted["tool_calls"].mean() > 0.3, "the model uses the tool"
    assert wanted.groupby("problem_id")["answer"].nunique().max() > 1, "samples of a problem differ"

    chance = random.Random(7)
    for left in range(KILLS, 0, -1):
        before = killed.rows()
        more = chance.randint(1, max(1, (PROBLEMS * K - before) // (left + 1)))
        killed.start()
        killed.wait_until(lambda goal=before + more: killed.rows() >= goal, 2 * START_S)
        killed.kill()
        killed.wait_for_no_process(120)
        assert before < killed.rows() < PROBLEMS * K
    killed.start()
    assert killed.wait(2 * START_S) == 0, killed.tail()
    killed.wait_for_no_process(120)

    found = samples(killed)
    keys = ["problem_id", "sample_index"]
    assert found[keys].to_numpy().tolist() == wanted[keys].to_numpy().tolist()
    pd.testing.assert_frame_equal(found[CONTENT], wanted[CONTENT])
    assert_training_run_untouched(checkpoint)
    assert_other_settings_are_refused(killed)


def assert_training_run_untouched(checkpoint: Path) -> None:
    run = checkpoint.parents[1]
    assert not (run / "samples").exists()
    assert RunDirectory(run).manifest()["state"] == "finished"


def assert_other_settings_are_refused(run: EvaluationRun) -> None:
    """The same request again draws nothing; another temperature is refused before anything starts."""
    before = {file: file.read_bytes() for file in run.directory.glob("samples/*/*")}
    run.start()
    assert run.wait(START_S) == 0, run.tail()
    run.arguments.append("evaluation.temperature=1.0")
    run.start()
    assert run.wait(START_S) == 2
    refusal = run.output.read_text()
    assert "evaluation.temperature (recorded 0.7, now 1.0)" in refusal
    assert "Traceback" not in refusal
    assert {file: file.read_bytes() for file in run.directory.glob("samples/*/*")} == before


@pytest.mark.timeout(4 * START_S)
def test_an_exported_checkpoint_has_the_trainers_log_probabilities(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    target = tmp_path / "exported"
    command = [sys.executable, "experiments/export.py", str(checkpoint), str(target)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=START_S)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"exported step 3: {target}"
    again = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=START_S)
    assert (again.returncode, again.stderr) == (
        1,
        f"error: {target}: exists already; remove it or choose another target\n",
    )

    trainers = torch.load(checkpoint / LOG_PROBS)
    model = AutoModelForCausalLM.from_pretrained(target)
    ids = token_ids(model.config.vocab_size)
    assert model.dtype == torch.float32
    assert (log_probs(model, ids) - trainers).abs().max() < 1e-5
    base = AutoModelForCausalLM.from_pretrained(prepare.prepare_model(composed(["model=tiny"])))
    assert (log_probs(base, ids) - trainers).abs().max() > 1e-3, "the checkpoint is not the model it came from"

    file = tmp_path / "vllm.pt"
    torch.save({"ids": ids}, file)
    variables = {**os.environ, **environment.for_device("cpu")}
    command = [sys.executable, "-c", LOG_PROBABILITIES_OF_VLLM, str(target), str(file)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=2 * START_S)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = trainers.gather(-1, ids[:, 1:, None])[0, :, 0]
    assert (torch.load(file)["values"] - expected).abs().max() < 1e-5
    settings = json.loads((target / "config.json").read_text())
    assert settings["dtype"] == "float32"
