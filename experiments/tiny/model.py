"""The tiny model: Qwen3's architecture, small enough to train on two CPU cores."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from experiments.tiny.spec import TinyModelSpec


def build_model(spec: TinyModelSpec, tokenizer: Any) -> Qwen3ForCausalLM:
    """A randomly initialised float32 model whose vocabulary is exactly the tokenizer's.

    A vocabulary padded beyond `len(tokenizer)` would give vLLM and trainer different probabilities.
    """
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden_size,
        intermediate_size=spec.mlp_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        model = Qwen3ForCausalLM(config).to(torch.float32)
    # Sampling at temperature 1 is what rollouts do; it is also what a reader of the folder should get.
    model.generation_config.do_sample = True
    return model
