"""Every file of `sweeps/` expands, as the command does it, to runs with directories of their own."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig

from ctpo.methods import METHODS
from experiments import resolvers

ROOT = Path(__file__).resolve().parents[4]
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
    """The composed configuration of each run of one seed, by Hydra's own loader and this project's sweeper."""
    resolvers.register()
    Plugins.instance()  # it loads Hydra's own plugins anew, so what derives from them is imported after it
    from experiments.hydra_plugins.ctpo_submission import PointsSweeper

    loader = ConfigLoaderImpl(create_config_search_path(str(ROOT / "experiments" / "configs")))
    overrides = [f"sweeps={sweep}", "run.seed=7", *arguments]
    config = loader.load_configuration("run", overrides=overrides, run_mode=RunMode.MULTIRUN)
    found: list[DictConfig] = []

    class Collector:
        def launch(self, job_overrides: list[list[str]], initial_job_idx: int) -> list[Any]:
            found.extend(loader.load_sweep_config(config, list(overrides)) for overrides in job_overrides)
            return []

    sweeper = PointsSweeper(None, dict(config.hydra.sweeper.params), config.hydra.sweeper.points)
    sweeper.hydra_context = type("Context", (), {"config_loader": loader})()
    sweeper.config, sweeper.launcher = config, Collector()  # type: ignore[assignment]
    sweeper.validate_batch_is_legal = lambda batch: None  # type: ignore[method-assign]  # composed once here
    config.hydra.sweep.dir = "unused"
    sweeper.sweep(overrides)
    return found


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # Hydra notes each sweep in its folder


def test_no_sweep_is_forgotten() -> None:
    assert {path.stem for path in (ROOT / "sweeps").glob("*.yaml")} == {*RUNS, "none"}


@pytest.mark.parametrize("sweep", sorted(RUNS))
def test_each_run_has_a_directory_of_its_own(sweep: str) -> None:
    found = runs_of(sweep)
    assert len(found) == RUNS[sweep]
    assert len({config.run.dir for config in found}) == len(found)
    assert len({config.trainer.experiment_name for config in found}) == len(found)
    for config in found:
        assert config.run.sweep == sweep
        assert Path(config.run.dir).parts[-4:-1] == (sweep, config.run.model, config.run.method)


@pytest.mark.parametrize("sweep", sorted(RUNS))
def test_each_sweep_says_what_it_feeds(sweep: str) -> None:
    assert "Feeds " in (ROOT / "sweeps" / f"{sweep}.yaml").read_text()


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
