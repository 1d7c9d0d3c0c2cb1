"""Expectation and covariance of policy-gradient estimators, exactly, by enumeration of all responses.

An estimator is `sum_t c_t grad log pi(a_t|s_t)` for one response drawn from the old policy. Its coefficients
`c_t` are read from the training code itself: the derivative of `clipped_surrogate` with respect to each token's
log-probability. So what is enumerated here is what a run trains with, for every method that there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ctpo.methods import Method
from ctpo.methods.log_ratios import (
    LogRatio,
    cumulative_log_ratio,
    length_normalized_log_ratio,
    sequence_log_ratio,
    token_log_ratio,
)
from ctpo.methods.objective import clipped_surrogate
from ctpo.methods.rules import MAX_LOG_RATIO
from ctpo.methods.windows import LogWindow, PositionAdaptiveWindow, Window
from ctpo.theory.mdp import FloatArray
from ctpo.theory.policies import PolicyPair

TABLE_1 = (token_log_ratio, length_normalized_log_ratio, sequence_log_ratio, cumulative_log_ratio)
"""The paper's four ratios, in its order."""

NO_WINDOW = LogWindow(-1e3, 1e3)


def without_clipping(ratio: LogRatio) -> Method:
    """The plain importance-weighted estimator of a ratio, as a method that the training code can run."""
    return Method(ratio.name, ratio, NO_WINDOW, "arXiv 2605.07331, Table 1")


def with_window(ratio: LogRatio, window: Window) -> Method:
    """The clipped estimator of a ratio."""
    return Method(f"{ratio.name}, clipped", ratio, window, "arXiv 2605.07331")


def log_ratios(ratio: LogRatio, pair: PolicyPair) -> FloatArray:
    """A ratio's logarithm at every token of every response, by the training code, `[responses, horizon]`."""
    tables = (pair.new_log_probs, pair.old_log_probs, pair.mask)
    return ratio(*(torch.from_numpy(table.copy()) for table in tables)).numpy()


def standardised_window(ratio: LogRatio, pair: PolicyPair, deviations: float, power: float = 0.5) -> Window:
    """A window that many standard deviations of the ratio's own logarithm wide, to either side.

    For the cumulative ratio it grows as `t**power`, fitted by least squares to the exact standard deviations.
    Fixed thresholds made for thousands of tokens would clip nothing or everything of a handful.
    """
    spread, tokens = log_ratio_deviations(ratio, pair)
    if ratio is not cumulative_log_ratio:
        width = deviations * float(np.sqrt(tokens @ spread**2 / tokens.sum()))
        return LogWindow(-width, width)
    growth = np.arange(1, len(spread) + 1) ** power
    scale = deviations * float((growth @ spread) / (growth @ growth))
    return PositionAdaptiveWindow(scale, scale, power)


def log_ratio_deviations(ratio: LogRatio, pair: PolicyPair) -> tuple[FloatArray, FloatArray]:
    """Standard deviation of a log-ratio at every slot that holds the policy's tokens, and how likely one is there."""
    values = log_ratios(ratio, pair)
    weights = pair.old_probabilities[:, None] * pair.mask
    counts = weights.sum(axis=0)
    shown = counts > 0
    means = (weights * values).sum(axis=0)[shown] / counts[shown]
    variances = (weights[:, shown] * (values[:, shown] - means) ** 2).sum(axis=0) / counts[shown]
    return np.sqrt(variances), counts[shown]


@dataclass(frozen=True)
class Coefficients:
    """What multiplies each token's score, `[responses, horizon]`, and the share of tokens that were clipped."""

    values: FloatArray
    clip_rate: float = 0.0


def method_coefficients(method: Method, pair: PolicyPair, advantages: FloatArray) -> Coefficients:
    """A method's coefficients, from the gradient of the loss that it trains with.

    Raises:
        ValueError: a log-ratio beyond the training code's numerical guard, which is no part of the theory.
    """
    log_prob = torch.from_numpy(pair.new_log_probs.copy()).requires_grad_()
    old, advantage, mask = (torch.from_numpy(array.copy()) for array in (pair.old_log_probs, advantages, pair.mask))
    surrogate = clipped_surrogate(method, log_prob, old, advantage, mask)
    largest = float(surrogate.log_ratio.max())
    if largest > MAX_LOG_RATIO:
        raise ValueError(
            f"policies: a log-ratio of {largest:.3g} exceeds {MAX_LOG_RATIO:g}; bring them closer together"
        )
    surrogate.objective.sum().backward()
    assert log_prob.grad is not None
    weights = pair.old_probabilities[:, None] * pair.mask
    clipped = (surrogate.clipped_high | surrogate.clipped_low).numpy()
    return Coefficients(log_prob.grad.numpy(), float((weights * clipped).sum() / weights.sum()))


