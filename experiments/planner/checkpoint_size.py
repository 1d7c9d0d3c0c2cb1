"""Size of checkpoints from a model's `config.json`, without torch: for checks that must be quick."""

from __future__ import annotations

from typing import Any

FLOAT32 = 4


def exact_parameters(settings: dict[str, Any]) -> int:
    """Parameters of a Qwen3 of these settings; equal to those of the model on the meta device (a test says so)."""
    hidden, mlp, vocabulary = settings["hidden_size"], settings["intermediate_size"], settings["vocab_size"]
    dim, heads, kv_heads = settings["head_dim"], settings["num_attention_heads"], settings["num_key_value_heads"]
    attention = 2 * hidden * dim * (heads + kv_heads)
    norms = 2 * hidden + 2 * dim
    layer = attention + 3 * hidden * mlp + norms
    embeddings = vocabulary * hidden * (1 if settings.get("tie_word_embeddings") else 2)
    return settings["num_hidden_layers"] * layer + embeddings + hidden


def bytes_of_checkpoint(parameters: int) -> int:
    """verl saves the float32 weights and Adam's two moments."""
    return 3 * FLOAT32 * parameters


def bytes_of_checkpoints(parameters: int, kept: int) -> int:
    """At most at one time: the newest `kept`, the best, and one being written."""
    return (kept + 2) * bytes_of_checkpoint(parameters)
