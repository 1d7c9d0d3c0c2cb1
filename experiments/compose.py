"""Composed configurations without Hydra's command line: one request, or all runs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from experiments import resolvers

CONFIGS = Path(__file__).parent / "configs"


class ComposeError(ValueError):
    """The overrides name a group, choice or field that does not exist; the message is one line."""


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration of one run.

    Raises:
        ComposeError: it cannot be composed.
    """
    resolvers.register()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("run", overrides=list(overrides))
    except HydraException as error:
        raise ComposeError(_one_line(error)) from error


def composed_sweep(overrides: Sequence[str]) -> list[tuple[list[str], DictConfig]]:
    """Every run that `overrides` ask for, as `experiments/run.py -m` would: with what tells it apart.

    A sweep's `hydra.sweeper.params` are a grid, its `hydra.sweeper.points` lists of overrides that go together; commas
    in `overrides` are a grid as well, and win over both.
    """
    resolvers.register()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
            parsed = parser.parse_overrides(list(overrides))
            fixed = [str(item.input_line) for item in parsed if not item.is_sweep_override()]
            given = {item.get_key_element() for item in parsed}
            sweeper = compose("run", overrides=fixed, return_hydra_config=True).hydra.sweeper
            grid = {name: value for name, value in (sweeper.get("params") or {}).items() if name not in given}
            points: list[list[str]] = [list(point) for point in sweeper.get("points") or [[]]]
            swept = [str(item.input_line) for item in parsed if item.is_sweep_override()]
            runs = []
            for point in points:
                own = [*(f"{k}={v}" for k, v in grid.items()), *point, *swept]
                (combinations,) = BasicSweeper.split_arguments(parser.parse_overrides(own), None)
                runs += [(each, compose("run", overrides=[*fixed, *each])) for each in combinations]
            return runs
    except HydraException as error:
        raise ComposeError(_one_line(error)) from error


def _one_line(error: HydraException) -> str:
    # Hydra's message goes on with a long search path; some of its errors have their text in the cause alone.
    text = str(error) or str(error.__cause__)
    return " ".join(text.split("Config search path")[0].split())
