"""How an evaluation draws samples: bounded, in order, each once, tried again when something fails."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ctpo.records.evaluation import SampleParts, open_evaluation
from ctpo.tir.seeds import sample_seed
from experiments.evaluation.checkpoint import Checkpoint
from experiments.evaluation.job import MAX_FAILED, Evaluation, EvaluationFailed, _record
from experiments.evaluation.problems import Benchmark, SampleKey
from experiments.evaluation.worker import TRIES, Busy, EvaluationWorker, Outcome, SampleRequest

ROLLOUT = {
    "val_kwargs": {"temperature": 0.7, "top_p": 1.0, "top_k": -1},
    "calculate_log_probs": False,
    "agent": {"default_agent_loop": "ctpo_tir"},
}


class Worker(EvaluationWorker):
    """The worker without verl's set-up; trajectories end after a moment, or as `fail` says."""

    def __init__(self, failures: dict[SampleKey, int] | None = None) -> None:
        self.config = OmegaConf.create({"actor_rollout_ref": {"rollout": ROLLOUT}})
        self.failures = dict(failures or {})
        self.started: list[tuple[SampleKey, int]] = []
        self.running = self.most = 0

    async def _run_agent_loop(self, sampling: dict[str, Any], trajectory: Any, **row: Any) -> dict[str, Any]:
        key = row["key"]
        self.started.append((key, sampling["seed"]))
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001 * (1 + key.sample_index % 3))
        self.running -= 1
        if self.failures.get(key, 0) > 0:
            self.failures[key] -= 1
            raise RuntimeError("the server is gone")
        return {"score": 1.0, "sample": json.dumps(str(key))}


def draw(worker: Worker, number: int = 40, concurrency: int = 7) -> list[Outcome]:
    requests = [SampleRequest(key, {"key": key}) for key in keys(number)]

    async def everything() -> list[Outcome]:
        return [outcome async for batch in worker.evaluate(requests, 5, concurrency) for outcome in batch]

    return asyncio.run(everything())


def keys(number: int) -> list[SampleKey]:
    return [SampleKey("bench", f"p{index % 4}", index // 4) for index in range(number)]


def test_every_sample_is_drawn_once_with_its_own_seed_and_so_many_at_a_time() -> None:
    worker = Worker()
    outcomes = draw(worker)
    assert sorted(outcome.key for outcome in outcomes) == sorted(keys(40))
    assert worker.started == [(key, sample_seed(5, *key)) for key in keys(40)], "in order"
    assert worker.most == 7


def test_a_sample_that_fails_is_tried_again_with_the_same_seed() -> None:
    once, always = keys(40)[3], keys(40)[8]
    worker = Worker({once: 1, always: 99})
    outcomes = {outcome.key: outcome for outcome in draw(worker)}
    assert outcomes[once].error is None
    assert outcomes[always].error == "RuntimeError: the server is gone"
    assert [seed for key, seed in worker.started if key == once] == [sample_seed(5, *once)] * 2
    assert len([key for key, _ in worker.started if key == always]) == TRIES
    assert sum(outcome.error is None for outcome in outcomes.values()) == 39


def test_overlapping_work_counts_once() -> None:
    busy = Busy()
    with busy:
        time.sleep(0.02)
        with busy:
            time.sleep(0.02)
        inside = busy.seconds
    total = busy.seconds
    time.sleep(0.05)
    assert busy.seconds == total >= inside >= 0.04


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    names = {"sweep": "eval", "model": "tiny", "method": "base", "seed": 0}
    config = {"evaluation": {"k": 10}, "run": names}
    open_evaluation(tmp_path, config, seeds={})
    parts = SampleParts(tmp_path, "bench", 6)
    parts.claim({"k": 10})
    parts.open_part(0, 1)
    model = Checkpoint(tmp_path, "eval", "tiny", "base", 0, 6)
    return Evaluation(config, tmp_path, [Benchmark("bench", ())], {"bench": parts}, model)


def outcome(key: SampleKey, error: str | None = None) -> Outcome:
    fields = ("tir_turns", "tir_model_tokens", "tir_tool_calls", "tir_tool_failures", "tir_wall_s")
    sample = {
        **dict.fromkeys(fields, 1),
        "tir_finish_reason": "answer",
        "tir_answer": "5",
        "tir_sample_index": key.sample_index,
        "problem_id": key.problem_id,
    }
    return Outcome(key, 1.0, json.dumps(sample), error)


def test_what_succeeds_is_recorded_at_once_and_what_fails_is_not(evaluation: Evaluation) -> None:
    counted: list[int] = []
    bad = keys(12)[5]

    def batches() -> Any:
        yield [outcome(key) for key in keys(4)]
        assert len(evaluation.parts["bench"].rows()) == 4, "on disk before the next comes"
        yield [outcome(key, "no sandbox" if key == bad else None) for key in keys(12)[4:]]

    (failed,) = _record(evaluation, batches(), counted.append)
    assert (failed.key, failed.error) == (bad, "no sandbox")
    assert counted == [4, 7]
    found = evaluation.parts["bench"].rows()
    assert found.keys() == {(key.problem_id, key.sample_index) for key in keys(12) if key != bad}
    assert {row["step"] for row in found.values()} == {6}


def test_a_job_gives_up_when_nothing_works(evaluation: Evaluation) -> None:
    endless = ([outcome(key, "the server is gone")] for key in keys(1000))
    with pytest.raises(EvaluationFailed, match=f"more than {MAX_FAILED} samples failed, the first with the server is"):
        _record(evaluation, endless, lambda samples: None)
    assert next(endless)[0].key == keys(1000)[MAX_FAILED + 1], "the rest was not waited for"
