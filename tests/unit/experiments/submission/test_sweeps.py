"""Every sweep that ships expands to runs with directories of their own, and so does a file from anywhere."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from omegaconf import DictConfig

from ctpo.methods import METHODS
from experiments.compose import composed_sweep
from experiments.errors import BadRequest

pytestmark = pytest.mark.slow

#: Runs of each seed.
RUNS = {
    "main_results": 2 * 3,
    "ablation_clip": 3,
    "exponent": 5,
    "base_thresholds": 3,
    "off_policyness": 3 * 4,
    "ratio_family": len(METHODS),
    "demo": 4,
    "cpu_study": 4,
}


@functools.cache
def runs_of(sweep: str, *arguments: str) -> list[DictConfig]:
    """The configuration of each run of one seed."""
    return [config for _, config in composed_sweep([f"sweeps={sweep}", "run.seed=7", *arguments], multirun=False)]


@pytest.mark.parametrize("sweep", sorted(RUNS))
def test_each_run_has_a_directory_of_its_own(sweep: str) -> None:
    found = runs_of(sweep)
    assert len(found) == RUNS[sweep]
    assert len({config.run.dir for config in found}) == len(found)
    assert len({config.trainer.experiment_name for config in found}) == len(found)
    for config in found:
        assert config.run.sweep == sweep
        assert Path(config.run.dir).parts[-4:-1] == (sweep, config.run.model, config.run.method)


def test_the_main_grid_is_the_papers() -> None:
    found = runs_of("main_results")
    assert {(config.run.model, config.method.name) for config in found} == {
        (model, method) for model in ("qwen3_4b", "qwen3_14b") for method in ("grpo", "gspo", "ctpo")
    }


def test_points_keep_settings_together() -> None:
    found = runs_of("ablation_clip")
    windows = {(config.run.method, *map(float, dict(config.method.window).values())) for config in found}
    assert windows == {
        ("ctpo", 0.025, 0.05, 0.5),
        ("ctpo_fixed", 0.5, 5.0),
        ("ctpo_fixed-ppo_range", 0.8, 1.2),
    }
    assert all(config.run.model == "qwen3_14b" for config in found)


def test_swept_values_name_the_directory_and_are_in_the_configuration() -> None:
    exponents = {config.run.method: config.method.window.power for config in runs_of("exponent")}
    assert exponents == {"ctpo-p0.0": 0.0, "ctpo-p0.25": 0.25, "ctpo-p0.5": 0.5, "ctpo-p0.75": 0.75, "ctpo-p1.0": 1.0}
    updates = {config.run.method: config.method.position_stats.max_updates for config in runs_of("off_policyness")}
    assert updates["grpo-updates1"] == 1
    assert updates["ctpo-updates16"] == 16


def test_the_command_line_wins_over_a_sweeps_points() -> None:
    found = runs_of("ablation_clip", "model=tiny", "run.variant=mine")
    assert len(found) == 3
    assert {(config.run.seed, config.run.model, config.run.variant) for config in found} == {(7, "tiny", "mine")}


MINE = """\
run:
  sweep: mine
  variant: lr${actor_rollout_ref.actor.optim.lr}
hydra:
  sweeper:
    params: {method: "ctpo,grpo", actor_rollout_ref.actor.optim.lr: "1e-4,4e-4"}
"""


@pytest.mark.parametrize("name", ["mine.yaml", "two words.yml", "it's (1) é.yaml"])
def test_a_sweep_is_any_yaml_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(MINE)
    found = [config for _, config in composed_sweep([f"sweeps={tmp_path / name}"], multirun=False)]
    assert {Path(config.run.dir).parts[-4:] for config in found} == {
        ("mine", "tiny", f"{method}-lr{rate}", "seed0") for method in ("ctpo", "grpo") for rate in (0.0001, 0.0004)
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "mine.yaml: No such file or directory; or name one of ablation_clip,"),
        ("run: [1", "mine.yaml: is not YAML"),
        ("- ctpo", "mine.yaml: is not a file of `name: value` lines"),
        ("hydra: {sweeper: {params: {run.sed: '0,1'}}}", "run.sed=0,1: no such field; do you mean run.seed?"),
    ],
)
def test_a_file_that_is_no_sweep_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(BadRequest) as refused:
        composed_sweep([f"sweeps={tmp_path}/mine.yaml"])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
