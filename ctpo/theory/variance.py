"""Variances of the importance ratios themselves (Proposition 2 of arXiv 2605.07331), exactly.

Tables here are probabilities `[tree.size, vocabulary]`, zeros allowed, of floats or of `fractions.Fraction`: with
the latter a strict inequality or an equality is decided without rounding. Every token that the new policy can
take must be possible under the old one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpo.theory.mdp import BoolArray, FloatArray, TokenTree
from ctpo.theory.policies import PolicyPair

Numbers = NDArray[Any]


@dataclass(frozen=True)
class RatioMoments:
    """Of the cumulative ratio at each slot, `[horizon]`; the last slot's is the full-sequence ratio's."""

    means: Numbers
    variances: Numbers


def response_probabilities(tree: TokenTree, table: Numbers) -> Numbers:
    """Probability of every response, `[responses]`."""
    return np.where(tree.responses.present, tree.along(table), 1).prod(axis=1)


def cumulative_ratios(tree: TokenTree, old: Numbers, new: Numbers) -> Numbers:
    """`rho_t` of every response, `[responses, horizon]`; responses impossible under `old` hold arbitrary values.

    Raises:
        ValueError: the new policy takes a token that the old one never does.
    """
    if np.any((old == 0) & (new != 0) & ~tree.is_tool[:, None]):
        raise ValueError("policies: the new one takes a token that the old one never does; no ratio corrects for that")
    denominators, numerators = tree.along(old), tree.along(new)
    usable = tree.responses.mask & (denominators != 0)
    ratios = np.ones_like(numerators)
    ratios[usable] = numerators[usable] / denominators[usable]
    return np.multiply.accumulate(ratios, axis=1)


def ratio_moments(tree: TokenTree, old: Numbers, new: Numbers) -> RatioMoments:
    """Mean (1, whatever the policies) and variance of the cumulative ratio at every slot under the old policy."""
    probabilities = response_probabilities(tree, old)[:, None]
    ratios = cumulative_ratios(tree, old, new)
    means = (probabilities * ratios).sum(axis=0)
    return RatioMoments(means, (probabilities * (ratios - means) * (ratios - means)).sum(axis=0))


def later_states_differ(tree: TokenTree, old: Numbers, new: Numbers) -> BoolArray:
    """Whether, behind slot t, a state that the new policy reaches has other probabilities under the old, `[horizon]`.

    The exact condition for a strict inequality in Proposition 2 (i). States that only the old policy reaches do
    not count: there the ratio is 0 already, and what happens next cannot change it.
    """
    reached = response_probabilities(tree, new) != 0
    differs = np.any(old != new, axis=1) & ~tree.is_tool
    seen = reached[:, None] & tree.responses.present & differs[tree.responses.prefixes]
    at_slot = seen.any(axis=0)
    return np.append(np.logical_or.accumulate(at_slot[:0:-1])[::-1], False)


def chi_squared(old: FloatArray, new: FloatArray) -> FloatArray:
    """chi2(new || old) of distributions along the last axis: the variance of a single token's ratio."""
    return ((new - old) ** 2 / old).sum(axis=-1)


def independent_variances(chi2: FloatArray) -> FloatArray:
    """Proposition 2 (ii): `prod_{k <= t} (1 + chi2_k) - 1`, for ratios that are independent over positions."""
    return np.expm1(np.log1p(chi2).cumsum(axis=-1))


def variance_quotient(delta: FloatArray | float, horizon: int, position: NDArray[Any] | int) -> FloatArray:
    """Var(full sequence) / Var(cumulative at `position`) if every token has chi2 `delta`.

    It falls to `horizon / position` as `delta` goes to 0 and grows as `(1 + delta)**(horizon - position)`.
    """
    growth = np.log1p(np.asarray(delta, dtype=np.float64))
    return np.expm1(horizon * growth) / np.expm1(position * growth)


@dataclass(frozen=True)
class Spread:
    """Of the logarithm of the cumulative ratio under the old policy, over responses that reach a slot, `[horizon]`.

    Attributes:
        variances: of `S_t`.
        uncorrelated: what they would be if the `d_k` were uncorrelated: their summed variances.
    """

    variances: FloatArray
    uncorrelated: FloatArray


def log_ratio_spread(pair: PolicyPair) -> Spread:
    """Exact variance of `log rho_t`: what the sqrt(t) law is about.

    `d_t` less its mean given the prefix, `-KL_t(prefix)`, is a martingale difference, so increments can only be
    correlated through that KL, which is of second order in the policies' distance: the closer they are, the
    nearer the summed variances come.
    """
    responses = pair.tree.responses
    increments = np.where(responses.mask, pair.new_log_probs - pair.old_log_probs, 0.0)
    weights = pair.old_probabilities[:, None] * responses.present
    counts = weights.sum(axis=0)

    def variances(values: FloatArray) -> FloatArray:
        means = (weights * values).sum(axis=0) / counts
        return (weights * (values - means) ** 2).sum(axis=0) / counts

    return Spread(variances(increments.cumsum(axis=1)), variances(increments).cumsum())
