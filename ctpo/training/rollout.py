"""verl's workers that run trajectories, giving each sample a seed of its own (`ctpo.tir.seeds`).

vLLM draws a request without a seed from one stream for all requests, so that a sample depends on which others happen to
arrive beside it. Selected by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, AgentLoopWorkerTQ

from ctpo.tir.seeds import sample_seed


class SeededAgentLoopWorker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """`AgentLoopWorkerTQ` with seeds: always in validation, in training where ``rollout.seeded`` is set."""

    async def _run_agent_loop(self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any) -> Any:
        validate = bool(trajectory["validate"])
        if validate or self.config.rollout.seeded:
            # A copy: the samples of a prompt share the dictionary.
            seed = seed_of(kwargs, self.config.run.seed, None if validate else int(trajectory["step"]))
            sampling_params = {**sampling_params, "seed": seed}
        return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)


def seed_of(sample: Mapping[str, Any], run_seed: int, step: int | None) -> int:
    """Seed of the sample whose dataset row and `session_id` verl passes on; `step` is None in validation."""
    problem = str(sample["extra_info"]["problem_id"])
    return sample_seed(run_seed, str(sample["data_source"]), problem, int(sample["session_id"]), step)


class SeededAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager of the workers above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(SeededAgentLoopWorker)
