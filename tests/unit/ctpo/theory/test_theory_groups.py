"""The finite group's advantage against an enumeration of every group, with the advantages that verl computes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from ctpo.methods import METHODS, Method
from ctpo.methods.log_ratios import cumulative_log_ratio
from ctpo.methods.objective import clipped_surrogate
from ctpo.theory.advantages import exact_advantage, outcome_advantage
from ctpo.theory.checks import random_pair
from ctpo.theory.estimators import method_coefficients, moments, target_gradient, without_clipping
from ctpo.theory.groups import group_advantage, group_moments
from ctpo.theory.mdp import FloatArray, TokenTree, verifiable_reward
from ctpo.theory.policies import PolicyPair, Tabular

PAIR = random_pair(Tabular(TokenTree(2, 2)), np.random.default_rng(3), distance=0.6)
REWARDS = np.array([0.0, 1.0, 1.0, 0.0])


def verls_advantages(rewards: FloatArray, std_normalised: bool) -> FloatArray:
    """verl's advantages of one group, `[size]`."""
    tokens = torch.from_numpy(np.stack([rewards, np.zeros_like(rewards)], axis=1))
    found, _ = compute_grpo_outcome_advantage(
        tokens, torch.ones_like(tokens), np.zeros(len(rewards), int), norm_adv_by_std_in_grpo=std_normalised
    )
    return found[:, 0].numpy()


def gradient_of_group(pair: PolicyPair, rows: tuple[int, ...], method: Method, advantages: FloatArray) -> FloatArray:
    """Mean over a group's responses of the gradient that the training code gives them."""
    chosen = list(rows)
    log_prob = torch.from_numpy(pair.new_log_probs[chosen].copy()).requires_grad_()
    old, mask = torch.from_numpy(pair.old_log_probs[chosen].copy()), torch.from_numpy(pair.mask[chosen].copy())
    advantage = torch.from_numpy(advantages)[:, None].expand(log_prob.shape)
    clipped_surrogate(method, log_prob, old, advantage, mask).objective.sum().backward()
    assert log_prob.grad is not None
    responses = pair.tree.responses
    scores = pair.score_table[responses.prefixes[chosen], responses.tokens[chosen]]
    return np.einsum("nt,ntp->p", log_prob.grad.numpy(), scores) / len(rows)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("std_normalised", [True, False])
@pytest.mark.parametrize("name", ["ctpo", "grpo", "ctpo_cispo", "gmpo"])
def test_moments_are_those_of_all_groups(name: str, size: int, std_normalised: bool) -> None:
    method = METHODS[name]
    mean, second = np.zeros(PAIR.parameters), np.zeros((PAIR.parameters, PAIR.parameters))
    for rows in product(range(len(REWARDS)), repeat=size):
        advantages = verls_advantages(REWARDS[list(rows)], std_normalised)
        gradient = gradient_of_group(PAIR, rows, method, advantages)
        probability = PAIR.old_probabilities[list(rows)].prod()
        mean += probability * gradient
        second += probability * np.outer(gradient, gradient)
    found = group_moments(PAIR, REWARDS, method, size, std_normalised=std_normalised)
    # verl's own eps and float32 stand in its advantages.
    np.testing.assert_allclose(found.mean, mean, atol=1e-7)
    np.testing.assert_allclose(found.covariance, second - np.outer(mean, mean), atol=1e-6)
    assert np.abs(mean).max() > 1e-3


def test_the_advantage_is_verls() -> None:
    for size in (2, 5, 8):
        for right in range(size + 1):
            rewards = np.array([1.0] * right + [0.0] * (size - right))
            for normalised in (True, False):
                expected = [group_advantage(right, size, bool(reward), normalised) for reward in rewards]
                np.testing.assert_allclose(verls_advantages(rewards, normalised), expected, atol=1e-6)


def test_without_the_deviation_a_group_only_shortens_the_large_groups_estimator() -> None:
    generator = np.random.default_rng(1)
    pair = random_pair(Tabular(TokenTree(3, 4)), generator)
    rewards = verifiable_reward(pair.tree, generator)
    method = without_clipping(cumulative_log_ratio)
    limit = moments(pair, [method_coefficients(method, pair, outcome_advantage(pair, rewards))])[0].mean
    for size in (2, 8, 64):
        found = group_moments(pair, rewards, method, size, std_normalised=False)
        np.testing.assert_allclose(found.mean, (size - 1) / size * limit, rtol=1e-11, atol=1e-14)


def test_on_policy_the_deviation_of_a_group_leaves_the_direction() -> None:
    generator = np.random.default_rng(2)
    pair = random_pair(Tabular(TokenTree(3, 4)), generator, distance=0.0)
    rewards = verifiable_reward(pair.tree, generator)
    target = target_gradient(pair, exact_advantage(pair, rewards)).sum(axis=0)
    for size in (2, 8):
        found = group_moments(pair, rewards, METHODS["ctpo"], size)
        assert found.direction_bias(target) < 1e-10
        assert found.scale(target) > 0
        assert found.variance(target) > 0


@pytest.mark.parametrize(("size", "rewards"), [(1, REWARDS), (4, REWARDS / 2)])
def test_what_has_no_closed_form_is_refused(size: int, rewards: FloatArray) -> None:
    with pytest.raises(ValueError, match="groups: size"):
        group_moments(PAIR, rewards, METHODS["ctpo"], size)
