"""Values, batches and lengths of a request against each other."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from experiments.planner.settings import GPU_BYTES
from experiments.values import is_number, is_whole

#: Advantage estimators of verl that need no second response to a prompt.
WITHOUT_GROUPS = ("gae", "reinforce_plus_plus", "remax")


def value_problems(config: DictConfig) -> Iterator[str]:
    """Values that no run can have."""
    positive = (
        "data.train_batch_size", "data.max_prompt_length", "data.max_response_length",
        "actor_rollout_ref.rollout.n", "actor_rollout_ref.rollout.val_kwargs.n", "trainer.total_training_steps",
        "actor_rollout_ref.actor.ppo_mini_batch_size", "actor_rollout_ref.actor.ppo_epochs",
        "records.position_stats_every", "trainer.n_gpus_per_node", "trainer.nnodes",
    )  # fmt: skip
    for field in positive:
        value = OmegaConf.select(config, field)
        if not is_whole(value, 1):
            yield f"{field}={value}: must be a whole number of at least 1"
    if not is_whole(config.run.seed, 0):
        yield f"run.seed={config.run.seed}: must be a whole number of at least 0"
    for field in ("trainer.save_freq", "trainer.test_freq"):
        value = OmegaConf.select(config, field)
        if not is_whole(value):
            yield f"{field}={value}: must be a whole number of steps; -1 for never"
    kept = config.trainer.max_actor_ckpt_to_keep
    if kept is not None and not is_whole(kept, 1):
        yield f"trainer.max_actor_ckpt_to_keep={kept}: must be null (all of them) or a whole number of at least 1"
    share = config.trainer.v1.max_failed_share
    if not is_number(share) or not 0 <= share <= 1:
        yield f"trainer.v1.max_failed_share={share}: must be a number from 0 to 1"
    lr = config.actor_rollout_ref.actor.optim.lr
    if not is_number(lr) or lr < 0:
        yield f"actor_rollout_ref.actor.optim.lr={lr}: must be a number of at least 0"
    size = OmegaConf.select(config, "hardware.gpu_memory_gb")
    if size is not None and size not in GPU_BYTES:
        yield f"hardware.gpu_memory_gb={size}: use one of {', '.join(map(str, GPU_BYTES))}"
    if config.run.preflight not in ("run", "only"):
        yield f"run.preflight={config.run.preflight}: must be run or only"


def batch_problems(config: DictConfig) -> Iterator[str]:
    """Batches that do not divide, and sequences longer than what holds them."""
    if next(value_problems(config), None) is not None:
        return  # what follows computes with those values
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    prompts, mini = config.data.train_batch_size, actor.ppo_mini_batch_size
    processes = config.trainer.n_gpus_per_node * config.trainer.nnodes
    estimator = config.algorithm.adv_estimator
    if rollout.n == 1 and estimator not in WITHOUT_GROUPS:
        yield (
            f"actor_rollout_ref.rollout.n=1: algorithm.adv_estimator={estimator} compares the responses to one prompt "
            "with each other; use at least 2"
        )
    if prompts % mini:
        yield (
            f"actor_rollout_ref.actor.ppo_mini_batch_size={mini}: does not divide data.train_batch_size={prompts}; "
            f"use {_nearest_divisor(prompts, mini)}"
        )
    if (mini * rollout.n) % processes:
        yield (
            f"actor_rollout_ref.actor.ppo_mini_batch_size={mini}: {mini} prompts x {rollout.n} responses do not "
            f"divide over {processes} processes (trainer.n_gpus_per_node x trainer.nnodes)"
        )
    micro, share = actor.ppo_micro_batch_size_per_gpu, mini * rollout.n // processes
    if not actor.use_dynamic_bsz and micro and share % micro:
        yield (
            f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro}: does not divide a process' mini-batch "
            f"of {share} responses; use {_nearest_divisor(share, micro)}"
        )
    budget, parallel = actor.ppo_max_token_len_per_gpu, actor.ulysses_sequence_parallel_size
    tensor = rollout.tensor_model_parallel_size
    if processes % tensor:
        yield (
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={tensor}: does not divide {processes} GPUs; use "
            f"{_nearest_divisor(processes, tensor)}"
        )
    if processes % parallel:
        yield (
            f"actor_rollout_ref.actor.ulysses_sequence_parallel_size={parallel}: does not divide {processes} GPUs; use "
            f"{_nearest_divisor(processes, parallel)}"
        )
    longest = config.data.max_prompt_length + config.data.max_response_length
    if actor.use_dynamic_bsz and longest > budget * parallel:
        yield (
            f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={budget}: a sequence can reach {longest} tokens and "
            f"must fit into one micro-batch; use at least {-(-longest // parallel)}"
        )
    if rollout.max_model_len is not None and longest > rollout.max_model_len:
        yield (
            f"data.max_response_length={config.data.max_response_length}: with data.max_prompt_length="
            f"{config.data.max_prompt_length} a sequence can reach {longest} tokens, more than "
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len}; raise that or shorten this"
        )


def _nearest_divisor(total: int, wanted: int) -> int:
    return min((d for d in range(1, total + 1) if total % d == 0), key=lambda d: (abs(d - wanted), d))
