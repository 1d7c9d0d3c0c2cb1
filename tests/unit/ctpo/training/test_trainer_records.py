"""What the trainer adds to a step: folds, sample rows, scalars. The trainer itself runs in tests/e2e."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from ctpo.positions import PositionStats
from ctpo.tir.samples import sample_rows
from ctpo.training.batches import prompt_fold
from ctpo.training.step_metrics import merge_ranks, plain, position_metrics


def test_a_prompt_has_the_same_fold_wherever_it_is_computed() -> None:
    ids = torch.tensor([5, 17, 3])
    assert prompt_fold(ids, 32) == prompt_fold(ids.to(torch.int32), 32) == prompt_fold(ids.clone(), 32)
    # A constant of the record format: changing the hash would mix folds of old and new records.
    assert prompt_fold(ids, 32) == 4


def test_folds_are_used_evenly() -> None:
    counts = torch.bincount(
        torch.tensor([prompt_fold(torch.tensor([i, 2 * i]), 32) for i in range(6400)]), minlength=32
    )
    assert counts.min() > 120
    assert counts.max() < 290


def _infos(**changes: Any) -> dict[str, list[Any]]:
    sample = {
        "tir_turns": 2, "tir_tool_calls": 1, "tir_tool_failures": 0, "tir_finish_reason": "answer",
        "tir_model_tokens": 40, "tir_answer": "7", "tir_wall_s": 0.5, "problem_id": "p",
    }  # fmt: skip
    return {"score": [1.0, 0.0, 1.0], "sample": [json.dumps({**sample, **changes})] * 3}


def test_samples_of_a_problem_are_numbered_and_benchmarks_kept_apart() -> None:
    rows = sample_rows(5, ["a", "a", "b"], ["u", "u", "v"], _infos())
    assert [(row["sample_index"], row["score"]) for row in rows["a"]] == [(0, 1.0), (1, 0.0)]
    assert rows["b"][0]["sample_index"] == 0
    assert {row["step"] for benchmark in rows.values() for row in benchmark} == {5}


def test_a_reward_without_sample_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="returned no `sample`"):
        sample_rows(1, ["a"], ["u"], {"score": [1.0]})


def test_ranks_merge_to_the_sums_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    log_ratio, advantages = torch.randn(8, 12), torch.randn(8, 12)
    mask = torch.ones(8, 12)
    whole = PositionStats.zeros(12, bin_width=8)
    whole.update(log_ratio, advantages, mask)
    parts = []
    for rows in (slice(0, 3), slice(3, 8)):
        part = PositionStats.zeros(12, bin_width=8)
        part.update(log_ratio[rows], advantages[rows], mask[rows])
        parts.append(part.read())
    merged = merge_ranks([*parts, None])
    np.testing.assert_array_equal(merged.positions.std, whole.std)
    assert position_metrics(merged) == position_metrics(whole.read())
    outside = ((log_ratio > torch.tensor(5.0).log()) & (advantages > 0)) | (
        (log_ratio < torch.tensor(0.5).log()) & (advantages < 0)
    )
    assert position_metrics(merged)["position/clip_fraction_fixed"] == pytest.approx(outside.float().mean().item())


def test_only_scalars_enter_a_metrics_row() -> None:
    row = plain(
        {
            "a": torch.tensor(1.5),
            "h": np.float64(0.5),
            "b": 2,
            "c": "x",
            "d": [1, 2],
            "e": {"f": 1},
            "g": torch.ones(3),
        }
    )
    assert row == {"a": 1.5, "h": 0.5, "b": 2, "c": "x"}
