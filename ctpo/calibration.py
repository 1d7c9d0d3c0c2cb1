"""The measured spread of `log rho_t` at every position, for windows that follow it (`CalibratedWindow`).

Each recorded training step adds its tokens' count, sum and sum of squares of `log rho_t`, by position and over all
training processes, to an exponentially forgotten total. So what a window clips in a step was measured in the steps
before it, and is the same in every process. The state is a function of the run's own records: a run that resumes makes
it again from them, exactly, and no checkpoint has to hold it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ctpo.clipping import CalibratedWindow
from ctpo.methods import Method
from ctpo.position_moments import S_SQUARE, S_SQUARE_FINE, S_SUM, Moments
from ctpo.position_stats import PositionStats
from ctpo.records import RunDirectory

ASSUMED_TOKENS = 64.0
"""How many tokens' worth of evidence the fitted square-root law is at a position, against the tokens measured there."""


class Calibration:
    """Standard deviations of `log rho_t` at positions 1, 2, ..., measured over past steps."""

    def __init__(self, decay: float, max_position: int):
        self._decay = decay
        self._totals = torch.zeros(3, max_position, dtype=torch.float64)

    @classmethod
    def of(cls, method: Method, max_position: int) -> Calibration | None:
        """What the method's window needs; None if it follows nothing measured."""
        window = method.window
        return cls(window.decay, max_position) if isinstance(window, CalibratedWindow) else None

    def learn(self, step: Moments) -> None:
        """Add one step's moments by position (`PositionStats.positions`)."""
        squares = step.sums[S_SQUARE] + step.sums[S_SQUARE_FINE]
        seen = torch.stack([step.count.double(), step.sums[S_SUM], squares]).cpu()
        self._totals.mul_(self._decay).add_(seen)

    def replay(self, records: RunDirectory) -> None:
        """Start anew and learn every recorded step of a run."""
        self._totals.zero_()
        for arrays in records.position_stats():
            self.learn(PositionStats.from_arrays(arrays).positions)

    @property
    def scale(self) -> float | None:
        """`c` of the law `c sqrt(t)` that has the measured variance, positions weighted by tokens; None: no data."""
        counts, spread = self._spread()
        positions = torch.arange(1, len(counts) + 1, dtype=torch.float64)
        expected = float(counts @ positions)
        return float(spread.sum() / expected) ** 0.5 if expected > 0 and spread.sum() > 0 else None

    @property
    def deviations(self) -> Tensor | None:
        """Float32 `[max_position]`; None before anything was measured.

        Where few tokens reach a position its own variance counts little against the square-root law's.
        """
        scale = self.scale
        if scale is None:
            return None
        counts, spread = self._spread()
        law = scale**2 * torch.arange(1, len(counts) + 1, dtype=torch.float64)
        return ((spread + ASSUMED_TOKENS * law) / (counts + ASSUMED_TOKENS)).sqrt().float()

    def _spread(self) -> tuple[Tensor, Tensor]:
        counts, sums, squares = self._totals
        return counts, (squares - sums * sums / counts.clamp(min=np.finfo(np.float64).tiny)).clamp(min=0.0)


def calibration_metrics(calibration: Calibration | None) -> dict[str, float]:
    """`position/deviation_scale`, for `metrics.jsonl`; empty where nothing is calibrated or measured."""
    scale = None if calibration is None else calibration.scale
    return {} if scale is None else {"position/deviation_scale": scale}
