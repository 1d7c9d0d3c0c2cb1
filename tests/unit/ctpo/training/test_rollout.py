"""Every trajectory of training and validation starts with its own seed, through verl's own worker."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.utils.import_utils import load_class_from_fqn

from ctpo.tir.seeds import sample_seed
from ctpo.training.rollout import SeededAgentLoopManager, SeededAgentLoopWorker
from experiments.compose import composed

SHARED = {"temperature": 1.0}


def seeds(monkeypatch: pytest.MonkeyPatch, validate: bool, seeded: bool = True, **run: Any) -> list[int | None]:
    """Seeds with which verl's base worker is asked for 2 problems x 3 samples, in the order of asking."""
    asked: list[int | None] = []

    async def base(self: Any, sampling_params: dict[str, Any], trajectory: Any, **kwargs: Any) -> None:
        assert sampling_params["temperature"] == 1.0
        asked.append(sampling_params.get("seed"))

    monkeypatch.setattr(SeededAgentLoopWorker.__bases__[0], "_run_agent_loop", base)
    worker = SeededAgentLoopWorker.__new__(SeededAgentLoopWorker)
    worker.config = OmegaConf.create({"run": {"seed": 7, "method": "ctpo", **run}, "rollout": {"seeded": seeded}})
    for problem, session in itertools.product(("p", "q"), range(3)):
        row = {"data_source": "bench", "extra_info": {"problem_id": problem}, "session_id": session}
        trajectory = {"step": 12, "validate": validate, "sample_index": 0, "rollout_n": 0}
        asyncio.run(worker._run_agent_loop(SHARED, trajectory, agent_name="ctpo_tir", **row))
    assert SHARED == {"temperature": 1.0}, "verl shares these among the samples of a prompt"
    return asked


@pytest.mark.parametrize("validate", [False, True])
def test_a_trajectory_has_the_seed_of_its_name(monkeypatch: pytest.MonkeyPatch, validate: bool) -> None:
    step = None if validate else 12
    expected = [sample_seed(7, "bench", problem, index, step) for problem in ("p", "q") for index in range(3)]
    assert seeds(monkeypatch, validate) == expected
    assert seeds(monkeypatch, validate, method="grpo") == expected, "methods share their random numbers"
    assert not set(seeds(monkeypatch, validate, seed=8)) & set(expected)


def test_seeds_can_be_turned_off_in_training_and_never_in_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seeds(monkeypatch, validate=False, seeded=False) == [None] * 6
    assert None not in seeds(monkeypatch, validate=True, seeded=False)


def test_every_configuration_selects_it() -> None:
    for model in ("tiny", "qwen3_4b", "qwen3_14b"):
        config = composed([f"model={model}", "dataset=arithmetic"])
        name = config.actor_rollout_ref.rollout.agent.agent_loop_manager_class
        assert load_class_from_fqn(name, "AgentLoopManager") is SeededAgentLoopManager
        assert config.rollout.seeded
