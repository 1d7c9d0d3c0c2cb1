"""The windows that the paper's figures compare, and several runs' position statistics as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

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


def pooled(runs: Sequence[PositionSums]) -> PositionSums:
    """Runs of equal layout as one. A fold holds the same prompts in every run that sees them, so it stays one group.

    Raises:
        RecordError: layouts differ.
    """
    if any(run.layout != runs[0].layout for run in runs):
        raise RecordError("position_stats: runs of different layouts (method.position_stats) cannot be pooled")
    return replace(_added(runs), seeds=tuple(runs) if len(runs) > 1 else ())


def over_steps(steps: Sequence[PositionSums]) -> PositionSums:
    """Steps of the same runs as one. Steps that not every seed recorded are left out."""
    seeds = max(len(step.seeds) for step in steps)
    complete = [step.seeds or (step,) for step in steps if len(step.seeds) == seeds]
    return pooled([_added(own) for own in zip(*complete, strict=True)])


def _added(parts: Sequence[PositionSums]) -> PositionSums:
    apart = tuple(one for part in parts for one in part.apart or (part,))
    return replace(reduce(PositionSums.__add__, parts), apart=apart)
