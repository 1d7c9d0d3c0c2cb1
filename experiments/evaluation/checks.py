"""What can be known to be wrong with an evaluation before anything is started, and what decides its samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ctpo.tir.prompts import END_OF_TURN
from experiments import preflight
from experiments.evaluation.problems import Benchmark


def check_settings(config: DictConfig) -> Iterator[str]:
    """Problems of how the job is started: one message each, with field, value and fix."""
    if config.dry_run:
        yield "dry_run=true: an evaluation has none; evaluation.problems=1 evaluation.k=1 draws one sample"
    if config.slurm.executor != "none":
        yield (
            f"slurm={config.slurm.profile}: evaluations are not submitted from here. Give the command to sbatch:\n"
            "  sbatch --gpus-per-node=8 --wrap '.venv/bin/python experiments/evaluate.py ... evaluation.shard=0/4'"
        )


def check_machine(config: DictConfig) -> list[str]:
    """What preflight finds wrong with the request and this machine. The model of an evaluation is found later."""
    rollout = config.copy()
    with open_dict(rollout):
        rollout.model_spec = {"kind": "tiny"}
    return preflight.check_request(rollout)


def check_model(config: DictConfig, folder: Path, benchmarks: list[Benchmark]) -> list[str]:
    """Problems of the model in `folder` with this configuration and these problems."""
    return list(_model(config, folder, benchmarks))


def _model(config: DictConfig, folder: Path, benchmarks: list[Benchmark]) -> Iterator[str]:
    from transformers import AutoTokenizer

    named = f"evaluation.checkpoint={config.evaluation.checkpoint or folder}"
    trusted = config.actor_rollout_ref.model.trust_remote_code
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    if not tokenizer.chat_template:
        yield (
            f"{named}: its tokenizer has no chat template, so there is no way to ask it; evaluate an instruction-tuned "
            "model, or put its chat_template.jinja beside tokenizer_config.json"
        )
        return
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    if end is None or end == tokenizer.unk_token_id:
        yield f"{named}: its tokenizer has no {END_OF_TURN}; the agent loop needs a ChatML model"
    longest = config.data.max_prompt_length
    options: Any = OmegaConf.to_container(config.data.apply_chat_template_kwargs)
    for benchmark in benchmarks:
        for row in benchmark.rows:
            text = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True, **options)
            length = len(tokenizer.encode(text, add_special_tokens=False))
            if length > longest:
                # verl would cut its beginning off without a word.
                yield (
                    f"data.max_prompt_length={longest}: problem {row['extra_info']['problem_id']} of {benchmark.name} "
                    f"has {length} tokens; use at least {length}"
                )
                break
    context = json.loads((folder / "config.json").read_text()).get("max_position_embeddings")
    total = longest + config.data.max_response_length
    if context is not None and total > context:
        yield (
            f"evaluation.max_response_length={config.data.max_response_length}: with data.max_prompt_length={longest} "
            f"a sequence can reach {total} tokens, beyond the model's context of {context}; "
            f"use at most {context - longest}"
        )


def identity(config: DictConfig, fingerprint: str, benchmark: Benchmark) -> dict[str, Any]:
    """Everything that decides the samples of a benchmark: jobs and restarts must agree in it."""
    node = OmegaConf.to_container(config.evaluation, resolve=True)
    assert isinstance(node, dict)
    names = ("k", "temperature", "top_p", "max_turns", "max_response_length", "seed")
    tir: Any = OmegaConf.to_container(config.tir, resolve=True)
    tir["sandbox"].pop("concurrency", None)
    return {
        "evaluation": {name: node[name] for name in names},
        "weights": fingerprint,
        "problems": {"number": len(benchmark.rows), "digest": benchmark.digest},
        "max_prompt_length": config.data.max_prompt_length,
        "chat_template": OmegaConf.to_container(config.data.apply_chat_template_kwargs),
        "top_k": config.actor_rollout_ref.rollout.val_kwargs.top_k,
        "dtype": config.actor_rollout_ref.rollout.dtype,
        "tir": tir,
    }
