"""From verl's validation lists to the rows of ``samples/<benchmark>/``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any


def sample_rows(
    step: int,
    data_sources: Sequence[str],
    reward_extra_infos: Mapping[str, Sequence[Any]],
) -> dict[str, list[dict[str, Any]]]:
    """Rows by benchmark, one for each evaluated sample, in the order of problem and sample index.

    Args:
        step: training step of the evaluated policy.
        data_sources: benchmark of each sample.
        reward_extra_infos: verl's lists, `score` and `sample` (`ctpo.tir.reward`) among them.

    Raises:
        ValueError: the reward function returned no `sample`, so there is nothing to identify a row by.
    """
    if "sample" not in reward_extra_infos:
        raise ValueError(
            "reward.custom_reward_function returned no `sample` field; samples/ cannot be written. "
            "Return what ctpo.tir.reward.compute_score returns"
        )
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for benchmark, score, sample in zip(
        data_sources, reward_extra_infos["score"], reward_extra_infos["sample"], strict=True
    ):
        rows[benchmark].append(sample_row(step, score, sample))
    return {
        benchmark: sorted(found, key=lambda row: (row["problem_id"], row["sample_index"]))
        for benchmark, found in rows.items()
    }


def named_order(data_sources: Sequence[str], samples: Sequence[str]) -> list[int]:
    """Indices that put samples into the order of benchmark, problem and sample index.

    verl hands them over as they finished. What it computes from them (bootstraps, votes, sums) depends on the order.

    Args:
        data_sources: benchmark of each sample.
        samples: the `sample` that the reward function returned for each.
    """
    fields = [json.loads(sample) for sample in samples]
    return sorted(
        range(len(samples)),
        key=lambda i: (data_sources[i], str(fields[i]["problem_id"]), int(fields[i]["tir_sample_index"])),
    )


def taken(values: Sequence[Any], order: Sequence[int]) -> list[Any]:
    """`values` in that order."""
    return [values[i] for i in order]


def sample_row(step: int, score: float, sample: str) -> dict[str, Any]:
    """The row of one sample, from its score and the `sample` that the reward function returned for it."""
    fields = json.loads(sample)
    return {
        "step": step,
        "problem_id": str(fields["problem_id"]),
        "sample_index": int(fields["tir_sample_index"]),
        "score": float(score),
        "answer": fields["tir_answer"],
        "model_tokens": int(fields["tir_model_tokens"]),
        "turns": int(fields["tir_turns"]),
        "tool_calls": int(fields["tir_tool_calls"]),
        "tool_failures": int(fields["tir_tool_failures"]),
        "finish_reason": fields["tir_finish_reason"],
        "wall_s": float(fields["tir_wall_s"]),
    }
