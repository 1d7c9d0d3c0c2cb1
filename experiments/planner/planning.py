"""One run's plan, from its composed configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass

from omegaconf import DictConfig

from experiments.planner.memory import GpuMemory, activation_line, per_gpu
from experiments.planner.plan_request import GPU_BYTES, Assumptions, PlanRequest, request_of
from experiments.planner.shapes import Shapes, model_settings, shapes_of
from experiments.planner.work import RunWork, StepWork, Storage, run_work, step_work, storage


@dataclass(frozen=True)
class Plan:
    """All of one run. `memory` is on the request's GPU, `sizes` on each known size, `without_checkpointing` on the
    request's with all activations kept."""

    request: PlanRequest
    shapes: Shapes
    memory: GpuMemory
    sizes: dict[int, GpuMemory]
    without_checkpointing: GpuMemory
    step: StepWork
    run: RunWork
    storage: Storage


def plan(config: DictConfig, assume: Assumptions | None = None) -> Plan:
    """Plan one composed run.

    Raises:
        BadRequest: the model's `config.json` is not known, or the GPU's size.
    """
    assume = assume or Assumptions()
    request, settings = request_of(config), model_settings(config)
    shapes, text = shapes_of(settings), json.dumps(settings, sort_keys=True)
    traced, all_kept = (
        activation_line(
            text, checkpointing=checkpointing, chunked_logits=request.chunked_logits, float32=request.float32
        )
        for checkpointing in (request.checkpointing, False)
    )
    memory = per_gpu(shapes, traced, request, assume)
    step = step_work(shapes, memory, request, assume)
    return Plan(
        request=request,
        shapes=shapes,
        memory=memory,
        sizes={size: per_gpu(shapes, traced, request, assume, size) for size in GPU_BYTES},
        without_checkpointing=per_gpu(shapes, all_kept, request, assume),
        step=step,
        run=run_work(step, shapes, memory, request, assume),
        storage=storage(shapes, request, assume),
    )
