"""Every estimator on random decision processes, against off-policyness and against horizon.

A problem is a token tree, a softmax table, a verifiable 0/1 reward and a direction to move the policy in: half the
true gradient, half noise, as a mini-batch update leaves it. The policies of a pair are the table before and after
such a move, whose length is chosen so that they lie a given KL divergence apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from ctpo.methods.log_ratios import LogRatio, cumulative_log_ratio
from ctpo.methods.windows import Window
from ctpo.theory.advantages import exact_advantage, outcome_advantage
from ctpo.theory.estimators import (
    TABLE_1,
    Coefficients,
    method_coefficients,
    moments,
    standardised_window,
    target_gradient,
    through_the_sum_coefficients,
    with_window,
    without_clipping,
)
from ctpo.theory.mdp import FloatArray, TokenTree, verifiable_reward
from ctpo.theory.policies import PolicyPair, Tabular, log_table, true_policy_gradient
from ctpo.theory.variance import ratio_moments

Row = dict[str, Any]

BATCH = 256
"""Responses of the paper's mini-batch: 32 prompts of 8."""

WINDOW_DEVIATIONS = 1.5
"""Half-width of the windows, in standard deviations of the log-ratio; `docs/methods.md` says what each method clips."""

THROUGH_THE_SUM = "through_the_sum"
TOKEN_LEVEL, OUTCOME_LEVEL = "token", "outcome"


@dataclass(frozen=True)
class DecisionProcess:
    """One random decision process with its starting policy; all from `seed`."""

    seed: int
    family: Tabular
    rewards: FloatArray
    start: FloatArray
    direction: FloatArray

    @classmethod
    def random(cls, seed: int, vocabulary: int, horizon: int) -> DecisionProcess:
        generator = np.random.default_rng([seed, vocabulary, horizon])
        tree = TokenTree(vocabulary, horizon)
        family = Tabular(tree)
        rewards = verifiable_reward(tree, generator)
        start = generator.normal(size=family.parameters)
        gradient = true_policy_gradient(family, start, rewards)
        noise = generator.normal(size=family.parameters)
        direction = gradient / np.linalg.norm(gradient) + noise / np.linalg.norm(noise)
        return cls(seed, family, rewards, start, direction)

    def pair(self, kl: float) -> PolicyPair:
        """The starting policy and the one `kl` nats per response away from it."""

        def excess(step: float) -> float:
            return self._sequence_kl(step) - kl

        step = float(brentq(excess, 0.0, 50.0, xtol=1e-12, rtol=1e-12))
        return PolicyPair.of(self.family, self.start, self.start + step * self.direction)

    def _sequence_kl(self, step: float) -> float:
        old, new = (log_table(self.family, theta) for theta in (self.start, self.start + step * self.direction))
        return PolicyPair(self.family.tree, old, new, np.zeros((0, 0, 0))).sequence_kl


@dataclass(frozen=True)
class Estimator:
    """What is measured: a ratio, its window (None: unclipped) and what the window is called."""

    ratio: LogRatio
    clipping: str = "none"

    @property
    def name(self) -> str:
        return self.ratio.name

    def coefficients(self, pair: PolicyPair, advantages: FloatArray) -> Coefficients:
        if self.clipping == "none":
            return method_coefficients(without_clipping(self.ratio), pair, advantages)
        window = standardised_window(self.ratio, pair, WINDOW_DEVIATIONS)
        return method_coefficients(with_window(self.ratio, window), pair, advantages)


ESTIMATORS = tuple(Estimator(ratio, clipping) for clipping in ("none", "window") for ratio in TABLE_1)


def measure(
    problem: DecisionProcess, pair: PolicyPair, *, by_position: bool = False, more: bool = False
) -> Iterator[Row]:
    """One row per estimator and kind of advantage (and slot); `more` adds the gradient through the sum.

    Bias, variance and error are relative to the norm of the true gradient: 1 is as large as the gradient itself.
    """
    ratio_variance = _ratio_variances(pair)
    advantages = {
        TOKEN_LEVEL: exact_advantage(pair, problem.rewards),
        OUTCOME_LEVEL: outcome_advantage(pair, problem.rewards),
    }
    for kind, advantage in advantages.items():
        # Both kinds estimate the same gradient, slot by slot.
        target = target_gradient(pair, advantages[TOKEN_LEVEL])
        norm = float(np.linalg.norm(target.sum(axis=0)))
        names = [(estimator.name, estimator.clipping) for estimator in ESTIMATORS]
        found = [estimator.coefficients(pair, advantage) for estimator in ESTIMATORS]
        if more:
            names.append((THROUGH_THE_SUM, "none"))
            found.append(through_the_sum_coefficients(pair, advantage))
        for (name, clipping), result in zip(names, moments(pair, found), strict=True):
            settings = problem_settings(problem, pair) | {"advantage": kind, "estimator": name, "clipping": clipping}
            variances = [*result.variances, result.total_variance]
            biases = [*result.biases(target), result.bias(target)]
            slots = [*range(1, pair.tree.horizon + 1), "total"]
            for slot, bias, variance in list(zip(slots, biases, variances, strict=True))[0 if by_position else -1 :]:
                yield settings | {
                    "position": slot,
                    "bias": bias / norm,
                    "variance": variance / norm**2,
                    "mse_1": (bias**2 + variance) / norm**2,
                    "mse_batch": (bias**2 + variance / BATCH) / norm**2,
                    "gradient_norm": norm,
                    "ratio_variance": ratio_variance.get(name, {}).get(slot, np.nan),
                    "clip_rate": result.clip_rate if slot == "total" else np.nan,
                }


