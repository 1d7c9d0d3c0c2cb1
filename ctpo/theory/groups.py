"""The advantage of practice exactly: `(R - mean_G) / std_G` over a group of G responses, its own among them.

For 0/1 rewards everything about a response's advantage that its group can change is how many of the others are right,
a binomial number. A response's advantage has the sign of its own reward, so the tokens that are clipped are known as
well, and the expectation and covariance of a group's mean gradient follow in closed form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from ctpo.methods import Method
from ctpo.theory.advantages import exact_advantage
from ctpo.theory.estimators import TABLE_1, method_coefficients, target_gradient, without_clipping
from ctpo.theory.mdp import FloatArray
from ctpo.theory.policies import PolicyPair
from ctpo.theory.study import BATCH, OUTCOME_LEVEL, DecisionProcess, Row, problem_settings
from ctpo.theory.tables import LABELS, median

STD_EPSILON = 1e-6
"""What verl adds to the deviation before it divides by it."""


def group_advantage(right: int, size: int, is_right: bool, std_normalised: bool) -> float:
    """Advantage of a response in a group of `size`, `right` of which are right (itself counted)."""
    mean = right / size
    centred = float(is_right) - mean
    if not std_normalised:
        return centred
    variance = size * mean * (1 - mean) / (size - 1)
    return centred / (variance**0.5 + STD_EPSILON)


@dataclass(frozen=True)
class GroupMoments:
    """Of the mean gradient of one group, `1/G sum_i sum_t c_it grad log pi`."""

    mean: FloatArray
    covariance: FloatArray

    def scale(self, target: FloatArray) -> float:
        """Factor by which the expectation is longer than the target, along it."""
        return float(self.mean @ target / (target @ target))

    def direction_bias(self, target: FloatArray) -> float:
        """What of the expectation is not along the target, relative to what is: 0 if only its length is off."""
        along = self.scale(target)
        return float(np.linalg.norm(self.mean / along - target) / np.linalg.norm(target))

    def variance(self, target: FloatArray) -> float:
        """Trace of the covariance once the expectation has the target's length, relative to it squared."""
        return float(np.trace(self.covariance) / self.scale(target) ** 2 / (target @ target))


def group_moments(
    pair: PolicyPair, rewards: FloatArray, method: Method, size: int, *, std_normalised: bool = True
) -> GroupMoments:
    """Exact moments for groups of `size` responses drawn from the old policy.

    Args:
        rewards: 0 or 1 for every response, `[responses]`.

    Raises:
        ValueError: other rewards, or groups of fewer than two.
    """
    if size < 2 or not np.isin(rewards, (0.0, 1.0)).all():
        raise ValueError(f"groups: size {size} must be at least 2 and rewards 0 or 1")
    signed = np.where(pair.mask, np.where(rewards, 1.0, -1.0)[:, None], 0.0)
    coefficients = method_coefficients(method, pair, signed).values
    # First and second moments of a response's gradient where its reward is 0 or 1, with advantage of size 1.
    firsts, seconds = np.zeros((2, pair.parameters)), np.zeros((2, pair.parameters, pair.parameters))
    for rows, scores in pair.score_chunks():
        terms = np.einsum("tn,tnp->np", coefficients[rows].T, scores)
        for value in (0, 1):
            weights = pair.old_probabilities[rows] * (rewards[rows] == value)
            firsts[value] += weights @ terms
            seconds[value] += (weights[:, None] * terms).T @ terms
    share = float(pair.old_probabilities @ rewards)
    one, two = _size_moments(share, size, std_normalised)
    mean = one @ firsts
    second = np.einsum("v,vpq->pq", _square_moments(share, size, std_normalised), seconds) / size
    second += (size - 1) / size * np.einsum("vw,vp,wq->pq", two, firsts, firsts)
    return GroupMoments(mean, second - np.outer(mean, mean))


def _others(share: float, count: int) -> FloatArray:
    """Probability of 0..count right among the others."""
    return np.array([comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)])


