"""The measured spread of `log rho_t` at every position, for windows that follow it (`CalibratedWindow`).

Each recorded step adds its count, sum and sum of squares by position to an exponentially forgotten total. So the bounds
of a step come from the steps before it, and are the same in every process. A run that resumes makes the state again
from its own records, exactly, and no checkpoint has to hold it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ctpo.methods import CalibratedWindow, Method
from ctpo.records import RunDirectory
from ctpo.records.position_stats import S_SQUARE, S_SQUARE_FINE, S_SUM, FloatArray, PositionSums, Sums

ASSUMED_TOKENS = 64.0
"""How many tokens' worth of evidence the fitted square-root law is at a position, against the tokens measured there."""


class Calibration:
    """Standard deviations of `log rho_t` at positions 1, 2, ..., measured over past steps."""

    def __init__(self, decay: float, max_position: int):
        self._decay = decay
        self._totals: FloatArray = np.zeros((3, max_position))
        self._positions: FloatArray = np.arange(1, max_position + 1, dtype=np.float64)

    @classmethod
    def of(cls, method: Method, max_position: int) -> Calibration | None:
        """What the method's window needs; None if it follows nothing measured."""
        window = method.window
        return cls(window.decay, max_position) if isinstance(window, CalibratedWindow) else None

    def learn(self, step: Sums) -> None:
        """Add one step's sums by position."""
        squares = step.sums[S_SQUARE] + step.sums[S_SQUARE_FINE]
        self._totals = self._decay * self._totals + np.stack([step.count, step.sums[S_SUM], squares])

    def replay(self, records: RunDirectory) -> None:
        """Start anew and learn every recorded step of a run."""
        self._totals = np.zeros_like(self._totals)
        for arrays in records.position_stats():
            self.learn(PositionSums.from_arrays(arrays).positions)

    @property
    def scale(self) -> float | None:
        """`c` of the law `c sqrt(t)` that has the measured variance, positions weighted by tokens; None: no data."""
        counts, spread = self._measured()
        expected = float(counts @ self._positions)
        return float(spread.sum() / expected) ** 0.5 if expected > 0 and spread.sum() > 0 else None

    @property
    def deviations(self) -> Tensor | None:
        """Float32 `[max_position]`; None before anything was measured.

        Where few tokens reach a position its own variance counts little against the square-root law's.
        """
        if (scale := self.scale) is None:
            return None
        counts, spread = self._measured()
        variances = (spread + ASSUMED_TOKENS * scale**2 * self._positions) / (counts + ASSUMED_TOKENS)
        return torch.from_numpy(np.sqrt(variances)).float()

    def _measured(self) -> tuple[FloatArray, FloatArray]:
        """Tokens, and the sum of their squared deviations, by position."""
        counts, sums, squares = self._totals
        spread = squares - sums * sums / np.maximum(counts, np.finfo(np.float64).tiny)
        return counts, np.maximum(spread, 0.0)
