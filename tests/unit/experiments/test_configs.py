"""The composed configurations: the paper's setting, and nothing but the method differs between methods."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ctpo.methods import METHODS, configure
from ctpo.records.identity import flatten
from experiments import preflight, resolvers

CONFIGS = Path(__file__).resolve().parents[3] / "experiments" / "configs"
MODELS = ("tiny", "qwen3_4b", "qwen3_14b")

#: All that a method may change. `run.*` and the paths follow from the method's name.
OWN_FIELDS = {
    "method.name", "method.window", "method.dual_clip",
    "actor_rollout_ref.actor.method", "actor_rollout_ref.actor.policy_loss.loss_mode",
    "actor_rollout_ref.actor.loss_agg_mode",
    "run.method", "run.dir", "trainer.default_local_dir", "trainer.experiment_name",
    "actor_rollout_ref.rollout.trace.experiment_name",
    "critic.loss_agg_mode",  # follows the actor's; no method here has a critic
}  # fmt: skip


@functools.cache
def composed(*overrides: str) -> DictConfig:
    resolvers.register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("run", overrides=list(overrides))


@functools.cache
def resolved(*overrides: str) -> dict[str, Any]:
    # Filled in by `prepare`, so absent from what is composed.
    made = (
        "actor_rollout_ref.model.path=m",
        "data.train_files=t",
        "data.val_files=v",
        "+critic.model.path=m",
    )
    config = composed(*overrides, *(item.lstrip("+") for item in made))
    return dict(flatten(OmegaConf.to_container(config, resolve=True)))


def own(name: str) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in OWN_FIELDS)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"ctpo"}))
def test_methods_differ_in_their_own_fields_alone(model: str, method: str) -> None:
    reference, other = (
        resolved(f"model={model}", "method=ctpo"),
        resolved(f"model={model}", f"method={method}"),
    )
    differing = {name for name in reference.keys() | other.keys() if reference.get(name) != other.get(name)}
    assert {name for name in differing if not own(name)} == set()
    assert "method.name" in differing


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_a_config_with_its_own_defaults(method: str) -> None:
    node = OmegaConf.to_container(composed(f"method={method}").method, resolve=False)
    assert isinstance(node, dict)
    node.pop("position_stats")
    assert configure(node.pop("name"), node) == METHODS[method]
    assert composed(f"method={method}").actor_rollout_ref.actor.loss_agg_mode == METHODS[method].aggregation


def test_qwen3_4b_is_the_papers_setting() -> None:
    config = composed("model=qwen3_4b")
    assert (config.data.train_batch_size, config.actor_rollout_ref.rollout.n) == (512, 8)
    assert config.actor_rollout_ref.actor.ppo_mini_batch_size == 32
    assert config.method.position_stats.max_updates == 16
    assert config.actor_rollout_ref.actor.optim.lr == 1e-6
    assert (config.tir.max_turns, config.data.max_response_length) == (5, 8000)
    assert config.actor_rollout_ref.rollout.val_kwargs.n == 32
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node, config.trainer.device) == (1, 8, "cuda")
    assert config.run.dataset == "deepscaler"
    assert config.data.apply_chat_template_kwargs.enable_thinking is False
    assert config.algorithm.adv_estimator == "grpo"
    assert not config.actor_rollout_ref.actor.use_kl_loss
    assert not config.algorithm.use_kl_in_reward


def test_a_dataset_named_on_the_command_line_wins_over_the_models() -> None:
    assert composed("model=qwen3_4b", "dataset=arithmetic").run.dataset == "arithmetic"


def test_the_run_directory_has_no_time_stamp() -> None:
    assert composed().run.dir.endswith("results/runs/default/tiny/ctpo/seed0")
    assert composed("run.seed=3", "method=gspo").run.dir.endswith("default/tiny/gspo/seed3")


@pytest.mark.parametrize("model", MODELS)
def test_actor_config_instantiates_as_verl_does_it(model: str) -> None:
    from verl.utils.config import omega_conf_to_dataclass

    values = composed(f"model={model}", "method=ctpo_fixed", "actor_rollout_ref.model.path=m")
    actor = omega_conf_to_dataclass(
        OmegaConf.create(OmegaConf.to_container(values.actor_rollout_ref.actor, resolve=True))
    )
    assert actor.resolved_method == METHODS["ctpo_fixed"]
    assert actor.position_stats.max_position == values.data.max_response_length


def problems(*overrides: str) -> str:
    return "\n".join(preflight.check_request(composed(*overrides)))


def test_the_default_request_is_in_order() -> None:
    assert problems() == ""


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("actor_rollout_ref.actor.ppo_mini_batch_size=3", "ppo_mini_batch_size=3: does not divide"),
        (
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=5",
            "ppo_micro_batch_size_per_gpu=5: does not divide",
        ),
        ("data.max_response_length=3000", "max_model_len=512"),
        ("data.train_batch_size=0", "data.train_batch_size=0: must be a whole number"),
        ("actor_rollout_ref.actor.optim.lr=-1", "optim.lr=-1"),
        ("method.window.power=7", "power=7.0 must lie in [0, 2]"),
        ("+method.window.widht=1", "method.window.widht: unknown field"),
        ("tir.max_turns=0", "tir.max_turns=0"),
        ("tir.sandbox.memory_mb=-1", "memory_mb"),
        ("actor_rollout_ref.actor.loss_agg_mode=token-mean", "loss_agg_mode=token-mean"),
        ("run.preflight=perhaps", "run.preflight=perhaps"),
    ],
)
def test_a_wrong_value_is_named_with_field_and_value(override: str, named: str) -> None:
    found = problems(override)
    assert named in found
    assert all(len(problem.splitlines()) <= 2 for problem in preflight.check_request(composed(override)))


def test_missing_gpus_are_named_with_the_two_ways_on() -> None:
    if preflight.visible_gpus() >= 8:
        pytest.skip("this machine has the GPUs")
    found = problems("model=qwen3_4b")
    assert "n_gpus_per_node=8" in found
    assert "slurm=h100_node" in found
    assert "model=tiny" in found


def test_all_problems_are_reported_at_once() -> None:
    found = preflight.check_request(composed("data.train_batch_size=0", "method.window.power=7", "tir.max_turns=0"))
    assert len(found) >= 3


def inputs(folder: Path, problems: int = 16) -> DictConfig:
    """A composed request with a model folder (context 300) and a training file of so many rows."""
    (folder / "config.json").write_text('{"max_position_embeddings": 300}')
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    pq.write_table(pa.table({"prompt": ["?"] * problems}), folder / "train.parquet")
    return composed(f"actor_rollout_ref.model.path={folder}", f"data.train_files=[{folder}/train.parquet]")


def test_a_response_beyond_the_models_context_is_refused(tmp_path: Path) -> None:
    config = inputs(tmp_path)
    found = preflight.check_inputs(config)
    assert len(found) == 1
    assert "beyond the model's context of 300; use at most 204" in found[0]
    (tmp_path / "model.safetensors").unlink()
    assert "lacks *.safetensors" in preflight.check_inputs(config)[0]


def test_fewer_problems_than_a_batch_are_refused(tmp_path: Path) -> None:
    found = preflight.check_inputs(inputs(tmp_path, problems=15))
    assert any("data.train_batch_size=16: the training data has 15 problems" in problem for problem in found)


def test_a_sweep_file_names_its_grid() -> None:
    resolvers.register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("run", overrides=["sweeps=demo"], return_hydra_config=True)
    assert config.hydra.sweeper.params.method == "grpo,gspo,ctpo,ctpo_fixed"
    assert config.run.sweep == "demo"
