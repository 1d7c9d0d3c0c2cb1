"""The propositions as checks that `python -m ctpo.theory` runs: each a worst deviation against its tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from ctpo.methods import METHODS
from ctpo.methods.log_ratios import cumulative_log_ratio
from ctpo.theory.advantages import outcome_advantage, token_advantage
from ctpo.theory.estimators import (
    method_coefficients,
    moments,
    target_gradient,
    through_the_sum_coefficients,
    without_clipping,
)
from ctpo.theory.groups import group_moments
from ctpo.theory.mdp import TokenTree, verifiable_reward
from ctpo.theory.policies import PolicyFamily, PolicyPair, Recurrent, Tabular, true_policy_gradient
from ctpo.theory.tables import Check
from ctpo.theory.variance import (
    Numbers,
    chi_squared,
    independent_variances,
    later_states_differ,
    ratio_moments,
    variance_quotient,
)

TREES = (
    TokenTree(2, 8),
    TokenTree(3, 5),
    TokenTree(5, 4),
    TokenTree(3, 5, end_token=0),
    TokenTree(3, 6, end_token=2, tool_slots=(2, 3)),
)


def all_checks() -> list[Check]:
    """Every check, a few seconds."""
    return [
        *_unbiasedness(),
        Check("Prop. 2 (i): Var(rho_seq) > Var(rho_t), = if no later state differs (rationals)", _strictness(200), 0.0),
        Check("Prop. 2 (ii): Var(rho_t) = prod(1 + chi2_k) - 1 for independent ratios", _product_formula(), 1e-10),
        *_limits(),
        Check("a finite group keeps the expectation's direction, 0/1 rewards, deviation or not", _groups(), 1e-12),
        Check("through the sum, on policy: token k's gradient is multiplied by T - k + 1", _through_the_sum(), 1e-12),
    ]


def families() -> Iterator[PolicyFamily]:
    """A table per (position, last token), a table per prefix and a network, on each tree."""
    for tree in TREES:
        yield Tabular(tree)
        yield Tabular(tree, "prefix")
        yield Recurrent(tree)


def random_pair(family: PolicyFamily, generator: np.random.Generator, distance: float = 0.3) -> PolicyPair:
    """Two random policies of a family, `distance` per parameter apart."""
    old = generator.normal(size=family.parameters)
    return PolicyPair.of(family, old, old + distance * generator.normal(size=family.parameters))


def _unbiasedness() -> list[Check]:
    token, gradient, ratio = 0.0, 0.0, 0.0
    for index, family in enumerate(families()):
        generator = np.random.default_rng(index)
        pair = random_pair(family, generator)
        advantages = token_advantage(pair, generator.normal(size=pair.old_table.shape))
        term = method_coefficients(without_clipping(cumulative_log_ratio), pair, advantages)
        token = max(token, np.abs(moments(pair, [term])[0].means - target_gradient(pair, advantages)).max())
        found = ratio_moments(pair.tree, np.exp(pair.old_table), np.exp(pair.new_table))
        ratio = max(ratio, np.abs(found.means - 1).max())
        gradient = max(gradient, _gradient_deviation(family, generator))
    return [
        Check("E[rho_t] = 1 at every position", ratio, 1e-12),
        Check("Prop. 1: the cumulative ratio is unbiased at every position, any token-level A_t", token, 1e-12),
        Check("policy-gradient theorem: the target is the gradient of the expected reward", gradient, 1e-12),
    ]


def _gradient_deviation(family: PolicyFamily, generator: np.random.Generator) -> float:
    theta = generator.normal(size=family.parameters)
    pair = PolicyPair.of(family, theta, theta)
    rewards = verifiable_reward(family.tree, generator)
    found = target_gradient(pair, outcome_advantage(pair, rewards)).sum(axis=0)
    return float(np.abs(found - true_policy_gradient(family, theta, rewards)).max())


def random_rational_tables(generator: np.random.Generator, tree: TokenTree) -> tuple[Numbers, Numbers]:
    """Two policies with rational probabilities, some zero, that agree at many prefixes."""

    def table() -> Numbers:
        weights = generator.integers(0, 4, size=(tree.size, tree.vocabulary))
        weights[:, 0] += 1
        return normalised(weights)

    old, other = table(), table()
    # Zeros of the old policy must be zeros of the new one.
    allowed = normalised(other * (old != 0))
    changed = generator.random((tree.size, 1)) < generator.choice([0.05, 0.3, 1.0])
    return old, np.where(changed & ~tree.is_tool[:, None], allowed, old)


def normalised(weights: Numbers) -> Numbers:
    """Rows of `weights` divided by their sums, as fractions."""
    exact = np.array([[Fraction(value) for value in row] for row in weights.tolist()], dtype=object)
    quotients: Numbers = exact / exact.sum(axis=1, keepdims=True)
    return quotients


def _strictness(count: int) -> float:
    wrong = 0
    for index in range(count):
        generator = np.random.default_rng(index)
        tree = TokenTree(*((2, 4), (3, 3))[index % 2], end_token=(None, 0)[index // 2 % 2])
        old, new = random_rational_tables(generator, tree)
        variances = ratio_moments(tree, old, new).variances
        differs = later_states_differ(tree, old, new)
        for slot, variance in enumerate(variances):
            wrong += not (variances[-1] > variance if differs[slot] else variances[-1] == variance)
    return float(wrong)


def _product_formula() -> float:
    worst = 0.0
    for seed, (vocabulary, horizon) in enumerate([(2, 8), (3, 6), (5, 4)]):
        tree, generator = TokenTree(vocabulary, horizon), np.random.default_rng(seed)
        old, new = generator.dirichlet(np.full(vocabulary, 4.0), size=(2, horizon))
        expected = independent_variances(chi_squared(old, new))
        found = ratio_moments(tree, old[tree.depths], new[tree.depths]).variances
        worst = max(worst, float(np.abs(found / expected - 1).max()))
    return worst


def _limits() -> list[Check]:
    horizon, positions = 8, np.arange(1.0, 9.0)
    small = variance_quotient(1e-9, horizon, positions) / (horizon / positions) - 1
    delta = 1e9
    large = variance_quotient(delta, horizon, positions) / (1 + delta) ** (horizon - positions) - 1
    return [
        Check("Var(rho_seq) / Var(rho_t) -> H / t as chi2 -> 0", float(np.abs(small).max()), 1e-7),
        Check("Var(rho_seq) / Var(rho_t) -> (1 + chi2)^(H - t) as it grows", float(np.abs(large).max()), 1e-7),
    ]


def _through_the_sum() -> float:
    worst = 0.0
    for index, tree in enumerate((TokenTree(2, 8), TokenTree(3, 5))):
        generator = np.random.default_rng(index)
        pair = random_pair(Tabular(tree), generator, distance=0.0)
        advantages = outcome_advantage(pair, verifiable_reward(tree, generator))
        found = moments(pair, [through_the_sum_coefficients(pair, advantages)])[0].means
        factors = np.arange(tree.horizon, 0, -1)[:, None]
        worst = max(worst, float(np.abs(found - factors * target_gradient(pair, advantages)).max()))
    return worst


def _groups() -> float:
    worst, generator = 0.0, np.random.default_rng(0)
    pair = random_pair(Tabular(TokenTree(3, 4)), generator)
    rewards = verifiable_reward(pair.tree, generator)
    for method in (METHODS["ctpo"], METHODS["grpo"], without_clipping(cumulative_log_ratio)):
        found = method_coefficients(method, pair, outcome_advantage(pair, rewards))
        direction = moments(pair, [found])[0].mean
        for size, std_normalised in ((2, False), (2, True), (8, False), (8, True)):
            mean = group_moments(pair, rewards, method, size, std_normalised=std_normalised).mean
            along = mean @ direction / (direction @ direction)
            worst = max(worst, float(np.abs(mean / along - direction).max()))
    return worst
