"""Peak memory of real training steps on the CPU: ``python real_step.py '[[settings, tokens, checkpointing], ...]'``.

Two steps each of forward, log-probabilities, backward, clipping and AdamW in float32, as verl's engine makes them;
prints a JSON list of the bytes by which the second step's peak of resident memory exceeds what the process had before
the model was built.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def build(settings: dict[str, Any], checkpointing: bool) -> Any:
    fields = {name: value for name, value in settings.items() if name != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **fields), attn_implementation="sdpa")
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def step(model: Any, optimizer: torch.optim.Optimizer, tokens: int) -> None:
    ids = torch.randint(0, model.config.vocab_size, (1, tokens))
    logits = model(input_ids=ids, use_cache=False).logits
    log_probs = torch.log_softmax(logits, dim=-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    del logits
    (-log_probs.mean()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def peak(settings: dict[str, Any], tokens: int, checkpointing: bool) -> int:
    # What libraries set up on first use is not the model's.
    small = build(settings | {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64}, checkpointing)
    step(small, torch.optim.AdamW(small.parameters()), 64)
    del small
    gc.collect()
    before = resident("VmRSS")
    model = build(settings, checkpointing)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    step(model, optimizer, tokens)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    step(model, optimizer, tokens)
    return resident("VmHWM") - before


if __name__ == "__main__":
    print(json.dumps([peak(*case) for case in json.loads(sys.argv[1])]))