def _sizes(size: int, others: int, own: tuple[int, ...], std_normalised: bool) -> FloatArray:
    """`|A|` of a response whose reward is own[0], own the known rewards of the group, by how many others are right."""
    return np.array([abs(group_advantage(sum(own) + k, size, bool(own[0]), std_normalised)) for k in range(others + 1)])


def _size_moments(share: float, size: int, std_normalised: bool) -> tuple[FloatArray, FloatArray]:
    """`E|A|` given the own reward, `[2]`, and `E|A_1 A_2|` given both rewards, `[2, 2]`."""
    one = np.array([_others(share, size - 1) @ _sizes(size, size - 1, (own,), std_normalised) for own in (0, 1)])
    two = np.array(
        [
            [
                _others(share, size - 2)
                @ (
                    _sizes(size, size - 2, (first, second), std_normalised)
                    * _sizes(size, size - 2, (second, first), std_normalised)
                )
                for second in (0, 1)
            ]
            for first in (0, 1)
        ]
    )
    return one, two


def _square_moments(share: float, size: int, std_normalised: bool) -> FloatArray:
    """`E[A^2]` given the own reward, `[2]`."""
    return np.array([_others(share, size - 1) @ _sizes(size, size - 1, (own,), std_normalised) ** 2 for own in (0, 1)])


SIZES = (2, 4, 8, 16, 64)


def group_rows(problems: Iterable[DecisionProcess], kl: float) -> list[Row]:
    """Table 1's ratios without clipping under the advantage of practice: a row per problem, ratio and size of group.

    `bias` and `variance` at the gradient's own length, `variance` of a batch of `BATCH` responses, `length` the
    expectation's relative to the gradient.
    """
    rows: list[Row] = []
    for problem in problems:
        pair = problem.pair(kl)
        target = target_gradient(pair, exact_advantage(pair, problem.rewards)).sum(axis=0)
        for ratio in TABLE_1:
            for size in SIZES:
                for std_normalised in (False, True):
                    found = group_moments(
                        pair, problem.rewards, without_clipping(ratio), size, std_normalised=std_normalised
                    )
                    bias, variance = found.direction_bias(target), found.variance(target) * size / BATCH
                    rows.append(
                        problem_settings(problem, pair)
                        | {"advantage": OUTCOME_LEVEL, "estimator": ratio.name, "group": size}
                        | {"std_normalised": std_normalised, "length": found.scale(target), "bias": bias}
                        | {"variance_batch": variance, "mse_batch": bias**2 + variance}
                    )
    return rows


def groups_text(rows: Sequence[Row]) -> str:
    """Error of a batch by size of group; medians over problems."""
    lines = [f"    {'ratio':20s} {'advantage':14s}" + "".join(f"{f'G={size}':>9s}" for size in SIZES)]
    for ratio in TABLE_1:
        for std_normalised, what in ((False, "R - mean"), (True, "(R - mean)/std")):
            where = {"estimator": ratio.name, "std_normalised": std_normalised}
            cells = [median(rows, "mse_batch", **where, group=size) for size in SIZES]
            lines.append(f"    {LABELS[ratio.name]:20s} {what:14s}" + "".join(f"{cell:9.3f}" for cell in cells))
    return "\n".join(lines)


def groups_statement(rows: Sequence[Row], sizes: Sequence[int] = (2, 8, 64)) -> str:
    """What a finite group, and its deviation, do to the cumulative estimator."""
    where = {"estimator": "cumulative", "std_normalised": True}
    errors = ", ".join(f"{median(rows, 'mse_batch', **where, group=size):.3f} at G = {size}" for size in sizes)
    return (
        "Groups: with 0/1 rewards the advantage of a group, divided by its deviation or not, averages to a multiple of "
        "R - E[R], so a prompt's expected gradient changes its length and never its direction ((G - 1)/G without the "
        "deviation; with it a factor that depends on how hard the prompt is, which weighs prompts against each other). "
        f"The price is variance: error of {BATCH} responses {errors} (cumulative ratio)."
    )
