"""The paper-scale composition of Qwen3-4B, trained for real with nothing changed but paths, sizes and device.

So FSDP2 in mixed bfloat16, gradient checkpointing, packed sequences, dynamic micro-batches, chunked log-probabilities
and vLLM in bfloat16 run as they will on eight GPUs, through the same files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from ctpo.records import RunDirectory
from ctpo.records.identity import flatten
from ctpo.records.position_stats import PositionSums
from experiments.compose import composed
from experiments.prepare import prepare_model

from .conftest import Run

PAPER = ["model=qwen3_4b", "method=ctpo"]

#: Every field that differs from the paper-scale composition, and why it must.
SCALED_DOWN: dict[str, dict[str, Any]] = {
    "model": {"model_spec.hub_id": None},  # and model_spec.path
    "sizes": {
        "data.max_prompt_length": 96,
        "data.max_response_length": 256,
        "actor_rollout_ref.rollout.max_model_len": 512,
        "actor_rollout_ref.rollout.max_num_seqs": 128,
        "actor_rollout_ref.rollout.val_kwargs.n": 1,
        "actor_rollout_ref.rollout.agent.num_workers": 1,
        "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes": 16,
        "reward.num_workers": 1,
        "trainer.total_training_steps": 2,
        "trainer.val_before_train": False,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        "transfer_queue.backend.SimpleStorage.total_storage_size": 20000,
    },
    "batch": {
        "data.train_batch_size": 8,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
        "hardware.layouts.gb80.tokens_per_gpu": 1024,
    },
    # The first step's learning rate is 0, so that everything but the policy shows; the second step learns.
    "learning rate": {"actor_rollout_ref.actor.optim.lr_warmup_steps": 1},
    "device": {
        "trainer.device": "cpu",
        "trainer.n_gpus_per_node": 2,
        "actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        "actor_rollout_ref.rollout.enforce_eager": True,
        "actor_rollout_ref.rollout.enable_chunked_prefill": False,
        "actor_rollout_ref.rollout.free_cache_engine": False,
        "actor_rollout_ref.rollout.enable_sleep_mode": False,
        "actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend": "uni",
        "ray_kwargs.ray_init.num_cpus": 40,
        "ray_kwargs.ray_init.num_gpus": 2,
        "ray_kwargs.ray_init.include_dashboard": False,
        "ray_kwargs.ray_init.object_store_memory": 500000000,
    },
}
UPDATES = 4
#: Also set: where model and data lie. The data set is generated instead of downloaded.
PATHS = {"model_spec.path"}
DATASET = "dataset=arithmetic"


def overrides(path: str) -> list[str]:
    fields = {name: value for part in SCALED_DOWN.values() for name, value in part.items()}
    values = {True: "true", False: "false", None: "null"}
    # `++` sets a field whether or not the composition names it (some of verl's are its dataclasses' alone).
    return [
        *(f"++{name}={values[value] if isinstance(value, bool | None) else value}" for name, value in fields.items()),
        f"model_spec.path={path}",
    ]


def unresolved(request: list[str]) -> dict[str, Any]:
    """The composed fields with references as they are written: what follows from a field is not a difference."""
    plain: Any = OmegaConf.to_container(composed(request), resolve=False)
    return dict(flatten(plain))


def test_nothing_else_differs_from_the_paper_scale_composition() -> None:
    paper, small = unresolved([*PAPER, DATASET]), unresolved([*PAPER, DATASET, *overrides("/m")])
    listed = {name for part in SCALED_DOWN.values() for name in part} | PATHS
    # An empty node of the one is a filled node of the other.
    nodes = {name for name, value in paper.items() if value == {}}
    differing = {name for name in paper.keys() | small.keys() if paper.get(name) != small.get(name)} - nodes
    assert differing == listed
    assert len(listed) <= 30
    assert not {name for name in listed if name.startswith(("method.", "algorithm.", "tir.", "records."))}


@pytest.mark.timeout(900)
def test_the_paper_scale_composition_trains(new_run: Callable[..., Run]) -> None:
    run = new_run(*PAPER, DATASET, *overrides(str(prepare_model(composed([])))))
    run.start()
    assert run.wait(840) == 0, run.tail()
    run.wait_for_no_process(60)
    manifest = RunDirectory(run.directory).manifest()
    assert manifest["state"] == "finished"
    rows, problems = RunDirectory(run.directory).rows()
    assert problems == []
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["actor/grad_norm"] > 0
        assert row["rollout/failed_trajectories"] == 0
        # bfloat16 on both sides: far from the float32 runs' 1e-7, and not another model.
        assert 1e-6 < row["training/rollout_probs_diff_mean"] < 0.05
    assert rows[0]["actor/log_ratio_max"] == rows[0]["actor/log_ratio_min"] == 0.0
    assert_only_the_policy_moves_the_ratio(RunDirectory(run.directory))


def assert_only_the_policy_moves_the_ratio(records: RunDirectory) -> None:
    """bfloat16, packed, two processes: log rho_t is exactly 0 wherever no weight has changed, and only there."""
    still, learning = map(PositionSums.from_arrays, records.position_stats())
    sequences = 8 * SCALED_DOWN["batch"]["data.train_batch_size"]
    for step in (still, learning):
        assert step.positions.count[0] + step.first.count[0] == sequences
        assert step.first.count[0] == sequences // UPDATES
    moved = np.array([np.abs(step.updates.sums[:, :UPDATES]).sum((0, 2)) for step in (still, learning)])
    assert moved[0].tolist() == [0.0] * UPDATES
    assert moved[1, 0] == 0.0
    assert (moved[1, 1:] > 0).all()
