"""What can be known to be wrong with a run before anything is started. All problems at once, each with its fix.

`check_request` needs nothing but the composed configuration (under 5 s, also for a model that is not here);
`check_inputs` looks at the model and the data once they are on disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf


def check_request(config: DictConfig) -> list[str]:
    """Problems of the configuration itself and of this machine: one message each, empty when there are none."""
    values = list(_values(config))
    batches = [] if values else list(_batches(config))  # which compute with those values
    return [*_hardware(config), *values, *batches, *_method(config), *_sandbox(config)]


def check_inputs(config: DictConfig) -> list[str]:
    """Problems of model and data against the configuration. Rows are checked where `prepare` reads them."""
    return [*_model(config), *_data(config)]


def visible_gpus() -> int:
    """NVIDIA GPUs that this process may use, without importing torch."""
    present = len([name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()])
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    return min(present, len([entry for entry in chosen.split(",") if entry.strip() not in ("", "-1")]))


def _hardware(config: DictConfig) -> Iterator[str]:
    wanted = config.trainer.n_gpus_per_node
    if config.slurm.submits:
        return  # it trains on another machine, which is checked when the job starts there
    if config.trainer.device != "cpu" and visible_gpus() < wanted:
        yield (
            f"trainer.n_gpus_per_node={wanted}: this machine has {visible_gpus()} NVIDIA GPUs for "
            f"model={config.run.model}.\n"
            "  Either submit to a cluster with slurm=h100_node, or train here on the CPU with model=tiny."
        )


def _values(config: DictConfig) -> Iterator[str]:
    positive = (
        "data.train_batch_size", "data.max_prompt_length", "data.max_response_length",
        "actor_rollout_ref.rollout.n", "actor_rollout_ref.rollout.val_kwargs.n", "trainer.total_training_steps",
        "actor_rollout_ref.actor.ppo_mini_batch_size", "actor_rollout_ref.actor.ppo_epochs",
        "records.position_stats_every", "trainer.n_gpus_per_node", "trainer.nnodes",
    )  # fmt: skip
    for field in positive:
        value = OmegaConf.select(config, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            yield f"{field}={value}: must be a whole number of at least 1"
    lr = config.actor_rollout_ref.actor.optim.lr
    if not isinstance(lr, int | float) or lr < 0:
        yield f"actor_rollout_ref.actor.optim.lr={lr}: must be a number of at least 0"
    if config.run.preflight not in ("run", "only"):
        yield f"run.preflight={config.run.preflight}: must be run or only"


def _batches(config: DictConfig) -> Iterator[str]:
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    prompts, mini = config.data.train_batch_size, actor.ppo_mini_batch_size
    processes = config.trainer.n_gpus_per_node * config.trainer.nnodes
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
    longest = config.data.max_prompt_length + config.data.max_response_length
    if rollout.max_model_len is not None and longest > rollout.max_model_len:
        yield (
            f"data.max_response_length={config.data.max_response_length}: with data.max_prompt_length="
            f"{config.data.max_prompt_length} a sequence can reach {longest} tokens, more than "
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len}; raise that or shorten this"
        )


def _nearest_divisor(total: int, wanted: int) -> int:
    return min((d for d in range(1, total + 1) if total % d == 0), key=lambda d: (abs(d - wanted), d))


def _plain(node: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def _method(config: DictConfig) -> Iterator[str]:
    from ctpo.methods import MethodError, configure

    settings = _plain(config.method)
    settings.pop("position_stats", None)
    try:
        method = configure(settings.pop("name"), settings)
    except MethodError as error:
        yield str(error)
        return
    chosen = config.actor_rollout_ref.actor.loss_agg_mode
    if chosen != method.aggregation:
        yield (
            f"actor_rollout_ref.actor.loss_agg_mode={chosen}: method {method.name} is defined with "
            f"{method.aggregation}; leave the field to the method"
        )


def _sandbox(config: DictConfig) -> Iterator[str]:
    from ctpo.sandbox import SandboxUnavailable, require_isolation
    from ctpo.tir.config import TirConfig

    try:
        TirConfig.from_node(_plain(config.tir))
    except ValueError as error:
        yield str(error)
    try:
        require_isolation()
    except SandboxUnavailable as error:
        yield str(error)


def _data(config: DictConfig) -> Iterator[str]:
    import pyarrow.parquet as pq

    rows = sum(pq.read_metadata(path).num_rows for path in config.data.train_files)
    if rows < config.data.train_batch_size:
        yield (
            f"data.train_batch_size={config.data.train_batch_size}: the training data has {rows} problems; "
            "use at most as many"
        )


def _model(config: DictConfig) -> Iterator[str]:
    path = Path(config.actor_rollout_ref.model.path)
    if not path.is_dir():
        return  # a hub id: verl downloads it
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (path / name).is_file()]
    if missing or not list(path.glob("*.safetensors")):
        missing += [] if list(path.glob("*.safetensors")) else ["*.safetensors"]
        yield f"actor_rollout_ref.model.path={path}: lacks {', '.join(missing)}; name a complete Hugging Face folder"
        return
    settings: dict[str, Any] = json.loads((path / "config.json").read_text())
    context = settings.get("max_position_embeddings")
    longest = config.data.max_prompt_length + config.data.max_response_length
    if context is not None and longest > context:
        yield (
            f"data.max_response_length={config.data.max_response_length}: with data.max_prompt_length="
            f"{config.data.max_prompt_length} a sequence can reach {longest} tokens, beyond the model's context of "
            f"{context}; use at most {context - config.data.max_prompt_length}"
        )
