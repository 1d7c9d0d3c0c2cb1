"""The composed configurations: the paper's setting, and nothing but the method differs between methods."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ctpo.methods import METHODS, configure
from ctpo.records.identity import flatten
from experiments import preflight, resolvers
from experiments.preflight.verl_checks import Checking
from experiments.request import resolved as resolved_request
from experiments.request import value_problems

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).resolve().parents[3] / "experiments" / "configs"
SLURM = CONFIGS.parents[1] / "slurm"


def choices(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml") if not path.stem.startswith("_"))


MODELS = choices(CONFIGS / "model")
DATASETS = choices(CONFIGS / "dataset")
PROFILES = choices(SLURM)
#: The example stands for a method of the user's own.
METHOD_CHOICES = [
    (f"method={name}", *(["method.import_path=experiments.examples.my_ratio:method"] if name == "custom" else []))
    for name in choices(CONFIGS / "method")
]

#: All that a method may change. `run.*` and the paths follow from the method's name.
OWN_FIELDS = {
    "method.name", "method.window", "method.dual_clip", "method.rule",
    "actor_rollout_ref.actor.method", "actor_rollout_ref.actor.policy_loss.loss_mode",
    "actor_rollout_ref.actor.loss_agg_mode", "actor_rollout_ref.actor.loss_scale_factor",
    "algorithm.norm_adv_by_std_in_grpo",  # Dr. GRPO divides by no deviation
    "run.method", "run.dir", "trainer.default_local_dir", "trainer.experiment_name",
    "actor_rollout_ref.rollout.trace.experiment_name",
    "algorithm.rollout_correction",  # a choice of the paper's code, not of its text
    "critic.loss_agg_mode", "critic.loss_scale_factor",  # follows the actor's; no method here has a critic
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
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(flatten(plain))


def own(name: str) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in OWN_FIELDS)


#: Composing takes a second: all methods on one model, those that change the most on the others.
GRID = [("tiny", name) for name in sorted(set(METHODS) - {"ctpo"})]
GRID += [(model, name) for model in MODELS[1:] for name in ("ctpo_released", "dr_grpo")]


@pytest.mark.parametrize(("model", "method"), GRID)
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
    node: Any = OmegaConf.to_container(composed(f"method={method}").method, resolve=False)
    assert isinstance(node, dict)
    node.pop("position_stats")
    assert configure(node.pop("name"), node) == METHODS[method]
    config = composed(f"method={method}")
    assert config.actor_rollout_ref.actor.loss_agg_mode == METHODS[method].aggregation
    assert config.algorithm.norm_adv_by_std_in_grpo == METHODS[method].std_normalised


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


def test_a_users_own_method_is_found_in_the_folder_that_the_run_starts_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    example = CONFIGS.parent / "examples" / "my_ratio.py"
    (tmp_path / "ratio_of_a_user.py").write_text(example.read_text())
    choice = ("method=custom", "method.import_path=ratio_of_a_user:method", "run.method=mine")
    config = composed(*choice)
    assert preflight.check_request(config) == []
    assert config.method.search_path == str(tmp_path)
    assert config.run.dir.endswith("default/tiny/mine/seed0")
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "ctpo/custom"
    (problem,) = preflight.check_request(composed("method=custom", "method.import_path=nobodys:method"))
    assert "no module 'nobodys'" in problem


def test_a_sweep_file_names_its_grid() -> None:
    resolvers.register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("run", overrides=["sweeps=demo"], return_hydra_config=True)
    assert config.hydra.sweeper.params.method == "grpo,gspo,ctpo,ctpo_fixed"
    assert config.run.sweep == "demo"


def _in_turn(model: str, methods: list[tuple[str, ...]], count: int) -> list[tuple[str, ...]]:
    """`count` requests on a model that go through methods, data sets and profiles side by side."""
    return [
        (*methods[i % len(methods)], f"model={model}", f"dataset={DATASETS[i % len(DATASETS)]}",
         f"slurm={PROFILES[i % len(PROFILES)]}") for i in range(count)
    ]  # fmt: skip


#: All methods on one model, and on each of the others every data set and profile. That methods differ in their own
#: fields alone, and that a profile changes nothing that a method sets, are other tests' claims.
COMBINATIONS = [
    *_in_turn("tiny", METHOD_CHOICES, len(METHOD_CHOICES)),
    *(each for model in MODELS if model != "tiny" for each in _in_turn(model, METHOD_CHOICES[:7], len(PROFILES))),
]
SIZES = [
    (f"model={model}", f"hardware.gpu_memory_gb={size}")
    for model in MODELS if model.startswith("qwen3") for size in (80, 141)
]  # fmt: skip


def test_every_method_model_dataset_and_slurm_profile_pass_verls_validators() -> None:
    requests = [*COMBINATIONS, *SIZES]
    for group, known in (("method", METHOD_CHOICES), ("model", MODELS), ("dataset", DATASETS), ("slurm", PROFILES)):
        assert len({each for request in COMBINATIONS for each in request if each.startswith(f"{group}=")}) == len(known)
    # Not from the cache: so many configurations would stay in memory.
    configs = [composed.__wrapped__(*request) for request in requests]
    plain = [resolved_request(config) for config in configs]
    own = [value_problems(config, each) for config, each in zip(configs, plain, strict=True)]
    with Checking(plain) as checking:
        judged = checking.problems()
    assert [found for found in zip(requests, own, judged, strict=True) if found[1] or found[2]] == []


@pytest.mark.parametrize("profile", PROFILES)
def test_a_slurm_profile_changes_nothing_that_a_method_or_a_dataset_sets(profile: str) -> None:
    for request in [(f"model={model}", f"dataset={dataset}") for model in MODELS for dataset in DATASETS]:
        alone, with_profile = resolved(*request), resolved(*request, f"slurm={profile}")
        changed = {name for name in alone.keys() | with_profile.keys() if alone.get(name) != with_profile.get(name)}
        touched = {name for name in changed if own(name) or name.startswith(("dataset_spec.", "data_catalog."))}
        assert touched == set()


@pytest.mark.parametrize("choice", SIZES)
def test_both_gpu_sizes_have_a_layout_that_holds_the_longest_sequence(choice: tuple[str, str]) -> None:
    values = resolved(*choice)
    longest = values["data.max_prompt_length"] + values["data.max_response_length"]
    assert values["actor_rollout_ref.actor.ppo_max_token_len_per_gpu"] >= longest
    # Scoring and updating in micro-batches of one size: another would make log_prob differ from old_log_prob.
    assert (
        values["actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu"]
        == values["actor_rollout_ref.actor.ppo_max_token_len_per_gpu"]
    )
    assert values["actor_rollout_ref.rollout.max_model_len"] >= longest


def test_rollout_correction_is_off_in_the_papers_method_and_on_in_the_authors_code() -> None:
    paper, code = composed("method=ctpo").algorithm, composed("method=ctpo_released").algorithm
    assert paper.rollout_correction.rollout_is is None
    assert (code.rollout_correction.rollout_is, code.rollout_correction.rollout_is_threshold) == ("sequence", 5.0)
