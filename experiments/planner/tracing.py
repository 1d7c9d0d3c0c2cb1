"""Peak memory of one training step, found by running it on the meta device and counting every storage.

Nothing is estimated about the model: the installed transformers and torch run their own forward and backward on
tensors that have shapes and no memory, and a dispatch mode adds up what is alive. `tests/unit/experiments/
test_plan_memory.py` compares it with the resident memory of real steps.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

ATTENTION = "ctpo_memory_efficient"


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that were made under it and still exist; `peak` since the last `mark`."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {id(x.untyped_storage()) for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)}
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), inputs)
        return result

    def _count(self, storage: Any, inputs: set[int]) -> None:
        key = id(storage)
        if key in self._sizes or key in inputs:
            return
        size = storage.nbytes()
        self._sizes[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def mark(self) -> int:
        """The peak since the last mark (or the start)."""
        peak, self.peak = self.peak, self.live
        return peak


class _Attention(torch.autograd.Function):
    """Memory of a fused attention kernel (flash, or torch's for the CPU): inputs, output and one float32 per query are
    kept; no matrix of scores exists."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> tuple[Any, None]:
    # [batch, heads, tokens, dim] in, [batch, tokens, heads, dim] out, as transformers' attention functions.
    return _Attention.apply(query, key, value).transpose(1, 2).contiguous(), None


def register_attention() -> str:
    """Give transformers an attention function that runs on the meta device; returns its name."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, lambda *args, **kwargs: None)
    return ATTENTION


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one device, beyond weights and optimizer state, that one micro-batch needs.

    `kept`: activations kept for the backward pass when the forward pass through the layers ends. `head`: peak while
    logits, loss and their backward run, `kept` included. `backward`: peak of the backward pass through the layers.
    """

    kept: int
    head: int
    backward: int

    @property
    def peak(self) -> int:
        return max(self.kept, self.head, self.backward)


def trace_step(
    model: Any, tokens: int, *, checkpointing: bool, chunked_logits: bool, keep_gradients: bool, sequences: int = 1
) -> StepMemory:
    """Run forward, loss and backward of one micro-batch of `sequences` x `tokens` on the meta device.

    Args:
        model: from `empty_model(settings, register_attention())`, in the dtype that the layers compute in.
        keep_gradients: count parameters' gradients (one device without FSDP); otherwise each is released as soon as
            it is complete, and the caller adds what FSDP keeps of them.
    """
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    counter = LiveBytes()
    ids = torch.empty(sequences, tokens, dtype=torch.long, device="meta")
    with _gradients(model, keep_gradients), counter:
        # A mapping of masks passes as it is; building one would look at values, which the meta device has not.
        masks = {"full_attention": None}
        hidden = model.model(input_ids=ids, attention_mask=masks, use_cache=False).last_hidden_state
        kept = counter.live
        counter.mark()
        detached = hidden.detach().requires_grad_()
        _head_loss(model, detached, ids, chunked_logits).backward()
        head = counter.mark()
        gradient = detached.grad
        del detached
        hidden.backward(gradient)
        del hidden, gradient
        backward = counter.mark()
    return StepMemory(kept, head, backward)


def _head_loss(model: Any, hidden: torch.Tensor, ids: torch.Tensor, chunked: bool) -> torch.Tensor:
    """Log-probabilities of the tokens and a loss over them, as verl's FSDP engine computes them."""
    if chunked:
        from verl.utils.experimental.torch_functional import FusedLinearForPPO

        log_probs, _ = FusedLinearForPPO()(hidden, model.lm_head.weight, ids)
        return log_probs.sum()
    logits = model.lm_head(hidden)
    log_probs = torch.nn.functional.log_softmax(logits, dim=-1)
    return log_probs.gather(-1, ids.unsqueeze(-1)).squeeze(-1).sum()


@contextlib.contextmanager
def _gradients(model: Any, keep: bool) -> Iterator[None]:
    """Release each parameter's gradient once it is complete, as FSDP does after reducing it, unless `keep`."""

    def release(parameter: torch.Tensor) -> None:
        parameter.grad = None

    hooks = [] if keep else [p.register_post_accumulate_grad_hook(release) for p in model.parameters()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in model.parameters():
            parameter.grad = None
