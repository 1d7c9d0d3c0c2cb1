"""A random batch for the position statistics, and loops that say what they should hold of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctpo.methods.windows import Window
from ctpo.positions import PositionStats
from ctpo.records.position_stats import PositionSums
from tests.unit.ctpo.naive_method import random_mask


@dataclass
class Recorded:
    """Inputs of `PositionStats.update`, `[batch, length]`, with the folds `[batch]`."""

    log_ratio: Tensor
    token: Tensor
    advantages: Tensor
    mask: Tensor
    high: Tensor
    low: Tensor
    folds: Tensor

    def add_to(self, stats: PositionStats, rows: slice = slice(None), update_index: int = 1) -> None:
        stats.update(
            self.log_ratio[rows],
            self.advantages[rows],
            self.mask[rows],
            token_log_ratio=self.token[rows],
            clipped_high=self.high[rows],
            clipped_low=self.low[rows],
            update_index=update_index,
            folds=self.folds[rows],
        )

    def tokens(self) -> Iterator[tuple[int, int, int]]:
        """(row, column, position) of every model token."""
        for row, mask in enumerate(self.mask.tolist()):
            columns = [column for column, m in enumerate(mask) if m]
            yield from ((row, column, t) for t, column in enumerate(columns, start=1))


def recorded(seed: int, batch: int = 11, length: int = 50, scale: float = 0.3, folds: int = 4) -> Recorded:
    generator = torch.Generator().manual_seed(seed)
    mask = random_mask(generator, batch, length)
    mask[0], mask[1] = True, False
    token = scale * torch.randn(batch, length, generator=generator) * mask
    garbage = torch.where(torch.rand(mask.shape, generator=generator) < 0.5, torch.nan, torch.inf)
    log_ratio = torch.where(mask, token.cumsum(-1), garbage)
    advantages = torch.randn(batch, length, generator=generator)
    advantages[torch.rand(mask.shape, generator=generator) < 0.2] = 0.0
    advantages[~mask] = torch.nan
    high = (torch.rand(mask.shape, generator=generator) < 0.2) & mask
    low = (torch.rand(mask.shape, generator=generator) < 0.1) & mask & ~high
    return Recorded(
        log_ratio,
        torch.where(mask, token, garbage),
        advantages,
        mask,
        high,
        low,
        torch.randint(0, folds, (batch,), generator=generator),
    )


def small(bin_width: int = 8, folds: int = 4, max_updates: int = 3) -> PositionStats:
    return PositionStats.zeros(50, bin_width=bin_width, folds=folds, max_updates=max_updates)


def arrays_equal(left: PositionStats | PositionSums, right: PositionStats | PositionSums) -> bool:
    a, b = left.to_arrays(), right.to_arrays()
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def naive_clipped(window: Window, data: Recorded, row: int, column: int, t: int) -> tuple[bool, bool]:
    low, high = (bound.item() for bound in window.log_bounds(torch.tensor([t])))
    value, advantage = data.log_ratio[row, column].item(), data.advantages[row, column].item()
    return advantage > 0 and value > high, advantage < 0 and value < low
