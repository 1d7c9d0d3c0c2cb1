"""Proposition 2: (i) decided in exact rational arithmetic, (ii) to 1e-10."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctpo.theory.advantages import exact_advantage
from ctpo.theory.checks import normalised, random_pair
from ctpo.theory.estimators import TABLE_1, log_ratios, method_coefficients, moments, without_clipping
from ctpo.theory.mdp import TokenTree, verifiable_reward
from ctpo.theory.policies import PolicyPair, Recurrent, Tabular
from ctpo.theory.study import DecisionProcess
from ctpo.theory.variance import (
    Numbers,
    chi_squared,
    independent_variances,
    later_states_differ,
    log_ratio_spread,
    ratio_moments,
    variance_quotient,
)

TREES = (TokenTree(2, 4), TokenTree(3, 3), TokenTree(2, 4, end_token=0), TokenTree(3, 3, tool_slots=(1,)))


@st.composite
def rational_policies(draw: st.DrawFn) -> tuple[TokenTree, Numbers, Numbers]:
    """Any two policies with small rational probabilities, the new one's support inside the old one's."""
    tree = draw(st.sampled_from(TREES))
    rows = st.lists(st.integers(0, 3), min_size=tree.vocabulary, max_size=tree.vocabulary).filter(any)
    old = normalised(np.array(draw(st.lists(rows, min_size=tree.size, max_size=tree.size))))
    new = old.copy()
    for prefix in draw(st.sets(st.integers(0, tree.size - 1), max_size=4)):
        weights = np.array(draw(rows)) * (old[prefix] != 0)
        if weights.any() and not tree.is_tool[prefix]:
            new[prefix] = normalised(weights[None])[0]
    return tree, old, new


@settings(deadline=None, max_examples=400)
@given(rational_policies())
def test_prop_2_i_strict_exactly_if_a_later_state_that_is_reached_differs(
    policies: tuple[TokenTree, Numbers, Numbers],
) -> None:
    tree, old, new = policies
    found = ratio_moments(tree, old, new)
    differs = later_states_differ(tree, old, new)
    assert all(type(value) is Fraction for value in found.variances)
    assert all(mean == 1 for mean in found.means)
    for variance, later in zip(found.variances, differs, strict=True):
        assert found.variances[-1] > variance if later else found.variances[-1] == variance


def two_policies(tree: TokenTree, *changed: int) -> tuple[Numbers, Numbers]:
    old = normalised(np.ones((tree.size, tree.vocabulary), dtype=np.int64))
    new = old.copy()
    new[list(changed)] = normalised(np.arange(1, tree.vocabulary + 1)[None])[0]
    return old, new


def test_equal_if_policies_differ_only_before_or_at_the_position() -> None:
    old, new = two_policies(TokenTree(2, 4), 0, 1)
    variances = ratio_moments(TokenTree(2, 4), old, new).variances
    assert variances[0] < variances[1] == variances[2] == variances[3]


def test_equal_if_they_differ_only_where_the_new_policy_never_comes() -> None:
    tree = TokenTree(2, 3)
    old, new = two_policies(tree, 2)
    new[0] = [Fraction(1), Fraction(0)]
    variances = ratio_moments(tree, old, new).variances
    assert variances[0] == variances[2] == 1
    assert not later_states_differ(tree, old, new)[0]


def test_equal_if_they_differ_only_behind_the_end() -> None:
    tree = TokenTree(2, 3, end_token=0)
    old, new = two_policies(tree, 1)
    assert set(ratio_moments(tree, old, new).variances) == {0}


def test_what_the_environment_does_is_in_no_ratio() -> None:
    tree = TokenTree(2, 3, tool_slots=(1,))
    old, new = two_policies(tree, 0, 1)
    variances = ratio_moments(tree, old, new).variances
    assert 0 < variances[0] == variances[1] == variances[2]


def test_a_token_that_the_old_policy_never_takes_is_refused() -> None:
    tree = TokenTree(2, 2)
    old, new = two_policies(tree)
    old[0] = [Fraction(1), Fraction(0)]
    with pytest.raises(ValueError, match="the old one never does"):
        ratio_moments(tree, old, new)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([(2, 8), (3, 5), (4, 4), (5, 4)]),
    concentration=st.floats(1.0, 20.0),
)
def test_prop_2_ii_independent_ratios_multiply(seed: int, size: tuple[int, int], concentration: float) -> None:
    tree = TokenTree(*size)
    old, new = np.random.default_rng(seed).dirichlet(np.full(tree.vocabulary, concentration), size=(2, tree.horizon))
    old = 0.9 * old + 0.1 / tree.vocabulary
    expected = independent_variances(chi_squared(old, new))
    found = ratio_moments(tree, old[tree.depths], new[tree.depths]).variances
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_at_the_largest_size_too() -> None:
    tree = TokenTree(5, 8)
    old, new = np.random.default_rng(0).dirichlet(np.full(5, 5.0), size=(2, 8))
    found = ratio_moments(tree, old[tree.depths], new[tree.depths])
    np.testing.assert_allclose(found.means, 1, rtol=1e-12)
    np.testing.assert_allclose(found.variances, independent_variances(chi_squared(old, new)), rtol=1e-10)


@pytest.mark.parametrize("position", range(1, 8))
def test_the_quotient_of_variances_has_the_two_limits(position: int) -> None:
    assert variance_quotient(1e-10, 8, position) == pytest.approx(8 / position, rel=1e-8)
    assert variance_quotient(1e10, 8, position) == pytest.approx(1e10 ** (8 - position), rel=1e-8)
    assert variance_quotient(0.3, 8, position) == pytest.approx((1.3**8 - 1) / (1.3**position - 1), rel=1e-12)


def test_the_quotient_grows_geometrically_in_the_tokens_that_are_left() -> None:
    quotients = variance_quotient(0.2, 60, np.arange(20, 60))
    np.testing.assert_allclose(quotients[:-1] / quotients[1:], 1.2, rtol=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_with_token_level_advantages_each_term_of_the_full_sequence_estimator_varies_at_least_as_much(
    seed: int,
) -> None:
    """Prop. 2 carries over to the estimators term by term: given the prefix, only the later ratio's square is added."""
    tree = TokenTree(3, 5, end_token=0)
    generator = np.random.default_rng(seed)
    pair = random_pair(Tabular(tree), generator)
    advantages = exact_advantage(pair, verifiable_reward(tree, generator))
    found = [method_coefficients(without_clipping(ratio), pair, advantages) for ratio in TABLE_1]
    _, _, sequence, cumulative = moments(pair, found)
    assert np.all(sequence.variances >= cumulative.variances - 1e-12)
    assert np.all(sequence.variances[:-1] > cumulative.variances[:-1])