def through_the_sum_coefficients(pair: PolicyPair, advantages: FloatArray) -> Coefficients:
    """What autograd gives if it runs through the cumulative sum: `c_k = sum_{t >= k} rho_t A_t`.

    Not CTPO: every token's score is multiplied by all later tokens' weighted advantages as well.
    """
    log_prob = torch.from_numpy(pair.new_log_probs.copy()).requires_grad_()
    ratios = torch.cumsum((log_prob - torch.from_numpy(pair.old_log_probs)) * torch.from_numpy(pair.mask), dim=1).exp()
    (ratios * torch.from_numpy(advantages) * torch.from_numpy(pair.mask)).sum().backward()
    assert log_prob.grad is not None
    return Coefficients(log_prob.grad.numpy())


@dataclass(frozen=True)
class Moments:
    """Of one response's gradient estimate under the old policy.

    Attributes:
        means: expectation of each position's term, `[horizon, parameters]`.
        variances: trace of the covariance of each position's term, `[horizon]`.
        total_variance: trace of the covariance of their sum, which is not the sum of theirs.
        clip_rate: share of tokens that were clipped.
    """

    means: FloatArray
    variances: FloatArray
    total_variance: float
    clip_rate: float = 0.0

    @property
    def mean(self) -> FloatArray:
        """Expectation of the estimator, `[parameters]`."""
        return self.means.sum(axis=0)

    def bias(self, target: FloatArray) -> float:
        """Norm of the estimator's bias; `target` is `[horizon, parameters]` as from `target_gradient`."""
        return float(np.linalg.norm(self.mean - target.sum(axis=0)))

    def biases(self, target: FloatArray) -> FloatArray:
        """Norm of the bias of each position's term, `[horizon]`."""
        return np.linalg.norm(self.means - target, axis=1)

    def mean_squared_error(self, target: FloatArray, responses: int = 1) -> float:
        """Of the average over so many independent responses: squared bias plus variance / responses."""
        return self.bias(target) ** 2 + self.total_variance / responses


def moments(pair: PolicyPair, estimators: Sequence[Coefficients]) -> list[Moments]:
    """Moments of several estimators, in one pass over all responses."""
    horizon, parameters = pair.tree.horizon, pair.parameters
    means = np.zeros((len(estimators), horizon, parameters))
    squares = np.zeros((len(estimators), horizon))
    total_squares = np.zeros(len(estimators))
    for rows, scores in pair.score_chunks():
        probabilities = pair.old_probabilities[rows]
        norms = np.einsum("tnp,tnp->tn", scores, scores)
        for index, estimator in enumerate(estimators):
            coefficients = estimator.values[rows].T
            weighted = probabilities * coefficients
            means[index] += np.matmul(weighted[:, None, :], scores)[:, 0]
            squares[index] += (weighted * coefficients * norms).sum(axis=1)
            totals = np.einsum("tn,tnp->np", coefficients, scores)
            total_squares[index] += probabilities @ np.einsum("np,np->n", totals, totals)
    variances = squares - np.einsum("etp,etp->et", means, means)
    total_means = means.sum(axis=1)
    total_variances = total_squares - np.einsum("ep,ep->e", total_means, total_means)
    return [
        Moments(means[i], variances[i], float(total_variances[i]), estimator.clip_rate)
        for i, estimator in enumerate(estimators)
    ]


def covariance(pair: PolicyPair, estimator: Coefficients, slot: int | None = None) -> FloatArray:
    """Full covariance of the estimator, or of the term of one 0-based slot, `[parameters, parameters]`."""
    second = np.zeros((pair.parameters, pair.parameters))
    mean = np.zeros(pair.parameters)
    chosen = slice(None) if slot is None else slice(slot, slot + 1)
    for rows, scores in pair.score_chunks():
        probabilities = pair.old_probabilities[rows]
        terms = np.einsum("tn,tnp->np", estimator.values[rows].T[chosen], scores[chosen])
        mean += probabilities @ terms
        second += (probabilities[:, None] * terms).T @ terms
    return second - np.outer(mean, mean)


def target_gradient(pair: PolicyPair, advantages: FloatArray) -> FloatArray:
    """`E_new[A_t grad log pi(a_t|s_t)]` for each slot, `[horizon, parameters]`: what Proposition 1 is about.

    With the trained policy's exact advantages, or with outcome rewards less any constant, the slots' sum is the
    true policy gradient.
    """
    target = np.zeros((pair.tree.horizon, pair.parameters))
    for rows, scores in pair.score_chunks():
        weighted = pair.new_probabilities[rows] * advantages[rows].T
        target += np.matmul(weighted[:, None, :], scores)[:, 0]
    return target
