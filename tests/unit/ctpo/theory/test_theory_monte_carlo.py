"""The loss that trains, on sampled responses with autograd through a network, is the estimator that was proven."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ctpo.methods import METHODS, LogRatio, Method
from ctpo.methods.log_ratios import cumulative_log_ratio
from ctpo.methods.objective import clipped_surrogate
from ctpo.theory.advantages import exact_advantage, outcome_advantage, token_advantage
from ctpo.theory.estimators import TABLE_1, method_coefficients, moments, target_gradient, without_clipping
from ctpo.theory.mdp import FloatArray, TokenTree, verifiable_reward
from ctpo.theory.policies import PolicyPair, Recurrent

BATCHES, BATCH = 300, 256


@dataclass(frozen=True)
class Run:
    """A recurrent policy after an update, on responses that may end early and hold tool output."""

    family: Recurrent
    new: FloatArray
    pair: PolicyPair
    advantages: dict[str, FloatArray]


@pytest.fixture(scope="module")
def run() -> Run:
    tree = TokenTree(3, 6, end_token=2, tool_slots=(2,))
    family = Recurrent(tree)
    generator = np.random.default_rng(20)
    old = generator.normal(size=family.parameters)
    new = old + 0.25 * generator.normal(size=family.parameters)
    pair = PolicyPair.of(family, old, new)
    rewards = verifiable_reward(tree, generator)
    advantages = {
        "exact": exact_advantage(pair, rewards),
        "generic": token_advantage(pair, generator.normal(size=pair.old_table.shape)),
        "outcome": outcome_advantage(pair, rewards),
    }
    return Run(family, new, pair, advantages)


def sampled_gradients(run: Run, method: Method, advantages: FloatArray, seed: int) -> FloatArray:
    """Gradients of the training loss on `BATCHES` batches of responses drawn from the old policy."""
    generator = np.random.default_rng(seed)
    probabilities = run.pair.old_probabilities / run.pair.old_probabilities.sum()
    responses = run.pair.tree.responses
    gradients = np.zeros((BATCHES, run.family.parameters))
    for batch in range(BATCHES):
        rows = generator.choice(len(responses), size=BATCH, p=probabilities)
        theta = torch.from_numpy(run.new).clone().requires_grad_()
        table = run.family.log_probs(theta)
        log_prob = table[torch.from_numpy(responses.prefixes[rows]), torch.from_numpy(responses.tokens[rows])]
        old, advantage, mask = (
            torch.from_numpy(array[rows]) for array in (run.pair.old_log_probs, advantages, responses.mask)
        )
        objective = clipped_surrogate(method, log_prob, old, advantage, mask).objective
        objective.sum(dim=1).mean().backward()
        assert theta.grad is not None
        gradients[batch] = theta.grad.numpy()
    return gradients


def z_scores(gradients: FloatArray, expected: FloatArray) -> FloatArray:
    errors = gradients.std(axis=0, ddof=1) / np.sqrt(len(gradients))
    return (gradients.mean(axis=0) - expected) / errors


@pytest.mark.parametrize("kind", ["exact", "generic", "outcome"])
@pytest.mark.parametrize("ratio", TABLE_1, ids=lambda ratio: ratio.name)
def test_sampled_gradients_agree_with_enumeration_in_mean_and_variance(run: Run, ratio: LogRatio, kind: str) -> None:
    method, advantages = without_clipping(ratio), run.advantages[kind]
    gradients = sampled_gradients(run, method, advantages, seed=1)
    (exact,) = moments(run.pair, [method_coefficients(method, run.pair, advantages)])
    assert np.abs(z_scores(gradients, exact.mean)).max() < 4
    assert BATCH * gradients.var(axis=0, ddof=1).sum() == pytest.approx(exact.total_variance, rel=0.25)


@pytest.mark.parametrize("kind", ["exact", "generic"])
def test_the_unclipped_ctpo_loss_samples_the_target_of_proposition_1(run: Run, kind: str) -> None:
    gradients = sampled_gradients(run, without_clipping(cumulative_log_ratio), run.advantages[kind], seed=2)
    target = target_gradient(run.pair, run.advantages[kind]).sum(axis=0)
    assert np.abs(z_scores(gradients, target)).max() < 4
    # The same test is able to fail: the token ratio's samples are far from it.
    wrong = sampled_gradients(run, without_clipping(TABLE_1[0]), run.advantages[kind], seed=2)
    assert np.abs(z_scores(wrong, target)).max() > 8


@pytest.mark.parametrize("name", ["grpo", "ctpo", "ctpo_fixed"])
def test_clipped_methods_sample_what_enumeration_says(run: Run, name: str) -> None:
    gradients = sampled_gradients(run, METHODS[name], run.advantages["outcome"], seed=3)
    (exact,) = moments(run.pair, [method_coefficients(METHODS[name], run.pair, run.advantages["outcome"])])
    assert exact.clip_rate > 0
    assert np.abs(z_scores(gradients, exact.mean)).max() < 4