def test_but_the_sum_over_positions_can_vary_less() -> None:
    """Found among random recurrent policies: the terms' covariances are in no proposition."""

    def gap(seed: int) -> float:
        generator = np.random.default_rng(seed)
        family = Recurrent(TokenTree(2, 6, end_token=0))
        pair = random_pair(family, generator)
        advantages = exact_advantage(pair, verifiable_reward(family.tree, generator))
        found = [method_coefficients(without_clipping(ratio), pair, advantages) for ratio in TABLE_1]
        _, _, sequence, cumulative = moments(pair, found)
        return sequence.total_variance / cumulative.total_variance - 1

    assert min(gap(seed) for seed in range(30)) < -0.001


def test_the_spread_of_the_log_ratio_is_what_a_loop_over_responses_gives() -> None:
    tree = TokenTree(3, 4, end_token=1)
    pair = random_pair(Tabular(tree), np.random.default_rng(1))
    ratios = log_ratios(TABLE_1[3], pair)
    responses = tree.responses
    for slot in range(4):
        rows = [row for row in range(len(responses)) if responses.present[row, slot]]
        weights = [pair.old_probabilities[row] for row in rows]
        mean = sum(w * ratios[row, slot] for w, row in zip(weights, rows, strict=True)) / sum(weights)
        squares = sum(w * (ratios[row, slot] - mean) ** 2 for w, row in zip(weights, rows, strict=True))
        assert log_ratio_spread(pair).variances[slot] == pytest.approx(squares / sum(weights), rel=1e-12)


def test_increments_are_uncorrelated_to_first_order_in_the_policies_distance() -> None:
    """What makes std grow as sqrt(t): a hundred times closer, ten times less correlation."""
    problem = DecisionProcess.random(0, 3, 6)

    def excess(kl: float) -> float:
        spread = log_ratio_spread(problem.pair(kl))
        return float(np.abs(spread.variances / spread.uncorrelated - 1).max())

    assert excess(1e-4) < 0.01
    assert excess(1e-2) / excess(1e-4) == pytest.approx(10, rel=0.3)


def test_policies_that_ignore_the_prefix_have_uncorrelated_increments() -> None:
    tree = TokenTree(3, 5)
    generator = np.random.default_rng(4)
    old, new = np.log(generator.dirichlet(np.full(3, 3.0), size=(2, 5)))
    pair = PolicyPair(tree, old[tree.depths], new[tree.depths], np.zeros((tree.size, 3, 0)))
    spread = log_ratio_spread(pair)
    np.testing.assert_allclose(spread.variances, spread.uncorrelated, rtol=1e-12)
