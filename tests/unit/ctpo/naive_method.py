"""The method written out token by token in plain Python floats: what the tensor code is checked against."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.unit.ctpo.naive_family import FAMILY, Response


@dataclass
class NaiveToken:
    """One model token of one response."""

    column: int
    position: int
    d: float
    cumulative: float
    log_ratio: float
    objective: float
    slope: float
    clipped_high: bool
    clipped_low: bool
    dual_clipped: bool


def naive_window(name: str, t: int) -> tuple[float, float]:
    """The design's table, third column."""
    if name == "grpo":
        return math.log(1 - 0.2), math.log(1 + 0.2)
    if name == "gspo":
        return math.log(1 - 3e-4), math.log(1 + 4e-4)
    if name == "ctpo_fixed":
        return math.log(0.5), math.log(5.0)
    if name == "full_sequence":
        return -0.3, 0.4
    return -0.025 * t**0.5, 0.05 * t**0.5


def naive_log_ratio(name: str, increments: list[float], t: int) -> float:
    """The design's table, second column, for the token at position t of a response."""
    if name == "grpo":
        return increments[t - 1]
    if name == "gspo":
        return sum(increments) / len(increments)
    if name == "full_sequence":
        return sum(increments)
    return sum(increments[:t])


def naive_response(name: str, d: list[float], advantages: list[float], mask: list[int]) -> list[NaiveToken]:
    """Every model token of a response, given per-column log-ratios, advantages and mask."""
    columns = [j for j, m in enumerate(mask) if m]
    increments = [max(-20.0, min(20.0, d[j])) for j in columns]
    tokens = []
    for t, column in enumerate(columns, start=1):
        advantage = advantages[column]
        log_ratio = naive_log_ratio(name, increments, t)
        low, high = naive_window(name, t)
        ceiling = 0.05 * t**0.5
        ratio = math.exp(min(log_ratio, 10.0))
        clipped_ratio = math.exp(min(max(log_ratio, low), high, 10.0))
        objective = min(ratio * advantage, clipped_ratio * advantage)
        clipped_high = advantage > 0 and log_ratio > high
        clipped_low = advantage < 0 and log_ratio < low
        dual_clipped = name == "ctpo_released" and advantage < 0 and log_ratio > ceiling
        if dual_clipped:
            objective = max(objective, math.exp(ceiling) * advantage)
        flat = clipped_high or clipped_low or dual_clipped or log_ratio > 10.0
        tokens.append(
            NaiveToken(
                column=column,
                position=t,
                d=increments[t - 1],
                cumulative=sum(increments[:t]),
                log_ratio=log_ratio,
                objective=objective,
                slope=0.0 if flat else ratio * advantage,
                clipped_high=clipped_high,
                clipped_low=clipped_low,
                dual_clipped=dual_clipped,
            )
        )
    return tokens


def naive_relative(
    name: str, d: list[float], advantages: list[float], mask: list[int], log_prob: list[float], old: list[float]
) -> list[NaiveToken]:
    """As `naive_response`, for the methods of `naive_family`."""
    columns = [j for j, m in enumerate(mask) if m]
    increments = [max(-20.0, min(20.0, d[j])) for j in columns]
    if not columns:
        return []
    response = Response(increments, *([values[j] for j in columns] for values in (advantages, log_prob, old)))
    return [
        NaiveToken(
            column=column,
            position=t,
            d=increments[t - 1],
            cumulative=sum(increments[:t]),
            log_ratio=found.log_ratio,
            objective=found.objective,
            slope=found.slope,
            clipped_high=found.clipped_high,
            clipped_low=found.clipped_low,
            dual_clipped=found.dual_clipped,
        )
        for t, (column, found) in enumerate(zip(columns, FAMILY[name](response), strict=True), start=1)
    ]


def random_mask(generator: torch.Generator, batch: int, length: int) -> Tensor:
    """Random lengths, stretches of tool output inside, some rows empty: bool `[batch, length]`."""
    mask = torch.zeros(batch, length, dtype=torch.bool)
    for row in range(batch):
        end = int(torch.randint(0, length + 1, (), generator=generator))
        mask[row, :end] = True
        for _ in range(int(torch.randint(0, 4, (), generator=generator))):
            start = int(torch.randint(0, length, (), generator=generator))
            mask[row, start : start + int(torch.randint(1, 6, (), generator=generator))] = False
    return mask


@dataclass
class Batch:
    """Inputs of a loss, each `[batch, length]`."""

    log_prob: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    mask: Tensor

    def naive(self, name: str) -> list[list[NaiveToken]]:
        """`naive_response` of every row, in float64."""
        new, old = self.log_prob.detach().double(), self.old_log_prob.double()
        tensors = (new - old, self.advantages.double(), self.mask.int(), new, old)
        rows = zip(*(tensor.tolist() for tensor in tensors), strict=True)
        return [naive_relative(name, *row) if name in FAMILY else naive_response(name, *row[:3]) for row in rows]


def random_batch(
    seed: int, batch: int = 6, length: int = 40, scale: float = 0.2, dtype: torch.dtype = torch.float64
) -> Batch:
    """Random inputs with one advantage per response, some exactly 0; masked columns hold garbage."""
    generator = torch.Generator().manual_seed(seed)
    mask = random_mask(generator, batch, length)
    mask[0] = True
    old = -3 * torch.rand(batch, length, generator=generator, dtype=torch.float64)
    new = old + scale * torch.randn(batch, length, generator=generator, dtype=torch.float64)
    advantages = torch.randn(batch, 1, generator=generator, dtype=torch.float64).repeat(1, length)
    advantages[-1] = 0.0
    garbage = torch.tensor([float("nan"), float("inf"), float("-inf"), 1e30], dtype=torch.float64)
    filler = garbage[torch.randint(0, 4, mask.shape, generator=generator)]
    old, new = torch.where(mask, old, filler.flip(1)), torch.where(mask, new, filler)
    return Batch(new.to(dtype).requires_grad_(), old.to(dtype), advantages.to(dtype), mask)
