"""Every method of `METHODS` as an estimator: bias, variance and error by enumeration, through its training code.

Thresholds made for thousands of tokens would clip nothing of a handful, or everything. So each clip window is scaled to
`WINDOW_DEVIATIONS` standard deviations of the method's own log-ratio on average over its two sides, its asymmetry and
its growth with t kept; rules with a trust region of their own (gates, masks, budgets) are taken as they are. All
responses have one length here, where the aggregations differ by a constant only, as do advantages with and without
their deviation: neither shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from ctpo.methods import METHODS, Method
from ctpo.methods.windows import CalibratedWindow, DualClip, LogWindow, NoWindow, PositionAdaptiveWindow, Window
from ctpo.theory.advantages import exact_advantage, outcome_advantage
from ctpo.theory.estimators import log_ratio_deviations, method_coefficients, moments, target_gradient
from ctpo.theory.policies import PolicyPair
from ctpo.theory.study import (
    BATCH,
    OUTCOME_LEVEL,
    TOKEN_LEVEL,
    WINDOW_DEVIATIONS,
    DecisionProcess,
    Row,
    problem_settings,
)
from ctpo.theory.tables import median

NEVER = 15.0
"""A log-ratio bound beyond this is none."""


def scaled(method: Method, pair: PolicyPair) -> Method:
    """The method with its window in proportion to its log-ratio's deviations on this pair."""
    window = method.window
    if isinstance(window, NoWindow):
        return method
    deviations, tokens = log_ratio_deviations(method.log_ratio, pair)
    if isinstance(window, CalibratedWindow):
        share = 2 * WINDOW_DEVIATIONS / (window.low + window.high)
        measured = dataclasses.replace(
            window, low=window.low * share, high=window.high * share, deviations=torch.from_numpy(deviations)
        )
        return dataclasses.replace(method, window=measured)
    if isinstance(window, PositionAdaptiveWindow):
        growth = np.arange(1, len(deviations) + 1) ** window.power
        unit = float(growth @ deviations / (growth @ growth)) * WINDOW_DEVIATIONS
        share = unit * 2 / (window.eps_low + window.eps_high)
        fitted: Window = PositionAdaptiveWindow(window.eps_low * share, window.eps_high * share, window.power)
        clip = method.dual_clip and DualClip(method.dual_clip.scale * share, method.dual_clip.power)
        return dataclasses.replace(method, window=fitted, dual_clip=clip)
    low, high = (float(bound) for bound in window.log_bounds(torch.ones((), dtype=torch.float64)))
    unit = WINDOW_DEVIATIONS * float(np.sqrt(tokens @ deviations**2 / tokens.sum()))
    if low < -NEVER:
        return dataclasses.replace(method, window=LogWindow(low, unit))
    share = 2 * unit / (high - low)
    return dataclasses.replace(method, window=LogWindow(low * share, high * share))


def family_rows(problems: Iterable[DecisionProcess], kl: float, methods: Sequence[Method] | None = None) -> list[Row]:
    """One row per problem, kind of advantage and method; relative to the true gradient's norm.

    `bias`, `variance` (of one response) and `mse_batch` after the best common scale, `length`: a method that merely
    shortens the gradient loses nothing that the learning rate does not give back.
    """
    rows: list[Row] = []
    for problem in problems:
        pair = problem.pair(kl)
        target = target_gradient(pair, exact_advantage(pair, problem.rewards)).sum(axis=0)
        for kind, advantages in (
            (TOKEN_LEVEL, exact_advantage(pair, problem.rewards)),
            (OUTCOME_LEVEL, outcome_advantage(pair, problem.rewards)),
        ):
            chosen = list(METHODS.values()) if methods is None else methods
            found = [method_coefficients(scaled(method, pair), pair, advantages) for method in chosen]
            for method, result in zip(chosen, moments(pair, found), strict=True):
                length = float(result.mean @ target / (target @ target))
                bias = float(np.linalg.norm(result.mean / length - target) / np.linalg.norm(target))
                variance = result.total_variance / length**2 / float(target @ target)
                rows.append(
                    problem_settings(problem, pair)
                    | {"advantage": kind, "method": method.name, "length": length, "bias": bias}
                    | {"variance": variance, "mse_batch": bias**2 + variance / BATCH, "clip_rate": result.clip_rate}
                )
    return rows


def family_text(rows: Sequence[Row]) -> str:
    """Every method's numbers; medians over problems."""
    header = f"{'length':>7s} {'bias':>6s} {'var.':>6s} {f'MSE/{BATCH}':>8s} {'clipped':>8s}"
    lines = [f"    {'':16s} {f'--- {TOKEN_LEVEL}-level A ---':^39s}   {f'--- {OUTCOME_LEVEL}-level A ---':^39s}"]
    lines.append(f"    {'method':16s} {header}   {header}")
    for name in dict.fromkeys(row["method"] for row in rows):
        parts = []
        for kind in (TOKEN_LEVEL, OUTCOME_LEVEL):
            where = {"method": name, "advantage": kind}
            length, bias, variance, error, rate = (
                median(rows, quantity, **where) for quantity in ("length", "bias", "variance", "mse_batch", "clip_rate")
            )
            parts.append(f"{length:7.2f} {bias:6.2f} {variance:6.1f} {error:8.2f} {100 * rate:7.1f}%")
        lines.append(f"    {name:16s} {'   '.join(parts)}")
    return "\n".join(lines)
