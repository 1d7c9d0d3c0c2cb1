"""Sampling, batches and lengths of a request against each other."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

#: Advantage estimators that need no second response to a prompt.
WITHOUT_GROUPS = ("reinforce_plus_plus",)


def batch_problems(config: DictConfig) -> Iterator[str]:
    """Batches that do not divide, and sequences longer than what holds them."""
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


def sampling_problems(config: DictConfig) -> Iterator[str]:
    """A sampler that is not the policy: its ratios are biased at every token, and their products the more."""
    rollout = config.actor_rollout_ref.rollout
    for name, value, whole in (("top_p", rollout.top_p, 1.0), ("top_k", rollout.top_k, -1)):
        if value != whole:
            yield (
                f"actor_rollout_ref.rollout.{name}={value}: training would sample from a truncated distribution and "
                f"take log-probabilities of the whole one, so that no ratio has mean 1; use {whole}"
            )


def _nearest_divisor(total: int, wanted: int) -> int:
    return min((d for d in range(1, total + 1) if total % d == 0), key=lambda d: (abs(d - wanted), d))
