from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctpo.methods import METHODS
from ctpo.methods.objective import ClippedMin, Surrogate, clipped_surrogate
from ctpo.methods.windows import LogWindow, PositionAdaptiveWindow
from tests.unit.ctpo.naive_method import Batch, NaiveToken, random_batch


def surrogate_of(name: str, batch: Batch) -> Surrogate:
    return clipped_surrogate(METHODS[name], batch.log_prob, batch.old_log_prob, batch.advantages, batch.mask)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [2e-3, 0.2, 3.0])
def test_surrogate_gradient_and_flags_equal_a_loop_over_tokens(name: str, seed: int, scale: float) -> None:
    batch = random_batch(seed, scale=scale)
    surrogate = surrogate_of(name, batch)
    (gradient,) = torch.autograd.grad(surrogate.objective.sum(), batch.log_prob)
    objective, slope = torch.zeros_like(gradient), torch.zeros_like(gradient)
    flags = torch.zeros(3, *gradient.shape, dtype=torch.bool)
    for row, tokens in enumerate(batch.naive(name)):
        for token in tokens:
            cell = (row, token.column)
            objective[cell], slope[cell] = token.objective, token.slope
            token_flags = [token.clipped_high, token.clipped_low, token.dual_clipped]
            flags[:, row, token.column] = torch.tensor(token_flags)
    # Bounds are float32, so an objective at a bound is only as exact as that.
    torch.testing.assert_close(surrogate.objective.detach(), objective, rtol=1e-6, atol=1e-9)
    exact = isinstance(METHODS[name].rule, ClippedMin)  # in other rules a slope can be at a bound as well
    torch.testing.assert_close(gradient, slope, rtol=1e-9 if exact else 1e-6, atol=1e-12 if exact else 1e-9)
    assert torch.equal(surrogate.clipped_high, flags[0])
    assert torch.equal(surrogate.clipped_low, flags[1])
    dual = torch.zeros_like(flags[2]) if surrogate.dual_clipped is None else surrogate.dual_clipped
    assert torch.equal(dual, flags[2])


def test_random_batches_exercise_every_kind_of_token() -> None:
    tokens = [
        token for seed in range(10) for row in random_batch(seed, scale=0.2).naive("ctpo_released") for token in row
    ]
    for kind in ("clipped_high", "clipped_low", "dual_clipped"):
        assert sum(getattr(token, kind) for token in tokens) > 20, kind
    assert sum(token.slope != 0 for token in tokens) > 100


def weight_of(name: str, token: NaiveToken, advantage: float) -> float:
    """What multiplies `grad log pi`: rho A where kept, in PPO's rule; else the naive rule's own slope."""
    if not isinstance(METHODS[name].rule, ClippedMin):
        return token.slope
    dropped = token.clipped_high or token.clipped_low or token.dual_clipped
    return 0.0 if dropped else math.exp(token.log_ratio) * advantage


@pytest.mark.parametrize("name", METHODS)
def test_gradient_is_rho_a_grad_log_pi_on_a_softmax_policy(name: str) -> None:
    """Proposition 1's estimator, with grad log pi of each token taken by autograd on its own."""
    generator = torch.Generator().manual_seed(7)
    states, actions, rows, length = 5, 4, 4, 12
    logits = torch.randn(states, actions, generator=generator, dtype=torch.float64).requires_grad_()
    old_logits = logits.detach() + 0.1 * torch.randn(states, actions, generator=generator, dtype=torch.float64)
    state = torch.randint(0, states, (rows, length), generator=generator)
    action = torch.randint(0, actions, (rows, length), generator=generator)
    mask = torch.rand(rows, length, generator=generator) < 0.8
    advantages = torch.randn(rows, 1, generator=generator, dtype=torch.float64).expand(-1, length)

    log_prob = logits.log_softmax(-1)[state, action]
    old_log_prob = old_logits.log_softmax(-1)[state, action]
    surrogate = clipped_surrogate(METHODS[name], log_prob, old_log_prob, advantages, mask)
    (gradient,) = torch.autograd.grad(surrogate.objective.sum(), logits)

    batch = Batch(log_prob.detach(), old_log_prob, advantages, mask)
    expected = torch.zeros_like(logits)
    for row, tokens in enumerate(batch.naive(name)):
        for token in tokens:
            one = logits.log_softmax(-1)[state[row, token.column], action[row, token.column]]
            (grad_log_pi,) = torch.autograd.grad(one, logits)
            expected += weight_of(name, token, advantages[row, token.column].item()) * grad_log_pi
    assert expected.abs().max() > 0.1
    exact = isinstance(METHODS[name].rule, ClippedMin)
    torch.testing.assert_close(gradient, expected, rtol=1e-10 if exact else 1e-6, atol=1e-12 if exact else 1e-6)


def test_gradient_through_the_whole_sum_would_be_another_estimator() -> None:
    """The test above can tell the estimator from the wrong one."""
    batch = random_batch(0, batch=2, length=10, scale=0.01)
    surrogate = surrogate_of("ctpo_fixed", batch)
    (gradient,) = torch.autograd.grad(surrogate.objective.sum(), batch.log_prob)
    through_sum = torch.cumsum(batch.log_prob[0] - batch.old_log_prob[0], -1).exp() * batch.advantages[0]
    (wrong,) = torch.autograd.grad(through_sum.sum(), batch.log_prob)
    assert (gradient - wrong)[0].abs().max() > batch.advantages[0, 0].abs() > 0


