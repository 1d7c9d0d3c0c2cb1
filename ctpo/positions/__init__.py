"""How the cumulative log-ratio behaves at every position, summed while a run trains. `ctpo.records` has the format."""

from ctpo.positions.recorder import PositionRecorder
from ctpo.positions.stats import COUNTERFACTUAL_WINDOWS, PositionStats

__all__ = ["COUNTERFACTUAL_WINDOWS", "PositionRecorder", "PositionStats"]
