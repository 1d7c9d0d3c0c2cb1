r"""The outcome reward: 1 if the model's own final answer is right, else 0.

verl hands a reward function the whole decoded response, tool output included; grading that would pay a
trajectory that never answered but printed the answer. The agent loop knows which text is the model's:
it puts the answer (the last `\boxed{}` over all of the model's turns, outside code) into `tir_answer`, which
verl's reward loop merges into `extra_info`, in training and in validation alike. The response text is never
looked at.

Select it with `reward.custom_reward_function.path=pkg://ctpo.tir.reward`; any function with this
signature can take its place.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from ctpo.tir.grading import Grader

RECORD_FIELDS = (
    "tir_turns",
    "tir_tool_calls",
    "tir_tool_failures",
    "tir_finish_reason",
    "tir_model_tokens",
    "tir_answer",
    "tir_wall_s",
    "tir_sample_index",
    "problem_id",
)


def grade(answer: str | None, gold: str) -> bool:
    """Whether `answer` equals the reference `gold`, as text, number or mathematical object.

    Thread-safe: call it from an executor in asynchronous code. Costs at most the grader's limit (`CPU_SECONDS`).
    """
    return _shared_grader().equal(answer, gold)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """verl's reward function: `score` and `acc` are 1.0 or 0.0.

    `sample` is the trajectory's record (`RECORD_FIELDS`) as one JSON string. verl turns numbers into
    validation metrics and leaves strings alone, but hands both to whoever writes validation samples.

    Raises:
        ValueError: the rollout did not come from the `ctpo_tir` agent loop: whose text is whose is unknown.
    """
    info = extra_info or {}
    if "tir_answer" not in info:
        raise ValueError(
            f"data_source={data_source}: the rollout has no `tir_answer`; this reward grades the `ctpo_tir` "
            "agent loop only: set actor_rollout_ref.rollout.agent.default_agent_loop=ctpo_tir"
        )
    score = float(grade(info["tir_answer"], str(ground_truth)))
    sample = {field: info[field] for field in RECORD_FIELDS if field in info}
    return {"score": score, "acc": score, "sample": json.dumps(sample)}


@functools.cache
def _shared_grader() -> Grader:
    """One helper process per process: verl calls a bare function, so there is nowhere else to keep it."""
    return Grader()
