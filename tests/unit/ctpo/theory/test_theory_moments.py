"""The enumeration itself: trees, policies, values and moments against loops that know nothing of them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ctpo.methods import METHODS, LogRatio, Method
from ctpo.methods.log_ratios import cumulative_log_ratio
from ctpo.methods.windows import RatioWindow
from ctpo.theory.advantages import exact_advantage, outcome_advantage
from ctpo.theory.checks import TREES, families, random_pair
from ctpo.theory.estimators import (
    TABLE_1,
    covariance,
    method_coefficients,
    moments,
    standardised_window,
    target_gradient,
    with_window,
    without_clipping,
)
from ctpo.theory.mdp import TokenTree, verifiable_reward
from ctpo.theory.policies import PolicyFamily, PolicyPair, Recurrent, Tabular, log_table, scores

ALL_FAMILIES = list(families())


@pytest.mark.parametrize("family", ALL_FAMILIES, ids=lambda family: f"{type(family).__name__}-{family.tree}")
def test_the_responses_of_a_tree_are_all_there_are(family: PolicyFamily) -> None:
    pair = random_pair(family, np.random.default_rng(0))
    assert pair.old_probabilities.sum() == pytest.approx(1, abs=1e-13)
    assert pair.new_probabilities.sum() == pytest.approx(1, abs=1e-13)
    responses = family.tree.responses
    distinct = {tuple(tokens[present]) for tokens, present in zip(responses.tokens, responses.present, strict=True)}
    assert len(distinct) == len(responses)


def test_an_end_token_ends_a_response_and_tool_output_is_masked() -> None:
    tree = TokenTree(2, 4, end_token=1, tool_slots=(1,))
    found = {
        ("".join(map(str, tokens[present])), tuple(mask[present]))
        for tokens, present, mask in zip(
            tree.responses.tokens, tree.responses.present, tree.responses.mask, strict=True
        )
    }
    # The end token in tool output ends nothing.
    continued = {f"0{tool}{rest}" for tool, rest in product("01", ["1", "00", "01"])}
    assert {text for text, _ in found} == {"1"} | continued
    assert all(mask == (True, False, True, True)[: len(mask)] for _, mask in found)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocabulary": 1, "horizon": 3}, "vocabulary=1"),
        ({"vocabulary": 2, "horizon": 0}, "horizon=0"),
        ({"vocabulary": 5, "horizon": 9}, "too many"),
        ({"vocabulary": 2, "horizon": 3, "end_token": 2}, "end_token=2"),
        ({"vocabulary": 2, "horizon": 3, "tool_slots": (3,)}, "tool_slots"),
    ],
)
def test_a_tree_that_cannot_be_says_which_value_is_wrong(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenTree(**values)


@pytest.mark.parametrize("family", ALL_FAMILIES, ids=lambda family: f"{type(family).__name__}-{family.tree}")
def test_scores_are_the_derivatives_of_the_log_probabilities(family: PolicyFamily) -> None:
    generator = np.random.default_rng(1)
    theta, direction = generator.normal(size=(2, family.parameters))
    step = 1e-5
    difference = log_table(family, theta + step * direction) - log_table(family, theta - step * direction)
    np.testing.assert_allclose(scores(family, theta) @ direction, difference / (2 * step), rtol=1e-5, atol=1e-6)
    expected = np.einsum("sa,sap->sp", np.exp(log_table(family, theta)), scores(family, theta))
    np.testing.assert_allclose(expected, 0, atol=1e-13)


def test_the_network_reads_its_prefix_token_by_token() -> None:
    family = Recurrent(TokenTree(2, 4), width=3)
    theta = np.random.default_rng(0).normal(size=family.parameters)
    start, recurrent, inputs, outputs = np.split(theta, [3, 12, 18])
    hidden = np.tanh(start)
    prefix = 0
    for token in (1, 0, 1):
        hidden = np.tanh(hidden @ recurrent.reshape(3, 3) + inputs.reshape(2, 3)[token])
        prefix = prefix * 2 + 1 + token
    logits = hidden @ outputs.reshape(3, 2)
    np.testing.assert_allclose(log_table(family, theta)[prefix], logits - np.log(np.exp(logits).sum()), rtol=1e-12)


def naive_value(pair: PolicyPair, rewards: np.ndarray, known: tuple[int, ...]) -> float:
    """Expected reward under the new policy given the first tokens."""
    responses = pair.tree.responses
    rows = [row for row, tokens in enumerate(responses.tokens) if tuple(tokens[: len(known)]) == known]
    weights = pair.new_probabilities[rows]
    return float(weights @ rewards[rows] / weights.sum())


def test_exact_advantages_are_action_value_less_value() -> None:
    tree = TokenTree(3, 3, end_token=2)
    generator = np.random.default_rng(0)
    pair = random_pair(Tabular(tree), generator)
    rewards = verifiable_reward(tree, generator)
    advantages = exact_advantage(pair, rewards)
    for row, tokens in enumerate(tree.responses.tokens):
        for slot in range(3):
            if tree.responses.mask[row, slot]:
                value = naive_value(pair, rewards, tuple(tokens[:slot]))
                action_value = naive_value(pair, rewards, tuple(tokens[: slot + 1]))
                assert advantages[row, slot] == pytest.approx(action_value - value, abs=1e-13)
            else:
                assert advantages[row, slot] == 0


def naive_ratio(name: str, increments: np.ndarray, slot: int) -> float:
    """Table 1 for one response without masked tokens."""
    return {
        "token": np.exp(increments[slot]),
        "length_normalized": np.exp(increments.mean()),
        "sequence": np.exp(increments).prod(),
        "cumulative": np.exp(increments[: slot + 1]).prod(),
    }[name]


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("ratio", TABLE_1, ids=lambda ratio: ratio.name)
def test_moments_equal_a_loop_over_responses(ratio: LogRatio, clipped: bool) -> None:
    tree = TokenTree(2, 4)
    generator = np.random.default_rng(8)
    pair = random_pair(Tabular(tree), generator)
    advantages = outcome_advantage(pair, verifiable_reward(tree, generator))
    window = RatioWindow(0.8, 1.2)
    method = with_window(ratio, window) if clipped else without_clipping(ratio)
    terms = np.zeros((len(tree.responses), 4, pair.parameters))
    for row in range(len(tree.responses)):
        increments = pair.new_log_probs[row] - pair.old_log_probs[row]
        for slot in range(4):
            weight, advantage = naive_ratio(ratio.name, increments, slot), advantages[row, slot]
            dropped = clipped and ((advantage > 0 and weight > 1.2) or (advantage < 0 and weight < 0.8))
            score = pair.score_table[tree.responses.prefixes[row, slot], tree.responses.tokens[row, slot]]
            terms[row, slot] = 0 if dropped else weight * advantage * score
    probabilities = pair.old_probabilities
    coefficients = method_coefficients(method, pair, advantages)
    (found,) = moments(pair, [coefficients])
    np.testing.assert_allclose(found.means, np.einsum("n,ntp->tp", probabilities, terms), rtol=0, atol=1e-13)
    for position in (None, 0, 2):
        values = terms.sum(axis=1) if position is None else terms[:, position]
        expected = np.cov(values.T, aweights=probabilities, ddof=0)
        matrix = covariance(pair, coefficients, position)
        np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-12)
        trace = found.total_variance if position is None else found.variances[position]
        assert trace == pytest.approx(np.trace(expected), rel=1e-11)


def test_covariances_are_symmetric_and_positive_at_a_size_that_needs_chunks() -> None:
    tree = TokenTree(5, 6)
    generator = np.random.default_rng(0)
    pair = random_pair(Tabular(tree), generator)
    assert sum(1 for _ in pair.score_chunks()) > 1
    advantages = outcome_advantage(pair, verifiable_reward(tree, generator))
    coefficients = method_coefficients(without_clipping(cumulative_log_ratio), pair, advantages)
    matrix = covariance(pair, coefficients)
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-14)
    assert np.linalg.eigvalsh(matrix).min() > -1e-12
    assert moments(pair, [coefficients])[0].total_variance == pytest.approx(np.trace(matrix), rel=1e-10)


def test_errors_add_up() -> None:
    tree = TREES[1]
    generator = np.random.default_rng(0)
    pair = random_pair(Tabular(tree), generator)
    advantages = outcome_advantage(pair, verifiable_reward(tree, generator))
    target = target_gradient(pair, advantages)
    (found,) = moments(pair, [method_coefficients(METHODS["grpo"], pair, advantages)])
    assert found.clip_rate > 0
    for responses in (1, 256):
        expected = np.sum((found.mean - target.sum(axis=0)) ** 2) + found.total_variance / responses
        assert found.mean_squared_error(target, responses) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_every_method_that_can_be_trained_can_be_enumerated(method: Method) -> None:
    pair = random_pair(Tabular(TREES[4]), np.random.default_rng(0), distance=0.1)
    advantages = outcome_advantage(pair, verifiable_reward(TREES[4], np.random.default_rng(1)))
    (found,) = moments(pair, [method_coefficients(method, pair, advantages)])
    assert np.isfinite(found.means).all()
    assert found.total_variance > 0


def test_a_window_of_so_many_deviations_clips_what_a_normal_ratio_would() -> None:
    """One side at a time: about half of P(|z| > 1.5) = 13 %."""
    pair = random_pair(Tabular(TokenTree(3, 7)), np.random.default_rng(0), distance=0.3)
    advantages = np.random.default_rng(1).choice([-1.0, 1.0], size=(len(pair.mask), 1)) * pair.mask
    for ratio in TABLE_1:
        method = with_window(ratio, standardised_window(ratio, pair, 1.5))
        assert method_coefficients(method, pair, advantages).clip_rate == pytest.approx(0.067, abs=0.03)
