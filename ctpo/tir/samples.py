"""From verl's validation lists to the rows of ``samples/<benchmark>/``."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any


def sample_rows(
    step: int,
    data_sources: Sequence[str],
    sample_uids: Sequence[str],
    reward_extra_infos: Mapping[str, Sequence[Any]],
) -> dict[str, list[dict[str, Any]]]:
    """Rows by benchmark, one for each evaluated sample.

    Args:
        step: training step of the evaluated policy.
        data_sources: benchmark of each sample.
        sample_uids: equal for the samples of one problem.
        reward_extra_infos: verl's lists, `score` and `sample` (`ctpo.tir.reward`) among them.

    Raises:
        ValueError: the reward function returned no `sample`, so there is nothing to identify a row by.
    """
    if "sample" not in reward_extra_infos:
        raise ValueError(
            "reward.custom_reward_function returned no `sample` field; samples/ cannot be written. "
            "Return what ctpo.tir.reward.compute_score returns"
        )
    drawn: Counter[str] = Counter()
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for benchmark, uid, score, sample in zip(
        data_sources, sample_uids, reward_extra_infos["score"], reward_extra_infos["sample"], strict=True
    ):
        rows[benchmark].append(sample_row(step, drawn[uid], score, sample))
        drawn[uid] += 1
    return dict(rows)


def sample_row(step: int, sample_index: int, score: float, sample: str) -> dict[str, Any]:
    """The row of one sample, from its score and the `sample` that the reward function returned for it."""
    fields = json.loads(sample)
    return {
        "step": step,
        "problem_id": str(fields["problem_id"]),
        "sample_index": sample_index,
        "score": float(score),
        "answer": fields["tir_answer"],
        "model_tokens": int(fields["tir_model_tokens"]),
        "turns": int(fields["tir_turns"]),
        "tool_calls": int(fields["tir_tool_calls"]),
        "tool_failures": int(fields["tir_tool_failures"]),
        "finish_reason": fields["tir_finish_reason"],
        "wall_s": float(fields["tir_wall_s"]),
    }
