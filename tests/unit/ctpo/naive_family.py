"""The relatives and variants of CTPO written out token by token in plain Python floats, from their formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class Response:
    """One response's model tokens: values in the order of positions 1, 2, ..."""

    d: list[float]
    advantages: list[float]
    log_prob: list[float]
    old_log_prob: list[float]


@dataclass
class Outcome:
    """What the surrogate makes of one token."""

    log_ratio: float
    objective: float
    slope: float
    clipped_high: bool = False
    clipped_low: bool = False
    dual_clipped: bool = False


def clipped_min(log_ratio: float, low: float, high: float, advantage: float) -> Outcome:
    ratio, clipped = (math.exp(min(value, 10.0)) for value in (log_ratio, min(max(log_ratio, low), high)))
    objective = min(ratio * advantage, clipped * advantage)
    above, below = advantage > 0 and log_ratio > high, advantage < 0 and log_ratio < low
    flat = above or below or log_ratio > 10.0
    return Outcome(log_ratio, objective, 0.0 if flat else ratio * advantage, above, below)


def clipped_weight(log_ratio: float, low: float, high: float, advantage: float, d: float) -> Outcome:
    weight = math.exp(min(max(log_ratio, low), high, 10.0))
    live = advantage != 0
    return Outcome(
        log_ratio, weight * advantage * d, weight * advantage, live and log_ratio > high, live and log_ratio < low
    )


def kept_or_dropped(d: float, advantage: float, dropped: bool, max_ratio: float) -> Outcome:
    weight = 0.0 if dropped else min(math.exp(min(d, 10.0)), max_ratio)
    return Outcome(d, weight * advantage, weight * advantage, dropped and advantage > 0, dropped and advantage < 0)


def dapo(r: Response) -> list[Outcome]:
    return [clipped_min(d, math.log(0.8), math.log(1.28), a) for d, a in zip(r.d, r.advantages, strict=True)]


def dr_grpo(r: Response) -> list[Outcome]:
    return [clipped_min(d, math.log(0.8), math.log(1.2), a) for d, a in zip(r.d, r.advantages, strict=True)]


def gmpo(r: Response) -> list[Outcome]:
    kept = [min(d, 0.4) if a > 0 else max(d, -0.4) if a < 0 else d for d, a in zip(r.d, r.advantages, strict=True)]
    mean = sum(kept) / len(kept)
    weighted = math.exp(min(mean, 10.0)) * sum(r.advantages) / len(r.advantages)
    outcomes = []
    for d, a in zip(r.d, r.advantages, strict=True):
        high, low = a > 0 and d > 0.4, a < 0 and d < -0.4
        slope = 0.0 if high or low or mean > 10.0 else weighted
        outcomes.append(Outcome(d, weighted, slope, high, low))
    return outcomes


def cispo(r: Response) -> list[Outcome]:
    return [clipped_weight(d, -100.0, math.log(1.2), a, d) for d, a in zip(r.d, r.advantages, strict=True)]


def sapo(r: Response) -> list[Outcome]:
    outcomes = []
    for d, a in zip(r.d, r.advantages, strict=True):
        tau = 1.0 if a > 0 else 1.05
        ratio = math.exp(min(d, 10.0))
        gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
        passed = 4 * gate * (1 - gate)
        less_than_half = passed < 0.5
        outcomes.append(
            Outcome(
                d,
                4 / tau * gate * a,
                passed * ratio * a,
                less_than_half and a > 0 and ratio > 1,
                less_than_half and a < 0 and ratio < 1,
                less_than_half and a < 0 and ratio > 1,
            )
        )
    return outcomes


def _probability(log_prob: float) -> float:
    return math.exp(min(log_prob, 0.0))


def dppo_tv(r: Response) -> list[Outcome]:
    outcomes = []
    for d, a, new, old in zip(r.d, r.advantages, r.log_prob, r.old_log_prob, strict=True):
        moved = _probability(new) - _probability(old)
        dropped = (a > 0 and moved > 0.15) or (a < 0 and moved < -0.15)
        outcomes.append(kept_or_dropped(d, a, dropped, 20.0))
    return outcomes


def dppo_kl(r: Response) -> list[Outcome]:
    outcomes = []
    for d, a, new, old in zip(r.d, r.advantages, r.log_prob, r.old_log_prob, strict=True):
        p, q = _probability(new), _probability(old)
        divergence = -q * d + (1 - q) * math.log(max(1 - q, 1e-8) / max(1 - p, 1e-8))
        dropped = divergence > 0.05 and ((a > 0 and p > q) or (a < 0 and p < q))
        outcomes.append(kept_or_dropped(d, a, dropped, 20.0))
    return outcomes


def minpro(r: Response) -> list[Outcome]:
    outcomes = []
    for t, (d, a) in enumerate(zip(r.d, r.advantages, strict=True)):
        prefix = min(r.d[:t]) if t else 0.0
        outcomes.append(clipped_weight(prefix + d, math.log(1e-9), math.log(1.2), a, d))
    return outcomes


def cppo(r: Response) -> list[Outcome]:
    moved = [abs(_probability(new) - _probability(old)) for new, old in zip(r.log_prob, r.old_log_prob, strict=True)]
    budget = min(max(float(np.quantile(moved, 0.9)), 0.02), 0.04)
    last = max(len(r.d) - 1, 1)
    weights = [1 - 0.2 * t / last for t in range(len(r.d))]
    outcomes, weight_sum, spent = [], 0.0, 0.0
    for d, a, divergence, weight in zip(r.d, r.advantages, moved, weights, strict=True):
        allowed = min(0.2, 0.2 + budget * weight_sum - spent)
        dropped = a * d > 0 and weight * divergence > allowed
        outcomes.append(kept_or_dropped(d, a, dropped, math.inf))
        weight_sum += weight
        spent += weight * divergence
    return outcomes


def ctpo_geomean(r: Response) -> list[Outcome]:
    return [
        clipped_min(sum(r.d[:t]) / t, -0.025 / t**0.5, 0.05 / t**0.5, r.advantages[t - 1])
        for t in range(1, len(r.d) + 1)
    ]


def ctpo_calibrated(r: Response) -> list[Outcome]:
    """Before anything is measured: CTPO."""
    return [
        clipped_min(sum(r.d[:t]), -0.025 * t**0.5, 0.05 * t**0.5, r.advantages[t - 1]) for t in range(1, len(r.d) + 1)
    ]


def ctpo_cispo(r: Response) -> list[Outcome]:
    return [
        clipped_weight(sum(r.d[:t]), -0.025 * t**0.5, 0.05 * t**0.5, r.advantages[t - 1], r.d[t - 1])
        for t in range(1, len(r.d) + 1)
    ]


FAMILY = {
    rule.__name__: rule
    for rule in (
        dapo, dr_grpo, gmpo, cispo, sapo, dppo_tv, dppo_kl, minpro, cppo, ctpo_geomean, ctpo_calibrated, ctpo_cispo,
    )
}  # fmt: skip
