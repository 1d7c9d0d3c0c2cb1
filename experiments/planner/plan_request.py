"""What a composed configuration says that decides memory, time and disk; and what a plan has to assume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from ctpo.records.shapes import Count, PositiveShare, Shape, Share, problems
from experiments.errors import BadRequest

Positive = Annotated[float, Field(gt=0, le=1e9)]
NonNegative = Annotated[float, Field(ge=0, le=1e9)]

GIB = 1024**3

#: Bytes that torch finds on a GPU, by the size on its label (total memory minus what the driver keeps): 80 GB H100 or
#: A100, 141 GB H200.
GPU_BYTES = {80: int(79.1 * GIB), 141: int(139.8 * GIB)}


class Assumptions(Shape):
    """Numbers that no configuration knows. Each can be given on the command line of `experiments/plan.py`.

    mfu: share of the GPU's peak arithmetic that training reaches, recomputation counted as work.
    peak_tflops: of one GPU in bf16 without sparsity (H100, H200: 989).
    bandwidth_tb_s: of one GPU's memory (H100 3.35; H200 4.8).
    decode_efficiency: share of that bandwidth that vLLM reaches while decoding.
    straggler: generation waits for its longest trajectories; time over that of an even load.
    prompt_tokens, response_tokens: mean length; `response_tokens` None means 40 % of data.max_response_length, tool
        output included.
    tool_tokens: share of a response that is tool output, which is not generated.
    tool_calls: sandbox calls of a response; sandbox_s: one call, with `import sympy` and a small solve.
    imbalance: verl balances micro-batches by work, so one may hold this many times the token budget.
    fragmentation: share of memory that torch's allocator cannot use.
    context_gb: CUDA context, NCCL buffers and, in vLLM's process, captured graphs: for each of the two processes.
    benchmark_problems: problems of one evaluation.
    """

    mfu: PositiveShare = 0.4
    peak_tflops: Positive = 989.0
    bandwidth_tb_s: Positive = 3.35
    decode_efficiency: PositiveShare = 0.5
    straggler: NonNegative = 1.6
    prompt_tokens: NonNegative = 250.0
    response_tokens: NonNegative | None = None
    tool_tokens: Share = 0.1
    tool_calls: NonNegative = 2.0
    sandbox_s: NonNegative = 0.1
    imbalance: NonNegative = 1.15
    fragmentation: Share = 0.05
    context_gb: NonNegative = 1.5
    benchmark_problems: Count = 120

    @classmethod
    def given(cls, values: dict[str, Any]) -> Assumptions:
        """With some replaced. Raises BadRequest for an unknown name or a value out of range."""
        if wrong := problems(cls, values, "assume"):
            raise BadRequest(*wrong)
        return cls.model_validate(values)


@dataclass(frozen=True)
class PlanRequest:
    """One run, as far as a plan needs it. Tokens, sequences and steps; sizes are of the whole run unless `per_gpu`."""

    model: str
    method: str
    gpus: int
    gpu_gb: int
    prompts: int
    responses_each: int
    updates: int
    steps: int
    max_prompt: int
    max_response: int
    token_budget: int
    tensor_parallel: int
    sequence_parallel: int
    gpu_memory_utilization: float
    max_num_seqs: int
    max_batched_tokens: int
    checkpointing: bool
    chunked_logits: bool
    param_offload: bool
    optimizer_offload: bool
    float32: bool
    test_every: int
    test_samples: int
    checkpoints_kept: int
    stats_every: int
    stats_bytes: int
    sandbox_slots: int

    @property
    def sequences(self) -> int:
        return self.prompts * self.responses_each

    @property
    def longest(self) -> int:
        return self.max_prompt + self.max_response


def request_of(config: DictConfig) -> PlanRequest:
    """Read a composed configuration."""
    arm, trainer, data = config.actor_rollout_ref, config.trainer, config.data
    actor, rollout = arm.actor, arm.rollout
    longest = data.max_prompt_length + data.max_response_length
    micro = actor.ppo_micro_batch_size_per_gpu
    precision = OmegaConf.select(actor, "fsdp_config.mixed_precision.param_dtype")
    return PlanRequest(
        model=config.run.model,
        method=config.method.name,
        gpus=trainer.n_gpus_per_node * trainer.nnodes,
        gpu_gb=OmegaConf.select(config, "hardware.gpu_memory_gb", default=80),
        prompts=data.train_batch_size,
        responses_each=rollout.n,
        updates=-(-data.train_batch_size // actor.ppo_mini_batch_size) * actor.ppo_epochs,
        steps=trainer.total_training_steps,
        max_prompt=data.max_prompt_length,
        max_response=data.max_response_length,
        token_budget=actor.ppo_max_token_len_per_gpu if actor.use_dynamic_bsz else micro * longest,
        tensor_parallel=rollout.tensor_model_parallel_size,
        sequence_parallel=actor.ulysses_sequence_parallel_size,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        max_num_seqs=rollout.max_num_seqs,
        max_batched_tokens=rollout.max_num_batched_tokens,
        checkpointing=arm.model.enable_gradient_checkpointing,
        chunked_logits=arm.model.use_fused_kernels,
        param_offload=actor.fsdp_config.param_offload,
        optimizer_offload=actor.fsdp_config.optimizer_offload,
        float32=precision in ("fp32", "float32"),
        test_every=trainer.test_freq,
        test_samples=rollout.val_kwargs.n,
        checkpoints_kept=trainer.max_actor_ckpt_to_keep or 1,
        stats_every=config.records.position_stats_every,
        stats_bytes=_stats_bytes(config),
        sandbox_slots=config.tir.sandbox.concurrency,
    )


def _stats_bytes(config: DictConfig) -> int:
    """Upper bound of one step's position statistics on disk: float64 sums, uncompressed."""
    layout = config.method.position_stats
    bins = -(-layout.max_position // layout.bin_width)
    return 8 * 20 * (layout.max_position + bins * (layout.folds + layout.max_updates))
