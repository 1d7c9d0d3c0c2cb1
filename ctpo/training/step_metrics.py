"""What a metrics row takes from a step: scalars of the position statistics, and only what a record can hold."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ctpo.records.position_stats import OWN, PositionSums, Window

#: Responses that a bin of positions needs for its ratios to be told.
LEAST_RESPONSES = 32


def position_metrics(sums: PositionSums) -> dict[str, float]:
    """A few exact scalars of a step's position statistics, for `metrics.jsonl` and wandb.

    `ratio_mean`: of rho_t in the last bin of positions that `LEAST_RESPONSES` reach. In expectation the new policy's
    chance to reach it over the old one's, which is 1 while responses keep their length.
    `effective_share`: effective sample size over tokens in the bin where it is smallest.
    """
    cells, (fixed, adaptive) = sums.positions, sums.layout.windows[:2]
    total = max(int(cells.count.sum()), 1)
    windows: dict[str, Window] = {"own": OWN, "fixed": fixed, "adaptive": adaptive}
    fractions = {
        f"position/clip_fraction_{name}": float(sum(side.sum() for side in cells.clip_counts(window)) / total)
        for name, window in windows.items()
    }
    bins = sums.bins
    counted = bins.count >= LEAST_RESPONSES * sums.bin_width
    if not counted.any():
        return fractions
    return fractions | {
        "position/ratio_mean": float(bins.ratio_mean[counted][-1]),
        "position/effective_share": float(bins.effective_share[counted].min()),
    }


def merge_ranks(per_rank: Sequence[PositionSums | None]) -> PositionSums:
    """The sums of all training processes as one; None from those that repeat another's sequences."""
    return functools.reduce(PositionSums.__add__, (own for own in per_rank if own is not None))


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Only what a record holds: numbers as Python numbers."""
    scalars = {}
    for name, value in row.items():
        if isinstance(value, torch.Tensor | np.ndarray | np.generic) and np.asarray(value).size == 1:
            value = value.item()
        if isinstance(value, int | float | bool | str):
            scalars[name] = value
    return scalars
