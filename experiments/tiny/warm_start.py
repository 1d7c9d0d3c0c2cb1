"""Supervised warm start on demonstrations, the loss on the model's own tokens only."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.tiny.demonstrations import Demonstration, demonstrate
from experiments.tiny.problems import draw
from experiments.tiny.spec import Quality, TinyModelSpec
from experiments.tiny.tokenizer import ChatPieces

_CHUNK_BATCHES = 16
_WARMUP_STEPS = 50
_FLOOR = 0.05
_CLEAN = Quality(misread=0.0, mental=0.0, failing_call=0.0, second_call=0.3)


@dataclass(frozen=True)
class Trajectory:
    """Token ids of prompt and response, and which of them the model generated (1) or was given (0)."""

    ids: list[int]
    model_mask: list[int]


def tokenize(pieces: ChatPieces, demonstration: Demonstration) -> Trajectory:
    """The demonstration as exactly the token stream of a rollout (see `ChatPieces`)."""
    ids = pieces.prompt(demonstration.question)
    mask = [0] * len(ids)
    for i, turn in enumerate(demonstration.turns):
        if i:
            given = pieces.observation(demonstration.observations[i - 1])
            ids += given
            mask += [0] * len(given)
        own = pieces.turn(turn)
        ids += own
        mask += [1] * len(own)
    return Trajectory(ids, mask)


def warm_start(
    model: Any, tokenizer: Any, spec: TinyModelSpec, report: Callable[[float], None] = lambda loss: None
) -> None:
    """Train `model` in place for `spec.steps` steps; `report` gets the mean loss (nats per token) of each.

    Muon (Jordan et al. 2024, `torch.optim.Muon`) for the matrices, AdamW for embeddings and norms.
    Deterministic for a given machine and `spec`.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    taken = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in taken]
    optimizers = (
        (torch.optim.Muon(matrices, lr=spec.muon_lr, weight_decay=0.01, momentum=0.95), spec.muon_lr),
        (
            torch.optim.AdamW(others, lr=spec.adamw_lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
            spec.adamw_lr,
        ),
    )
    batches = demonstration_batches(spec, ChatPieces(tokenizer), tokenizer.pad_token_id)
    with _one_thread():
        model.train()
        for step in range(spec.steps):
            scale = _schedule(step, spec.steps)
            for optimizer, peak in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = peak * scale
            loss = batch_loss(model, *next(batches))
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, _ in optimizers:
                optimizer.step()
            report(loss.item())
        model.eval()


def batch_loss(model: Any, ids: Tensor, model_mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of the model's own tokens. `ids`, `model_mask`: [batch, length].

    Rows are padded on the right, so causal attention alone keeps padding out and no attention mask is needed.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = model_mask[:, 1:].bool()
    return F.cross_entropy(model.lm_head(hidden[targets]).float(), ids[:, 1:][targets])


def demonstration_batches(spec: TinyModelSpec, pieces: ChatPieces, pad_id: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches; rows of like length go together, so that little padding is computed.

    Copying operands is learnt several times faster from demonstrations without flaws, and the flaws in a few
    hundred steps after that. The change comes at the end of a chunk of batches.
    """
    rng = random.Random(f"demonstrations {spec.seed}")
    size = spec.batch_size
    for first_step in itertools.count(0, _CHUNK_BATCHES):
        quality = _CLEAN if first_step < spec.clean_steps else spec.quality
        rows = []
        for _ in range(size * _CHUNK_BATCHES):
            demonstration = demonstrate(rng, draw(rng, "train"), quality, spec.tool_output_chars)
            rows.append(tokenize(pieces, demonstration))
        rows.sort(key=lambda row: len(row.ids))
        chunk = [_pad(rows[i : i + size], pad_id) for i in range(0, len(rows), size)]
        rng.shuffle(chunk)
        yield from chunk


def _pad(rows: list[Trajectory], pad_id: int) -> tuple[Tensor, Tensor]:
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = torch.tensor(row.model_mask)
    return ids, mask


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 5 %; a factor on each optimizer's peak learning rate."""
    cosine = (1 + math.cos(math.pi * step / steps)) / 2
    return min(1.0, (step + 1) / _WARMUP_STEPS) * max(_FLOOR, cosine)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A second thread loses more on a busy machine than it gains on an idle one, and changes last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
