"""The three kinds of advantage that an estimator is fed with; each `[responses, horizon]`, 0 where masked."""

from __future__ import annotations

import numpy as np

from ctpo.theory.mdp import FloatArray
from ctpo.theory.policies import PolicyPair


def outcome_advantage(pair: PolicyPair, rewards: FloatArray) -> FloatArray:
    """`R - E_old[R]` at every token of a response: what is used in practice.

    It is the limit of `R - mean_G` over large groups. The division by the group's standard deviation scales every
    estimator, and what it estimates, by one constant, and clipping looks only at the sign: it is left out.
    """
    centred = rewards - pair.old_probabilities @ rewards
    return np.where(pair.mask, centred[:, None], 0.0)


def exact_advantage(pair: PolicyPair, rewards: FloatArray) -> FloatArray:
    """`Q(s_t, a_t) - V(s_t)` of the trained policy: the token-level advantage of the policy-gradient theorem."""
    action_values, values = _values(pair, rewards)
    return np.where(pair.mask, action_values - values, 0.0)


def token_advantage(pair: PolicyPair, table: FloatArray) -> FloatArray:
    """Any function of prefix and token, given as a `[tree.size, vocabulary]` table: the theory's generic `A_t`."""
    return np.where(pair.mask, pair.tree.along(table), 0.0)


def _values(pair: PolicyPair, rewards: FloatArray) -> tuple[FloatArray, FloatArray]:
    responses, vocabulary = pair.tree.responses, pair.tree.vocabulary
    weights = np.broadcast_to(pair.new_probabilities[:, None], responses.tokens.shape)
    weighted = weights * rewards[:, None]

    def conditional(keys: np.ndarray) -> FloatArray:
        mass = np.bincount(keys.ravel(), weights.ravel())
        reward = np.bincount(keys.ravel(), weighted.ravel())
        with np.errstate(invalid="ignore"):
            return (reward / mass)[keys]

    # Keys behind the end of a response meet no other response's: each prefix there has one continuation.
    return conditional(responses.prefixes * vocabulary + responses.tokens), conditional(responses.prefixes)
