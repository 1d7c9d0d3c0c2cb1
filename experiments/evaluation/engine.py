"""verl's rollout without a trainer: vLLM servers, reward workers, and the workers that run trajectories."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

if TYPE_CHECKING:
    from experiments.evaluation.worker import EvaluationManager


@contextlib.contextmanager
def rollout(config: dict[str, Any], folder: str) -> Iterator[EvaluationManager]:
    """Servers that have `actor_rollout_ref.model.path` loaded, and workers that draw samples from them.

    Ray is started for it and shut down behind it. `config` is the resolved configuration; `folder` is of the
    surroundings (`experiments.surroundings.of_a_run`) within which this is called.
    """
    import ray
    from verl.experimental.reward_loop import RewardLoopManager
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    import ctpo.tir.agent_loop  # noqa: F401  registers itself with verl
    from experiments.evaluation.worker import EvaluationManager, EvaluationServers, TimedClient
    from experiments.surroundings import ray_settings

    node = OmegaConf.create(config)
    given = config["ray_kwargs"]["ray_init"]
    runtime = OmegaConf.merge(get_ppo_ray_runtime_env(node), given.get("runtime_env", {}))
    ray.init(**ray_settings({**given, "runtime_env": OmegaConf.to_container(runtime)}, folder))
    try:
        rewards = RewardLoopManager(node)
        servers = EvaluationServers.create_empty(node)
        manager = EvaluationManager.create(
            node,
            llm_client=servers.get_client(TimedClient),
            reward_loop_worker_handles=rewards.reward_loop_worker_handles,
        )
        servers.start()
        yield manager
    finally:
        ray.shutdown()
