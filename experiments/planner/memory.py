"""Memory of one GPU, by part, in the two phases that share it: training (FSDP2) and generation (vLLM).

Exact: parameter counts; activations, logits and temporaries, which are traced (`experiments.planner.tracing`). From
FSDP2's documented behaviour: sharded float32 weights, gradients and Adam moments; parameters outside the layers
gathered throughout; two layers gathered at a time, a third in transfer. Assumed: context, fragmentation, imbalance
(`Assumptions`).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

from experiments.errors import BadRequest
from experiments.planner.plan_request import GIB, GPU_BYTES, Assumptions, PlanRequest
from experiments.planner.shapes import Shapes, empty_model
from experiments.planner.tracing import StepMemory, register_attention, trace_step

FLOAT32, BFLOAT16 = 4, 2
_TRACED_AT = (2048, 4096)


@dataclass(frozen=True)
class PerToken:
    """Memory of a micro-batch as a line in its tokens, from two traces: bytes that do not depend on them, and bytes
    for each."""

    fixed: StepMemory
    each: StepMemory

    def at(self, tokens: float) -> StepMemory:
        """The step at so many tokens."""
        values = {
            name: int(getattr(self.fixed, name) + tokens * getattr(self.each, name))
            for name in ("kept", "head", "backward")
        }
        return StepMemory(**values)


@functools.cache
def activation_line(settings: str, *, checkpointing: bool, chunked_logits: bool, float32: bool) -> PerToken:
    """Trace the model of `settings` (its `config.json` as text, so that the runs of a sweep share a trace)."""
    import torch

    model = empty_model(json.loads(settings), register_attention()).to(torch.float32 if float32 else torch.bfloat16)
    short, long = (
        trace_step(model, tokens, checkpointing=checkpointing, chunked_logits=chunked_logits, keep_gradients=False)
        for tokens in _TRACED_AT
    )
    span = _TRACED_AT[1] - _TRACED_AT[0]
    slope = {n: (getattr(long, n) - getattr(short, n)) // span for n in ("kept", "head", "backward")}
    start = {n: getattr(short, n) - slope[n] * _TRACED_AT[0] for n in slope}
    return PerToken(StepMemory(**start), StepMemory(**slope))


@dataclass(frozen=True)
class Part:
    """One line of the table: bytes in each phase."""

    name: str
    training: int
    generating: int


@dataclass(frozen=True)
class GpuMemory:
    """All parts on one GPU of `capacity` bytes, and what still fits."""

    capacity: int
    parts: tuple[Part, ...]
    largest_micro_batch: int
    longest: int
    kv_tokens: int

    @property
    def training(self) -> int:
        return sum(part.training for part in self.parts)

    @property
    def generating(self) -> int:
        return sum(part.generating for part in self.parts)

    @property
    def fits(self) -> bool:
        """Whether both phases fit, and vLLM's pool (of its configured share of the memory) holds one whole sequence."""
        return max(self.training, self.generating) <= self.capacity and self.kv_tokens >= self.longest


def gathered_bytes(shapes: Shapes, width: int = BFLOAT16) -> int:
    """What FSDP2 holds unsharded at the worst moment of a backward pass: the parameters outside the layers with their
    gradients, two layers' parameters and one in transfer, one layer's gradients and their float32 copy to reduce."""
    root = shapes.root * width
    layer = shapes.layer * width
    return 2 * root + 3 * layer + layer + shapes.layer * FLOAT32


def per_gpu(
    shapes: Shapes, line: PerToken, request: PlanRequest, assume: Assumptions, gpu_gb: int | None = None
) -> GpuMemory:
    """Memory by part on a GPU with `gpu_gb` on its label (None: the request's).

    Raises:
        BadRequest: a GPU size whose usable memory is not known.
    """
    size = request.gpu_gb if gpu_gb is None else gpu_gb
    if size not in GPU_BYTES:
        raise BadRequest(f"hardware.gpu_memory_gb={size}: use one of {', '.join(map(str, GPU_BYTES))}")
    capacity = GPU_BYTES[size]
    width = FLOAT32 if request.float32 else BFLOAT16
    shard = shapes.total * FLOAT32 // request.gpus
    weights_while_generating = 0 if request.param_offload else shard
    optimizer_while_generating = 0 if request.optimizer_offload else 2 * shard
    context = int(assume.context_gb * GIB)
    lost = int(assume.fragmentation * capacity)
    tokens = request.token_budget * assume.imbalance / request.sequence_parallel
    step = line.at(tokens)
    states = 4 * shard  # weights, gradients, two moments
    fixed = states + gathered_bytes(shapes, width) + 2 * context + lost

    engine_weights = shapes.total * width // request.tensor_parallel
    engine_work = engine_activations(shapes, request)
    beside_engine = weights_while_generating + optimizer_while_generating + 2 * context
    pool = int(request.gpu_memory_utilization * capacity) - engine_weights - engine_work - context
    return GpuMemory(
        capacity=capacity,
        parts=(
            Part("weights, float32, sharded", shard, weights_while_generating),
            Part("gradients, float32, sharded", shard, 0),
            Part("Adam moments, float32, sharded", 2 * shard, optimizer_while_generating),
            Part("gathered by FSDP2, with gradients", gathered_bytes(shapes, width), 0),
            Part("activations kept for backward", step.kept, 0),
            Part("logits and loss, or a layer recomputed", max(step.peak - step.kept, 0), 0),
            Part("vLLM weights", 0, engine_weights),
            Part("vLLM activations and sampler", 0, engine_work),
            Part("vLLM KV pool", 0, max(pool, 0)),
            Part("contexts of both processes, NCCL, graphs", 2 * context, 2 * context),
            Part("lost to fragmentation", lost, 0),
        ),
        largest_micro_batch=largest_micro_batch(line, capacity - fixed, assume.imbalance) * request.sequence_parallel,
        longest=request.longest,
        kv_tokens=kv_pool_tokens(
            shapes, request, min(pool, capacity - beside_engine - engine_weights - engine_work), width
        ),
    )


def largest_micro_batch(line: PerToken, free: int, imbalance: float) -> int:
    """Largest token budget of a micro-batch for which `free` bytes suffice; 0 if none does."""
    room = []
    for name in ("kept", "head", "backward"):
        each = getattr(line.each, name)
        if each > 0:
            room.append((free - getattr(line.fixed, name)) / each)
    return max(int(min(room) / imbalance), 0)


def engine_activations(shapes: Shapes, request: PlanRequest) -> int:
    """vLLM's own temporaries: a batch of prefill tokens through a layer, and the sampler's float32 logits (three
    copies) of all running sequences."""
    layer_width = shapes.layer // max(shapes.hidden, 1)  # sum of the layer's projections' other dimensions
    prefill = request.max_batched_tokens * BFLOAT16 * (layer_width // request.tensor_parallel + 4 * shapes.hidden)
    sampler = 3 * FLOAT32 * request.max_num_seqs * shapes.vocabulary
    return prefill + sampler


def kv_pool_tokens(shapes: Shapes, request: PlanRequest, free: int, width: int) -> int:
    """Tokens that a KV pool of `free` bytes holds, for one replica of `tensor_parallel` GPUs."""
    each = shapes.kv_bytes_per_token(width) // request.tensor_parallel
    return max(free, 0) // each
