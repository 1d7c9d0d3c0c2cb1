from __future__ import annotations

import pytest
import torch

from ctpo.methods.log_ratios import (
    cumulative_log_ratio,
    length_normalized_log_ratio,
    sequence_log_ratio,
    token_log_ratio,
    token_positions,
)
from tests.unit.ctpo.naive_method import random_batch

ROWS = {
    "grpo": token_log_ratio,
    "gspo": length_normalized_log_ratio,
    "full_sequence": sequence_log_ratio,
    "ctpo": cumulative_log_ratio,
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("seed", range(8))
def test_equals_a_loop_over_tokens(name: str, seed: int) -> None:
    batch = random_batch(seed)
    values = ROWS[name](batch.log_prob, batch.old_log_prob, batch.mask)
    expected = torch.zeros_like(values)
    for row, tokens in enumerate(batch.naive(name)):
        for token in tokens:
            expected[row, token.column] = token.log_ratio
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32])
def test_masked_tokens_are_exactly_zero_with_zero_gradient_even_if_nan(name: str, mask_dtype: torch.dtype) -> None:
    batch = random_batch(3, dtype=torch.float32)
    values = ROWS[name](batch.log_prob, batch.old_log_prob, batch.mask.to(mask_dtype))
    assert (values[~batch.mask] == 0).all()
    values.sum().backward()
    assert batch.log_prob.grad is not None
    assert torch.equal(batch.log_prob.grad, batch.mask.float())


@pytest.mark.parametrize("name", ROWS)
def test_gradient_reaches_the_current_token_only(name: str) -> None:
    batch = random_batch(1, batch=2, length=7)
    values = ROWS[name](batch.log_prob, batch.old_log_prob, batch.mask)
    for column in range(7):
        (gradient,) = torch.autograd.grad(values[0, column], batch.log_prob, retain_graph=True)
        expected = torch.zeros_like(gradient)
        expected[0, column] = 1.0
        assert torch.equal(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32_and_its_gradient_keeps_its_dtype(dtype: torch.dtype) -> None:
    old = torch.full((1, 4096), -1.0, dtype=dtype)
    new = (old + 2.0**-6).requires_grad_()
    values = cumulative_log_ratio(new, old, torch.ones(1, 4096, dtype=torch.bool))
    assert values.dtype == torch.float32
    assert values[0, -1].item() == 4096 * 2.0**-6  # a half-precision sum stalls long before
    values.sum().backward()
    assert new.grad is not None
    assert new.grad.dtype == dtype


def test_token_log_ratio_is_clamped_so_that_one_broken_token_cannot_break_a_sum() -> None:
    old = torch.zeros(1, 3)
    new = torch.tensor([[float("-inf"), 0.5, 1e30]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert cumulative_log_ratio(new, old, mask).tolist() == [[-20.0, -19.5, 0.5]]


def test_nan_at_a_model_token_is_not_hidden() -> None:
    values = cumulative_log_ratio(torch.full((1, 2), torch.nan), torch.zeros(1, 2), torch.ones(1, 2))
    assert values.isnan().all()


def test_positions_count_model_tokens_only() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0]])
    assert token_positions(mask).tolist() == [[0, 1, 2, 2, 2, 3, 3], [0] * 7]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_empty_batches_and_empty_responses_are_allowed(shape: tuple[int, int]) -> None:
    empty = torch.zeros(shape)
    for row in ROWS.values():
        assert row(empty, empty, empty.bool()).shape == shape


@pytest.mark.parametrize("values", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "mask_dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64]
)
def test_any_mask_dtype_gives_the_same_and_is_left_as_it_was(mask_dtype: torch.dtype, values: torch.dtype) -> None:
    log_prob = torch.tensor([[0.5, 1.0, 2.0]], dtype=values)
    mask = torch.tensor([[1, 1, 0]]).to(mask_dtype)
    before = mask.clone()
    assert cumulative_log_ratio(log_prob, torch.zeros_like(log_prob), mask).tolist() == [[0.5, 1.5, 0.0]]
    assert length_normalized_log_ratio(log_prob, torch.zeros_like(log_prob), mask).tolist() == [[0.75, 0.75, 0.0]]
    assert torch.equal(mask, before)
