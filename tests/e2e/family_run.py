"""One training run in which every method trains a few steps: Ray, verl and vLLM start once for all of them.

`python -m tests.e2e.family_run RUN_DIR`. Before each method the weights and the optimizer are what they were at the
start, so that methods see alike conditions; what else a method's configuration changes is swapped as well.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments import resolvers

PROJECT = Path(__file__).resolve().parents[2]
STEPS = 3
SMALL = (
    "model=tiny", "run.sweep=e2e", "data.train_batch_size=4", "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
    "trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1", "trainer.logger=[console]",
    # Far enough off policy in one update that every trust region has something to do.
    "actor_rollout_ref.actor.optim.lr=1e-3", "actor_rollout_ref.actor.ppo_epochs=2",
)  # fmt: skip
CUSTOM = ("method=custom", "method.import_path=my_ratio:method", f"method.search_path={PROJECT}/experiments/examples")


def schedule() -> list[tuple[str, ...]]:
    """Command-line choices of every method, in the order in which they train."""
    from ctpo.methods import METHODS

    return [*((f"method={name}",) for name in METHODS), CUSTOM]


def composed(choice: tuple[str, ...], run_dir: str) -> DictConfig:
    with initialize_config_dir(str(PROJECT / "experiments" / "configs"), version_base="1.3"):
        return compose("run", [*SMALL, *choice, f"run.dir={run_dir}"])


def main(run_dir: str) -> None:
    import ctpo.training.trainer
    from experiments import launch

    resolvers.register()
    configs = [composed(choice, run_dir) for choice in schedule()]
    config = configs[0]
    with open_dict(config):
        config.trainer.total_training_steps = STEPS * len(configs)
        config.trainer.v1.trainer_mode = "family"
        # Resolved one by one: each refers to its own method.
        config.family = [
            {
                "actor": OmegaConf.to_container(each.actor_rollout_ref.actor, resolve=True),
                "std_normalised": each.algorithm.norm_adv_by_std_in_grpo,
            }
            for each in configs
        ]
    setattr(ctpo.training.trainer, "Runner", family_runner())  # noqa: B010
    # Preflight would refuse the trainer and the schedule, which no user can ask for.
    launch.request_problems = lambda configs: []
    launch.launch([config])


def family_runner() -> Any:
    """The task runner with this file's trainer registered in its process."""
    from ctpo.training.trainer import Runner

    class FamilyRunner(Runner):
        def run(self, config: DictConfig) -> Any:
            register_family_trainer()
            return super().run(config)

    return FamilyRunner


def family_worker() -> Any:
    """The actor worker that can start anew with another method."""
    import torch
    from verl.single_controller.base.decorator import Dispatch, register
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.utils.losses import ppo_loss

    from ctpo.training.worker import RecordingActorWorker, _LossWithFolds

    class FamilyWorker(RecordingActorWorker):
        @register(dispatch_mode=Dispatch.ONE_TO_ALL)
        def start_anew(self, actor: dict[str, Any]) -> str:
            """Initial weights, an empty optimizer and this actor configuration; returns the method's name."""
            parameters = dict(self.actor.engine.module.named_parameters())
            with torch.no_grad():
                if not hasattr(self, "_initial"):
                    self._initial = {name: parameter.detach().clone() for name, parameter in parameters.items()}
                for name, parameter in parameters.items():
                    parameter.copy_(self._initial[name])
            self.actor.engine.optimizer.state.clear()
            self._actor_config = omega_conf_to_dataclass(OmegaConf.create(actor))
            self.loss_fn = partial(ppo_loss, config=self._actor_config)
            self.actor.set_loss_fn(_LossWithFolds(self.loss_fn, self.actor))
            return self._actor_config.resolved_method.name

    return FamilyWorker


def register_family_trainer() -> None:
    """Register the trainer that goes from method to method as verl's `family`."""
    import ray
    from verl.trainer.ppo.v1 import register_trainer

    from ctpo.positions.calibration import Calibration
    from ctpo.training.actor_config import method_from_config
    from ctpo.training.trainer import RecordingTrainer

    @register_trainer("family")
    class FamilyTrainer(RecordingTrainer):
        def _init_resource_pool_mgr(self) -> None:
            super()._init_resource_pool_mgr()
            for role in self.role_worker_mapping:
                if "actor" in str(role):
                    self.role_worker_mapping[role] = ray.remote(family_worker())

        def on_init_end(self) -> None:
            self._choose(0)
            super().on_init_end()

        def on_step_end(self) -> None:
            following, within = divmod(self.global_steps, STEPS)
            if within == 0 and following < len(self.config.family):
                self._choose(following)
            super().on_step_end()  # sends the weights, those of the start for a new method, to the sampler

        def _choose(self, index: int) -> None:
            chosen = self.config.family[index]
            with open_dict(self.config):
                self.config.method = chosen.actor.method
                self.config.algorithm.norm_adv_by_std_in_grpo = chosen.std_normalised
                self.config.actor_rollout_ref.actor.loss_agg_mode = chosen.actor.loss_agg_mode
            method = method_from_config(chosen.actor.method)
            self._calibration = Calibration.of(method, self.config.method.position_stats.max_position)
            names = self.actor_rollout_wg.start_anew(OmegaConf.to_container(chosen.actor))
            assert set(names) == {method.name}, names


if __name__ == "__main__":
    main(sys.argv[1])
