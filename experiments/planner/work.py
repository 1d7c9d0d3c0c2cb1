"""Work of a training step: tokens, floating-point operations, seconds; sandbox calls and the workers they need."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.planner.memory import GpuMemory
from experiments.planner.plan_request import Assumptions, PlanRequest
from experiments.planner.shapes import Shapes


@dataclass(frozen=True)
class StepWork:
    """One training step. Tokens and FLOPs of all GPUs together; seconds of wall time."""

    tokens: float
    generated_tokens: float
    training_flops: float
    scoring_flops: float
    generation_s: float
    scoring_s: float
    update_s: float
    sandbox_calls: float
    sandbox_workers: float
    concurrent: float

    @property
    def seconds(self) -> float:
        return self.generation_s + self.scoring_s + self.update_s


@dataclass(frozen=True)
class RunWork:
    """A whole run: hours of wall time, evaluations included, and GPU-hours."""

    training_h: float
    evaluation_h: float
    evaluations: int
    gpu_hours: float

    @property
    def hours(self) -> float:
        return self.training_h + self.evaluation_h


def mean_response(request: PlanRequest, assume: Assumptions) -> float:
    """Mean tokens of a response over all turns, tool output included."""
    return 0.4 * request.max_response if assume.response_tokens is None else assume.response_tokens


def forward_flops_per_token(shapes: Shapes, mean_context: float) -> float:
    """Two operations for each weight that multiplies a token, and attention over `mean_context` earlier tokens."""
    multiplied = shapes.layer * shapes.layers + (shapes.head or shapes.embedding)
    attention = 4 * shapes.layers * shapes.query_heads * shapes.head_dim * mean_context
    return 2 * multiplied + attention


def step_work(shapes: Shapes, memory: GpuMemory, request: PlanRequest, assume: Assumptions) -> StepWork:
    """Estimate one step. Training is bound by arithmetic, generation by memory bandwidth."""
    response = mean_response(request, assume)
    length = assume.prompt_tokens + response
    tokens = request.sequences * length
    forward = tokens * forward_flops_per_token(shapes, length / 2)
    # Backward is twice a forward; checkpointing runs the forward once more.
    training = forward * (4 if request.checkpointing else 3)
    rate = request.gpus * assume.peak_tflops * 1e12 * assume.mfu
    generated = request.sequences * response * (1 - assume.tool_tokens)
    concurrent, generation = generation_seconds(shapes, memory, request, assume, request.sequences, length, generated)
    calls = request.sequences * assume.tool_calls
    return StepWork(
        tokens=tokens,
        generated_tokens=generated,
        training_flops=training,
        scoring_flops=forward,
        generation_s=generation,
        scoring_s=forward / rate,
        update_s=training / rate,
        sandbox_calls=calls,
        # Little's law: calls per second times seconds per call.
        sandbox_workers=calls * assume.sandbox_s / generation,
        concurrent=concurrent,
    )


def generation_seconds(
    shapes: Shapes,
    memory: GpuMemory,
    request: PlanRequest,
    assume: Assumptions,
    sequences: float,
    length: float,
    generated: float,
) -> tuple[float, float]:
    """`(concurrent sequences of a replica, seconds)` to generate so many tokens.

    A decoding step of a replica reads its weights and the cache of its running sequences once.
    """
    replicas = max(request.gpus // request.tensor_parallel, 1)
    cached = memory.kv_tokens / length
    concurrent = max(min(request.max_num_seqs, cached, sequences / replicas), 1.0)
    read = 2 * shapes.total + concurrent * (length / 2) * shapes.kv_bytes_per_token()
    bandwidth = assume.bandwidth_tb_s * 1e12 * assume.decode_efficiency * request.tensor_parallel
    tokens_per_s = replicas * concurrent * bandwidth / read
    return concurrent, assume.straggler * generated / tokens_per_s


def evaluations_of(request: PlanRequest) -> int:
    """Before training, every `trainer.test_freq` steps, and after the last step."""
    return 1 + (-(-request.steps // request.test_every) if request.test_every > 0 else 0)


def run_work(step: StepWork, shapes: Shapes, memory: GpuMemory, request: PlanRequest, assume: Assumptions) -> RunWork:
    """All steps and evaluations of a run."""
    evaluations = evaluations_of(request)
    samples = assume.benchmark_problems * request.test_samples
    response = mean_response(request, assume)
    _, seconds = generation_seconds(
        shapes,
        memory,
        request,
        assume,
        samples,
        assume.prompt_tokens + response,
        samples * response * (1 - assume.tool_tokens),
    )
    training = request.steps * step.seconds / 3600
    evaluation = evaluations * seconds / 3600
    return RunWork(training, evaluation, evaluations, (training + evaluation) * request.gpus)


@dataclass(frozen=True)
class Storage:
    """Bytes on disk."""

    checkpoint: int
    checkpoints: int
    records: int


#: One row of `samples/` in compressed parquet with its answer and code, measured on the tiny model's records.
SAMPLE_ROW_BYTES = 400
METRICS_ROW_BYTES = 6_000


def storage(shapes: Shapes, request: PlanRequest, assume: Assumptions) -> Storage:
    """Checkpoints (float32 weights and two moments; the kept ones, the best one, one being written) and records."""
    checkpoint = 3 * 4 * shapes.total
    evaluations = evaluations_of(request)
    records = (
        request.steps // max(request.stats_every, 1) * min(request.stats_bytes, 1_500_000)
        + evaluations * assume.benchmark_problems * request.test_samples * SAMPLE_ROW_BYTES
        + request.steps * METRICS_ROW_BYTES
    )
    return Storage(checkpoint, checkpoint * (request.checkpoints_kept + 2), records)
