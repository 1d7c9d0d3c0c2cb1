"""The planner's memory model against the resident memory of real training steps, at three sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from experiments.planner.shapes import empty_model, shapes_of
from experiments.planner.tracing import register_attention, trace_step

pytestmark = pytest.mark.slow

WITHIN = 0.15


@dataclass(frozen=True)
class Size:
    hidden: int
    layers: int
    mlp: int
    heads: int
    kv_heads: int
    vocabulary: int
    tokens: int
    tied: bool

    def settings(self) -> dict:
        return {
            "model_type": "qwen3",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "intermediate_size": self.mlp,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": 64,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": 4096,
        }


SIZES = (
    Size(256, 4, 768, 4, 2, 4096, 768, tied=True),
    Size(384, 6, 1152, 6, 3, 16384, 512, tied=False),
    Size(512, 8, 1536, 8, 2, 8192, 768, tied=True),
)


def measured(cases: list[tuple[Size, bool]]) -> list[int]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        # Freed memory goes back to the system at once, so that resident memory is what is in use.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
    }
    script = Path(__file__).with_name("real_step.py")
    wanted = json.dumps([[size.settings(), size.tokens, checkpointing] for size, checkpointing in cases])
    done = subprocess.run([sys.executable, str(script), wanted], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def predicted(size: Size, checkpointing: bool) -> int:
    """Weights, two moments and the traced peak, which has the gradients in it where nothing shards them."""
    settings = size.settings()
    shapes = shapes_of(settings)
    model = empty_model(settings, register_attention()).to(torch.float32)
    traced = trace_step(model, size.tokens, checkpointing=checkpointing, chunked_logits=False, keep_gradients=True)
    weights = 4 * shapes.total
    # While the optimizer steps there are gradients, two temporaries of one parameter, and no activations.
    return 3 * weights + max(traced.peak, weights + 2 * 4 * shapes.embedding)


@pytest.mark.timeout(600)
def test_peak_memory_of_real_steps_is_predicted() -> None:
    cases = [(size, checkpointing) for size in SIZES for checkpointing in (True, False)]
    report = [
        (size, checkpointing, real, predicted(size, checkpointing))
        for (size, checkpointing), real in zip(cases, measured(cases), strict=True)
    ]
    for size, checkpointing, real, expected in report:
        print(f"{size}, checkpointing {checkpointing}: {real / 1e6:.0f} MB, predicted {expected / 1e6:.0f} MB")
    assert all(abs(expected / real - 1) < WITHIN for *_, real, expected in report), report