def against_off_policyness(seeds: Sequence[int], levels: Sequence[float], vocabulary: int, horizon: int) -> list[Row]:
    """Rows of `measure` for each KL divergence (nats per response)."""
    problems = [DecisionProcess.random(seed, vocabulary, horizon) for seed in seeds]
    return [row for problem in problems for kl in levels for row in measure(problem, problem.pair(kl))]


def against_horizon(seeds: Sequence[int], horizons: Sequence[int], vocabulary: int, kl_per_token: float) -> list[Row]:
    """Rows of `measure` for each horizon, at the same KL divergence per token."""
    rows: list[Row] = []
    for seed in seeds:
        for horizon in horizons:
            problem = DecisionProcess.random(seed, vocabulary, horizon)
            rows += measure(problem, problem.pair(kl_per_token * horizon))
    return rows


def against_window(seeds: Sequence[int], deviations: Sequence[float], kl: float, size: tuple[int, int]) -> list[Row]:
    """The cumulative ratio under windows of several widths, growing as sqrt(t) and fixed, outcome-level advantage."""
    rows: list[Row] = []
    for seed in seeds:
        problem = DecisionProcess.random(seed, *size)
        pair = problem.pair(kl)
        target = target_gradient(pair, exact_advantage(pair, problem.rewards))
        norm = float(np.linalg.norm(target.sum(axis=0)))
        for kind, advantage in (
            (TOKEN_LEVEL, exact_advantage(pair, problem.rewards)),
            (OUTCOME_LEVEL, outcome_advantage(pair, problem.rewards)),
        ):
            chosen = [(power, width) for power in (0.5, 0.0) for width in deviations]
            windows: list[Window] = [standardised_window(cumulative_log_ratio, pair, w, p) for p, w in chosen]
            found = [
                method_coefficients(with_window(cumulative_log_ratio, window), pair, advantage) for window in windows
            ]
            for (power, width), result in zip(chosen, moments(pair, found), strict=True):
                rows.append(
                    problem_settings(problem, pair)
                    | {"advantage": kind, "power": power, "deviations": width, "clip_rate": result.clip_rate}
                    | {"bias": result.bias(target) / norm, "variance": result.total_variance / norm**2}
                    | {"mse_batch": result.mean_squared_error(target, BATCH) / norm**2}
                )
    return rows


def problem_settings(problem: DecisionProcess, pair: PolicyPair) -> Row:
    tree = pair.tree
    return {
        "seed": problem.seed,
        "vocabulary": tree.vocabulary,
        "horizon": tree.horizon,
        "parameters": pair.parameters,
        # As asked for: what the search leaves is rounding.
        "kl": float(f"{pair.sequence_kl:.6g}"),
        "batch": BATCH,
        "window_deviations": WINDOW_DEVIATIONS,
    }


def _ratio_variances(pair: PolicyPair) -> Mapping[str, Mapping[Any, float]]:
    """Variance of the ratio itself at each slot, and (`total`) averaged over slots."""
    cumulative = ratio_moments(pair.tree, np.exp(pair.old_table), np.exp(pair.new_table)).variances
    increments = pair.new_log_probs - pair.old_log_probs
    weights = pair.old_probabilities[:, None]
    mean_increment = increments.mean(axis=1, keepdims=True)

    def variance(ratios: FloatArray) -> FloatArray:
        mean = (weights * ratios).sum(axis=0)
        found: FloatArray = (weights * (ratios - mean) ** 2).sum(axis=0)
        return found

    horizon = pair.tree.horizon
    by_name = {
        "token": variance(np.exp(increments)),
        "length_normalized": np.repeat(variance(np.exp(mean_increment)), horizon),
        "sequence": np.repeat(cumulative[-1], horizon),
        "cumulative": cumulative,
    }
    return {
        name: dict(enumerate(map(float, values), start=1)) | {"total": float(values.mean())}
        for name, values in by_name.items()
    }
