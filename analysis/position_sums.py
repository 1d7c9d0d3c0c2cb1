"""The windows that the paper's figures compare, and several runs' position statistics as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from ctpo.records import RecordError
from ctpo.records.position_stats import GUARDED, OWN, PositionSums, Sums, Window, histogram_edges

__all__ = [
    "ADAPTIVE",
    "FIXED",
    "GUARDED",
    "OWN",
    "PositionSums",
    "Sums",
    "Window",
    "histogram_edges",
    "over_steps",
    "pooled",
]

FIXED = {"kind": "RatioWindow", "low": 0.5, "high": 5.0}
ADAPTIVE = {"kind": "PositionAdaptiveWindow", "eps_low": 0.025, "eps_high": 0.05, "power": 0.5}


def pooled(steps: Sequence[PositionSums]) -> PositionSums:
    """Runs of equal layout as one: sums add up; folds stay apart, since another seed's are other groups.

    Raises:
        RecordError: layouts differ.
    """
    if any(step.layout != steps[0].layout for step in steps):
        raise RecordError("position_stats: runs of different layouts (method.position_stats) cannot be pooled")
    folds = [step.folds for step in steps]
    whole = reduce(PositionSums.__add__, steps)
    apart = Sums(
        np.concatenate([fold.sums for fold in folds], axis=1),
        np.concatenate([fold.counts for fold in folds], axis=1),
        whole.layout.windows,
    )
    return replace(whole, folds=apart, seeds=tuple(steps) if len(steps) > 1 else ())


def over_steps(steps: Sequence[PositionSums]) -> PositionSums:
    """Steps of the same runs as one. A fold holds the same prompts in every step, so it stays one group.

    Steps that not every seed recorded are left out.
    """
    seeds = max(len(step.seeds) for step in steps)
    complete = [step.seeds or (step,) for step in steps if len(step.seeds) == seeds]
    return pooled([reduce(PositionSums.__add__, own) for own in zip(*complete, strict=True)])
