"""The agent loop and the reward inside verl's own worker code, short of Ray."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from tir_harness import Harness, block, make_harness
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopOutput,
    AgentLoopWorker,
    DictConfigWrap,
    ToolListWrap,
    _agent_loop_registry,
)
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

import ctpo.tir
from ctpo.tir.agent_loop import TirAgentLoop
from ctpo.tir.config import TirConfig
from ctpo.tir.reward import RECORD_FIELDS

REWARD = {"reward": {"custom_reward_function": {"path": "pkg://ctpo.tir.reward", "name": "compute_score"}}}


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    yield from make_harness(None)


def row(answer: str) -> dict[str, Any]:
    """A dataset row as verl's agent loop worker passes it on."""
    return {
        "data_source": "arithmetic",
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "extra_info": {"index": 0, "split": "test", "problem_id": "abc"},
        "raw_prompt": [{"role": "user", "content": "?"}],
    }


def score(harness: Harness, output: AgentLoopOutput, dataset_row: dict[str, Any]) -> None:
    """Run verl's own scoring of a trajectory, with the reward manager called without Ray."""
    config = OmegaConf.create(REWARD)

    async def scored() -> None:
        manager = NaiveRewardManager(config, harness.tokenizer, get_custom_reward_fn(config))
        worker = AgentLoopWorker.__new__(AgentLoopWorker)
        worker.processor, worker.mm_processor_kwargs = None, {}
        worker.reward_loop_worker_handles = [SimpleNamespace(compute_score=SimpleNamespace(remote=manager.run_single))]
        await worker._compute_score([output], kwargs=dataset_row)

    harness.wait(scored())


@pytest.mark.parametrize(
    ("last_turn", "gold", "reward"),
    [
        ("\\boxed{42}", "42", 1.0),
        ("\\boxed{84/2}", "42.0", 1.0),
        ("\\boxed{41}", "42", 0.0),
        ("The tool has printed it.", "42", 0.0),
    ],
)
def test_verls_reward_loop_pays_the_models_own_answer_only(
    harness: Harness, last_turn: str, gold: str, reward: float
) -> None:
    output = harness.run(harness.script(block("print('\\\\boxed{42} 42')"), last_turn))
    assert harness.observations(output) == ["\\boxed{42} 42"]
    score(harness, output, row(gold))
    assert output.reward_score == reward
    info = output.extra_fields["reward_extra_info"]
    assert info["acc"] == reward
    sample = json.loads(info["sample"])
    assert set(sample) == set(RECORD_FIELDS)
    assert (sample["problem_id"], sample["tir_turns"], sample["tir_tool_calls"]) == ("abc", 2, 1)


def test_the_record_survives_the_way_to_the_trainer(harness: Harness) -> None:
    outputs = [
        harness.run(harness.script("\\boxed{42}")),
        harness.run(harness.script(block("1/0"), block("print(1)"), "no answer")),
    ]
    for output in outputs:
        score(harness, output, row("42"))
    batch = list_of_dict_to_tensordict([output.as_dict() for output in outputs])
    received = pickle.loads(pickle.dumps(batch))
    first, second = received["extra_fields"]
    assert set(first) == set(second)
    assert (first["tir_finish_reason"], first["tir_answer"], first["tir_turns"]) == ("answer", "42", 1)
    assert (second["tir_finish_reason"], second["tir_tool_calls"], second["tir_tool_failures"]) == (
        "end_of_text",
        2,
        1,
    )
    assert all(type(first[name]) in (int, float, str) for name in first if name.startswith("tir_"))
    for output, mask, scores in zip(outputs, received["response_mask"], received["rm_scores"], strict=True):
        assert mask.tolist() == output.response_mask
        assert scores.sum().item() == output.reward_score


def test_verl_builds_the_loop_from_its_file_and_all_trajectories_share_one_sandbox(harness: Harness) -> None:
    path = Path(ctpo.tir.__file__).parent / "agent_loop.yaml"
    entry: Any = OmegaConf.load(path)[0]
    assert entry.name == "ctpo_tir"
    assert entry._target_ == _agent_loop_registry["ctpo_tir"]["_target_"]
    config = OmegaConf.create(
        {
            "actor_rollout_ref": {"rollout": {"prompt_length": 100, "response_length": 100}},
            "data": {},
            "tir": {"max_turns": 2, "sandbox": {"concurrency": 3}},
        }
    )

    async def build() -> TirAgentLoop:
        return hydra.utils.instantiate(
            entry,
            trainer_config=DictConfigWrap(config),
            server_manager=None,
            tokenizer=harness.tokenizer,
            processor=None,
            hf_model_type="qwen3",
            dataset_cls=None,
            data_config=DictConfigWrap(config.data),
            tools=ToolListWrap([]),
        )

    first, second = harness.wait(build()), harness.wait(build())
    assert type(first) is TirAgentLoop
    assert first.tir == TirConfig.from_node(config.tir)
    assert first.python_tool is second.python_tool
    config.tir.max_turns = 0
    with pytest.raises(InstantiationException, match=r"tir\.max_turns=0"):
        harness.wait(build())
