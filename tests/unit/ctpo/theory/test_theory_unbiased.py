"""Proposition 1 and its limits: which estimator's expectation is which gradient, to 1e-12."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctpo.methods.log_ratios import (
    LogRatio,
    cumulative_log_ratio,
    length_normalized_log_ratio,
    sequence_log_ratio,
    token_log_ratio,
)
from ctpo.theory.advantages import exact_advantage, outcome_advantage, token_advantage
from ctpo.theory.checks import TREES, families, random_pair
from ctpo.theory.estimators import (
    TABLE_1,
    Moments,
    method_coefficients,
    moments,
    standardised_window,
    target_gradient,
    through_the_sum_coefficients,
    with_window,
    without_clipping,
)
from ctpo.theory.mdp import FloatArray, TokenTree, verifiable_reward
from ctpo.theory.policies import PolicyFamily, PolicyPair, Recurrent, Tabular, true_policy_gradient

UNBIASED_TOKEN_LEVEL = (cumulative_log_ratio, sequence_log_ratio)
ALL_FAMILIES = list(families())
NAMES = [f"{type(family).__name__}-{getattr(family, 'context', '')}-{family.tree}" for family in ALL_FAMILIES]


def unclipped(ratio: LogRatio, pair: PolicyPair, advantages: FloatArray) -> Moments:
    return moments(pair, [method_coefficients(without_clipping(ratio), pair, advantages)])[0]


@pytest.mark.parametrize("ratio", UNBIASED_TOKEN_LEVEL, ids=lambda ratio: ratio.name)
@pytest.mark.parametrize("family", ALL_FAMILIES, ids=NAMES)
def test_prop_1_unbiased_at_every_position_for_any_token_level_advantage(family: PolicyFamily, ratio: LogRatio) -> None:
    generator = np.random.default_rng(7)
    pair = random_pair(family, generator)
    advantages = token_advantage(pair, generator.normal(size=pair.old_table.shape))
    target = target_gradient(pair, advantages)
    np.testing.assert_allclose(unclipped(ratio, pair, advantages).means, target, rtol=0, atol=1e-12)
    assert np.abs(target).max() > 1e-3


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocabulary=st.integers(2, 5),
    horizon=st.integers(2, 5),
    ends=st.booleans(),
    distance=st.floats(0.0, 0.7),
)
def test_prop_1_on_random_processes(seed: int, vocabulary: int, horizon: int, ends: bool, distance: float) -> None:
    tree = TokenTree(vocabulary, min(horizon, 4) if vocabulary > 3 else horizon, end_token=0 if ends else None)
    generator = np.random.default_rng(seed)
    pair = random_pair(Tabular(tree), generator, distance)
    advantages = token_advantage(pair, generator.normal(size=pair.old_table.shape))
    found = unclipped(cumulative_log_ratio, pair, advantages).means
    np.testing.assert_allclose(found, target_gradient(pair, advantages), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ALL_FAMILIES, ids=NAMES)
def test_with_exact_advantages_the_cumulative_estimator_is_the_gradient_of_the_expected_reward(
    family: PolicyFamily,
) -> None:
    generator = np.random.default_rng(3)
    old = generator.normal(size=family.parameters)
    new = old + 0.3 * generator.normal(size=family.parameters)
    rewards = verifiable_reward(family.tree, generator)
    pair = PolicyPair.of(family, old, new)
    gradient = true_policy_gradient(family, new, rewards)
    found = unclipped(cumulative_log_ratio, pair, exact_advantage(pair, rewards))
    np.testing.assert_allclose(found.mean, gradient, rtol=0, atol=1e-12)
    # With outcome rewards the true gradient's terms are the same ones, and only the whole sequence gets them.
    outcome = outcome_advantage(pair, rewards)
    target = target_gradient(pair, exact_advantage(pair, rewards))
    np.testing.assert_allclose(target_gradient(pair, outcome), target, rtol=0, atol=1e-12)
    np.testing.assert_allclose(unclipped(sequence_log_ratio, pair, outcome).means, target, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tree", TREES[:3], ids=str)
def test_other_ratios_other_advantages_and_windows_are_biased(tree: TokenTree) -> None:
    generator = np.random.default_rng(5)
    pair = random_pair(Tabular(tree), generator)
    rewards = verifiable_reward(tree, generator)
    exact, outcome = exact_advantage(pair, rewards), outcome_advantage(pair, rewards)
    target = target_gradient(pair, exact)
    norm = np.linalg.norm(target.sum(axis=0))
    for ratio in (token_log_ratio, length_normalized_log_ratio):
        assert unclipped(ratio, pair, exact).bias(target) > 0.01 * norm
    assert unclipped(cumulative_log_ratio, pair, outcome).bias(target) > 0.01 * norm
    for ratio in TABLE_1:
        method = with_window(ratio, standardised_window(ratio, pair, 1.0))
        (clipped,) = moments(pair, [method_coefficients(method, pair, exact)])
        assert clipped.clip_rate > 0.02
        assert clipped.bias(target) > 0.01 * norm


def test_the_last_token_is_unbiased_even_with_outcome_advantages() -> None:
    """The cumulative ratio's bias is the stale continuation's, and the last token has none."""
    tree = TokenTree(3, 5)
    generator = np.random.default_rng(11)
    pair = random_pair(Tabular(tree), generator)
    outcome = outcome_advantage(pair, verifiable_reward(tree, generator))
    biases = unclipped(cumulative_log_ratio, pair, outcome).biases(target_gradient(pair, outcome))
    assert biases[-1] < 1e-12
    assert biases[:-1].min() > 1e-4
    assert unclipped(token_log_ratio, pair, outcome).biases(target_gradient(pair, outcome))[-1] > 1e-4


def test_the_gradient_through_the_sum_is_another_estimator() -> None:
    tree = TokenTree(3, 5)
    generator = np.random.default_rng(2)
    pair = random_pair(Tabular(tree), generator)
    rewards = verifiable_reward(tree, generator)
    generic = token_advantage(pair, generator.normal(size=pair.old_table.shape))
    for advantages in (generic, outcome_advantage(pair, rewards)):
        target = target_gradient(pair, advantages)
        (wrong,) = moments(pair, [through_the_sum_coefficients(pair, advantages)])
        assert wrong.bias(target) > 0.5 * np.linalg.norm(target.sum(axis=0))
    # Exact advantages average to 0 in every state, so what it adds does too: only its variance tells.
    exact = exact_advantage(pair, rewards)
    target = target_gradient(pair, exact)
    (noisy,) = moments(pair, [through_the_sum_coefficients(pair, exact)])
    assert noisy.bias(target) < 1e-12
    assert noisy.total_variance > 1.5 * unclipped(cumulative_log_ratio, pair, exact).total_variance


def test_on_policy_the_gradient_through_the_sum_counts_token_k_for_every_token_from_k_on() -> None:
    tree = TokenTree(2, 6)
    generator = np.random.default_rng(2)
    pair = random_pair(Recurrent(tree), generator, distance=0.0)
    advantages = outcome_advantage(pair, verifiable_reward(tree, generator))
    (found,) = moments(pair, [through_the_sum_coefficients(pair, advantages)])
    expected = np.arange(6, 0, -1)[:, None] * target_gradient(pair, advantages)
    np.testing.assert_allclose(found.means, expected, rtol=0, atol=1e-12)


def test_a_log_ratio_beyond_the_training_guard_is_refused() -> None:
    family = Tabular(TokenTree(2, 3))
    old = np.zeros(family.parameters)
    new = np.tile([20.0, -20.0], family.parameters // 2)
    pair = PolicyPair.of(family, new, old)
    with pytest.raises(ValueError, match="exceeds 10"):
        method_coefficients(without_clipping(cumulative_log_ratio), pair, np.ones(pair.mask.shape))
