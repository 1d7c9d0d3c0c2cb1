"""verl's task runner with this project's trainer registered in its process."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from verl.trainer import main_ppo


class Runner(main_ppo.TaskRunnerV1.__ray_metadata__.modified_class):
    """Runs in a Ray actor of its own, so what the driver registered is not registered here."""

    def run(self, config: DictConfig) -> Any:
        from ctpo import plugin

        plugin.register_trainer()
        return super().run(config)