@pytest.mark.parametrize("name", METHODS)
def test_masked_tokens_get_exactly_zero_gradient_whatever_stands_there(name: str) -> None:
    batch = random_batch(5, dtype=torch.float32)
    advantages = torch.where(batch.mask, batch.advantages, torch.nan)
    surrogate = clipped_surrogate(METHODS[name], batch.log_prob, batch.old_log_prob, advantages, batch.mask)
    surrogate.objective.sum().backward()
    assert batch.log_prob.grad is not None
    masked = ~batch.mask
    assert (batch.log_prob.grad[masked] == 0).all()
    assert (surrogate.objective[masked] == 0).all()
    assert (surrogate.log_ratio[masked] == 0).all()
    assert not (surrogate.clipped_high | surrogate.clipped_low)[masked].any()


def test_power_zero_equals_the_fixed_window() -> None:
    batch = random_batch(2, scale=0.1)
    results = []
    for window in (PositionAdaptiveWindow(0.2, 0.3, 0.0), LogWindow(-0.2, 0.3)):
        method = dataclasses.replace(METHODS["ctpo"], window=window)
        surrogate = clipped_surrogate(method, batch.log_prob, batch.old_log_prob, batch.advantages, batch.mask)
        (gradient,) = torch.autograd.grad(surrogate.objective.sum(), batch.log_prob)
        results.append((surrogate.objective.detach(), gradient, surrogate.clipped_high, surrogate.clipped_low))
    assert (results[0][2] | results[0][3]).any()
    for adaptive, fixed in zip(*results, strict=True):
        assert torch.equal(adaptive, fixed)


def test_only_the_released_code_has_a_dual_clip() -> None:
    assert [name for name, method in METHODS.items() if method.dual_clip] == ["ctpo_released"]
    old = torch.zeros(1, 1)
    log_prob = torch.full((1, 1), 1.0, requires_grad=True)
    args = (log_prob, old, torch.tensor([[-1.0]]), torch.ones(1, 1, dtype=torch.bool))
    kept = clipped_surrogate(METHODS["ctpo"], *args)
    (gradient,) = torch.autograd.grad(kept.objective.sum(), log_prob)
    assert gradient.item() == pytest.approx(-math.e)
    cut = clipped_surrogate(METHODS["ctpo_released"], *args)
    (gradient,) = torch.autograd.grad(cut.objective.sum(), log_prob)
    assert gradient.item() == 0
    assert cut.objective.item() == pytest.approx(-math.exp(0.05))
    assert cut.dual_clipped is not None
    assert cut.dual_clipped.all()
    assert not (cut.clipped_high | cut.clipped_low).any()


@pytest.mark.parametrize("name", METHODS)
def test_an_unchanged_policy_has_ratio_one_and_clips_nothing(name: str) -> None:
    batch = random_batch(4)
    surrogate = clipped_surrogate(METHODS[name], batch.log_prob, batch.log_prob.detach(), batch.advantages, batch.mask)
    (gradient,) = torch.autograd.grad(surrogate.objective.sum(), batch.log_prob)
    advantages = torch.where(batch.mask, batch.advantages, 0.0)
    if isinstance(METHODS[name].rule, ClippedMin):
        assert torch.equal(surrogate.objective.detach(), advantages)
        assert torch.equal(gradient, advantages)
    else:  # GMPO takes the mean advantage, with its rounding
        torch.testing.assert_close(gradient, advantages, rtol=1e-14, atol=1e-14)
    assert not (surrogate.clipped_high | surrogate.clipped_low).any()


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(sorted(METHODS)),
    length=st.one_of(st.integers(0, 40), st.sampled_from([1000, 8000])),
    size=st.sampled_from([1e-6, 1e-2, 1.0, 30.0, 1e4]),
    sign=st.sampled_from([-1.0, 1.0, 0.0]),
    advantage=st.floats(-1e4, 1e4, width=32),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradient_are_finite_for_any_log_ratio(
    name: str, length: int, size: float, sign: float, advantage: float, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(2, length, generator=generator) * 2 - 1
    log_prob = (size * (noise if sign == 0 else sign * noise.abs())).to(dtype).requires_grad_()
    mask = torch.rand(2, length, generator=generator) < 0.9
    surrogate = clipped_surrogate(
        METHODS[name], log_prob, torch.zeros(2, length, dtype=dtype), torch.full((2, length), advantage), mask
    )
    surrogate.objective.sum().backward()
    assert log_prob.grad is not None
    for tensor in (surrogate.objective, surrogate.log_ratio, log_prob.grad):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("extreme", [float("-inf"), -1e4, 1e4, float("inf")])
def test_loss_and_gradient_are_finite_at_the_extremes(name: str, extreme: float) -> None:
    for advantage in (-1.0, 1.0):
        log_prob = torch.full((1, 8000), extreme, requires_grad=True)
        surrogate = clipped_surrogate(
            METHODS[name],
            log_prob,
            torch.zeros(1, 8000),
            torch.full((1, 8000), advantage),
            torch.ones(1, 8000, dtype=torch.bool),
        )
        surrogate.objective.sum().backward()
        assert log_prob.grad is not None
        assert surrogate.objective.isfinite().all()
        assert log_prob.grad.isfinite().all()
