"""The planner: exact parameter counts, layouts that fit, and plans that follow their configuration."""

from __future__ import annotations

import subprocess
import sys

import pytest

from experiments import plan as command
from experiments.compose import composed, composed_sweep
from experiments.errors import BadRequest
from experiments.planner.checkpoint_size import exact_parameters
from experiments.planner.plan_request import GPU_BYTES, Assumptions
from experiments.planner.planning import plan
from experiments.planner.shapes import model_settings, published_settings, shapes_of
from experiments.resolvers import PROJECT_ROOT

pytestmark = pytest.mark.slow

PUBLISHED = {"Qwen/Qwen3-4B": 4.02e9, "Qwen/Qwen3-14B": 14.77e9}


@pytest.mark.parametrize(("hub_id", "published"), PUBLISHED.items())
def test_parameters_are_the_published_ones(hub_id: str, published: float) -> None:
    settings = published_settings(hub_id)
    shapes = shapes_of(settings)
    assert abs(shapes.total / published - 1) < 0.01
    assert shapes.total == exact_parameters(settings)
    assert shapes.root == shapes.embedding + shapes.head + shapes.hidden


def test_the_tiny_models_settings_are_those_it_is_built_from() -> None:
    settings = model_settings(composed([]))
    assert shapes_of(settings).total == exact_parameters(settings)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"model_spec.hub_id=a/b: its config.json is not here"):
        published_settings("a/b")


@pytest.mark.parametrize("size", GPU_BYTES)
@pytest.mark.parametrize("model", ["qwen3_4b", "qwen3_14b"])
def test_the_configured_layout_fits_and_leaves_room(model: str, size: int) -> None:
    made = plan(composed([f"model={model}", f"hardware.gpu_memory_gb={size}"]))
    assert made.memory.fits
    for used in (made.memory.training, made.memory.generating):
        assert used < 0.95 * made.memory.capacity
    assert made.memory.largest_micro_batch > made.request.token_budget
    # A KV pool that holds many trajectories at their longest.
    assert made.memory.kv_tokens > 20 * made.request.longest
    # Without checkpointing the same micro-batch would not fit: the setting is needed.
    assert made.without_checkpointing.training > made.memory.capacity


def test_14b_fits_80_gb_only_with_offload() -> None:
    kept = ["model=qwen3_14b", "actor_rollout_ref.actor.fsdp_config.optimizer_offload=false"]
    assert not plan(composed([*kept, "actor_rollout_ref.actor.fsdp_config.param_offload=false"])).memory.fits


def test_vllm_has_the_share_of_the_memory_that_is_configured_and_no_more() -> None:
    made = plan(composed(["model=qwen3_14b"]))
    (pool,) = (part.generating for part in made.memory.parts if part.name == "vLLM KV pool")
    replica = made.shapes.kv_bytes_per_token() // made.request.tensor_parallel
    assert made.memory.kv_tokens == pool // replica
    starved = plan(composed(["model=qwen3_14b", "actor_rollout_ref.rollout.gpu_memory_utilization=0.15"])).memory
    assert (starved.kv_tokens, starved.fits) == (0, False)


def test_evaluations_are_before_during_and_after_training() -> None:
    counts = {
        steps: plan(composed(["model=qwen3_4b", f"trainer.total_training_steps={steps}"])).run.evaluations
        for steps in (300, 305)
    }
    assert counts == {300: 1 + 15, 305: 1 + 15 + 1}


def test_unchunked_logits_are_what_chunking_saves() -> None:
    chunked = plan(composed(["model=qwen3_4b"]))
    whole = plan(composed(["model=qwen3_4b", "actor_rollout_ref.model.use_fused_kernels=false"]))
    logits = chunked.request.token_budget * chunked.shapes.vocabulary * 2
    assert whole.memory.training - chunked.memory.training > logits


def test_work_follows_the_configuration() -> None:
    one, two = (plan(composed(["model=qwen3_4b", f"data.train_batch_size={n}"])) for n in (256, 512))
    assert two.step.tokens == 2 * one.step.tokens
    assert two.step.training_flops == 2 * one.step.training_flops
    assert two.request.updates == 2 * one.request.updates
    # 6 N per token and attention, and a forward more for checkpointing.
    per_token = two.step.training_flops / two.step.tokens
    assert 8 * two.shapes.total < per_token < 10 * two.shapes.total
    assert two.storage.checkpoint == 12 * two.shapes.total


def test_assumptions_can_be_given_and_are_checked() -> None:
    overrides, assume = command.split_assumptions(["model=qwen3_4b", "assume.mfu=0.5"])
    assert overrides == ["model=qwen3_4b"]
    assert assume == Assumptions(mfu=0.5)
    with pytest.raises(BadRequest, match=r"assume.mfy=1: no such field; did you mean mfu"):
        command.split_assumptions(["assume.mfy=1"])
    with pytest.raises(BadRequest, match=r"assume.mfu=fast: must be a valid number"):
        command.split_assumptions(["assume.mfu=fast"])
    with pytest.raises(BadRequest, match=r"assume.mfu=0: must be greater than 0"):
        command.split_assumptions(["assume.mfu=0"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("hardware.gpu_memory_gb=40", "hardware.gpu_memory_gb=40: must be one of 80, 141"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=0", "ppo_mini_batch_size=0: must be greater than or equal to 1"),
    ],
)
def test_a_request_that_no_run_can_have_is_refused(override: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        command.main(["model=qwen3_4b", override])


def test_a_sweep_is_all_its_runs() -> None:
    runs = composed_sweep(["sweeps=demo", "run.seed=0,1"])
    assert {(config.method.name, config.run.seed) for _, config in runs} == {
        (method, seed) for method in ("grpo", "gspo", "ctpo", "ctpo_fixed") for seed in (0, 1)
    }
    assert len(runs) == 8
    assert {config.run.sweep for _, config in runs} == {"demo"}
    # What is given wins over the sweep's own grid.
    assert len(composed_sweep(["sweeps=demo", "method=ctpo"])) == 1


def test_an_unknown_choice_is_named() -> None:
    with pytest.raises(BadRequest, match=r"model=qwen3_5b: there is none \(do you mean qwen3_4b\?\)"):
        composed(["model=qwen3_5b"])


def test_the_command_prints_a_plan_and_says_what_does_not_fit() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "experiments/plan.py", *arguments],
            cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=280,
        )  # fmt: skip

    done = run("model=qwen3_4b", "method=ctpo,grpo", "slurm=h100_node")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("fits: 2 runs, about ")
    done = run("model=qwen3_14b", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=200000")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "does not fit in 80 GB: qwen3_14b"
    assert "14,768,307,200 parameters" in done.stdout
