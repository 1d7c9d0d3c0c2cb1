"""What this project adds to Hydra. Hydra takes plugins from the namespace `hydra_plugins` alone, and finds this folder
because ``python experiments/run.py`` puts its parent on the module path. It is read at every start: imports are late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class PointsSweeper(BasicSweeper):
    """Hydra's grid of `params`, times a list of `points`: each a list of overrides that go together.

    What the command line sets wins over both, as it does over `params`.
    """

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None = None, points: Sequence[Sequence[str]] = ()
    ) -> None:
        super().__init__(max_batch_size, params)
        self.points = [list(point) for point in points]

    def sweep(self, arguments: list[str]) -> Any:
        given = {argument.partition("=")[0].lstrip("+~") for argument in arguments}
        self.points = [[item for item in point if item.partition("=")[0] not in given] for point in self.points]
        return super().sweep(arguments)

    def split_arguments(  # type: ignore[override]  # Hydra's is static, and called through the instance
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        runs: list[list[str]] = []
        for point in self.points or [[]]:
            (grid,) = BasicSweeper.split_arguments([*overrides, *parser.parse_overrides(point)], None)
            runs += [run for run in grid if run not in runs]
        return list(BasicSweeper.split_overrides_to_chunks(runs, max_batch_size))


class SubmittingLauncher(Launcher):
    """Submits all runs of a sweep to the cluster of `slurm` and returns, instead of running them."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        from experiments.submission.submit import submit

        submit([self._composed(overrides) for overrides in job_overrides])
        return []

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            del config["hydra"]
        OmegaConf.set_readonly(config, False)
        return config
