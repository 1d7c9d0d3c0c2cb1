"""What the trainer adds to a step: folds, sample rows, scalars. The trainer itself runs in tests/e2e."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from ctpo.positions import PositionStats
from ctpo.tir.samples import named_order, sample_rows, taken
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


def _sample(problem: str, index: int) -> str:
    return json.dumps({
        "tir_turns": 2, "tir_tool_calls": 1, "tir_tool_failures": 0, "tir_finish_reason": "answer",
        "tir_model_tokens": 40, "tir_answer": "7", "tir_wall_s": 0.5, "tir_sample_index": index, "problem_id": problem,
    })  # fmt: skip


def test_a_sample_keeps_its_index_in_whatever_order_samples_finish_and_benchmarks_are_kept_apart() -> None:
    infos: dict[str, list[Any]] = {
        "score": [1.0, 0.0, 1.0],
        "sample": [_sample("p", 2), _sample("p", 0), _sample("p", 0)],
    }
    rows = sample_rows(5, ["a", "a", "b"], infos)
    assert [(row["sample_index"], row["score"]) for row in rows["a"]] == [(0, 0.0), (2, 1.0)]
    assert rows["b"][0]["sample_index"] == 0
    assert {row["step"] for benchmark in rows.values() for row in benchmark} == {5}


def test_a_reward_without_sample_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="returned no `sample`"):
        sample_rows(1, ["a"], {"score": [1.0]})


def test_validation_metrics_see_samples_in_one_order_however_they_finished() -> None:
    names = [(source, problem, index) for source in ("a", "b") for problem in ("p1", "p2") for index in range(12)]
    for finished in (np.random.default_rng(seed).permutation(len(names)) for seed in range(3)):
        arrived = taken(names, finished.tolist())
        order = named_order([source for source, _, _ in arrived], [_sample(p, i) for _, p, i in arrived])
        assert taken(arrived, order) == names


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
