"""The sums behind the position statistics: their layout, and the moments and rates that follow from them.

Every real value is rounded to a multiple of a fixed unit before it is added, and float64 adds such multiples
without error while the sum of their sizes stays below 2**53 units. So sums do not depend on the order of
adding: any split over micro-batches, ranks and merges gives bit-identical ones. The units leave room for
`EXACT_RESPONSES` responses whose values are all the largest possible (token log-ratio `d` 20, cumulative
log-ratio `S` 20 times 8,000); past that, sums lose their last bit instead of overflowing. Squares are kept as
two addends, a coarse and a fine one, since no single unit has both their range and their resolution. A single
value moves by at most half a unit:

    S 2**-22 (2.4e-7)    d 2**-35 (2.9e-11)

and its square is that of the rounded value, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctpo.clipping import Window

EXACT_RESPONSES = 2**14

# Rows of `Moments.sums`. A fine addend is what the coarse one leaves: a multiple of the value's unit squared.
S_SUM, D_SUM, S_SQUARE, D_SQUARE, S_SQUARE_FINE, D_SQUARE_FINE = range(6)
VALUE_UNITS, COARSE_SQUARE_UNITS = (2.0**-21, 2.0**-34), (2.0**-3, 2.0**-30)

# Rows of `Moments.counts`; from FIRST_WINDOW on, (high, low) of each counterfactual window.
TOKENS, OWN_HIGH, OWN_LOW, OWN_DUAL, FIRST_WINDOW = range(5)

BYTES = 8  # clip flags are summed as bytes, eight positions to an integer
MAX_BIN_WIDTH = 255 * BYTES  # eight of them at a time, too

# The histograms' buckets are cut out of a float32's own bits: exponent and leading mantissa bits.
MANTISSA_BITS = 2
SMALLEST_EXPONENT, LARGEST_EXPONENT = -13, 6
BUCKETS = (LARGEST_EXPONENT - SMALLEST_EXPONENT) << MANTISSA_BITS


def histogram_edges() -> NDArray[np.float64]:
    """The 153 edges of the log-ratio histograms, the first and last infinite.

    Four buckets per factor of two between 2**-13 and 2**6 on either side of 0, so that a quantile is known to
    within a quarter of itself before interpolation. Bucket i holds `edges[i] <= x < edges[i + 1]` from 0 up,
    and `edges[i] < x <= edges[i + 1]` below 0.
    """
    steps = 1 << MANTISSA_BITS
    octave = 1 + np.arange(steps) / steps
    positive = np.concatenate([octave * 2.0**e for e in range(SMALLEST_EXPONENT, LARGEST_EXPONENT)])[1:]
    return np.concatenate([[-np.inf], -positive[::-1], [0.0], positive, [np.inf]])


@dataclass(frozen=True)
class Moments:
    """Sums over the tokens of each cell of a grid (positions; updates x bins; folds x bins).

    `sums` is float64 `[6, *grid]`, `counts` int64 `[features, *grid]`; every result has the grid's shape.
    """

    sums: Tensor
    counts: Tensor
    windows: tuple[Window, ...]

    @property
    def count(self) -> Tensor:
        """Number of model tokens, int64."""
        return self.counts[TOKENS]

    @property
    def mean(self) -> Tensor:
        """Mean cumulative log-ratio; NaN where there is no token."""
        return self.sums[S_SUM] / self.count

    @property
    def std(self) -> Tensor:
        """Sample standard deviation (ddof=1) of the cumulative log-ratio; NaN below two tokens."""
        return self._std(S_SUM, S_SQUARE, S_SQUARE_FINE)

    @property
    def token_mean(self) -> Tensor:
        """Mean token log-ratio `d`; NaN where there is no token."""
        return self.sums[D_SUM] / self.count

    @property
    def token_std(self) -> Tensor:
        """Sample standard deviation (ddof=1) of `d`; if uncorrelated, its squares add up to `std**2`."""
        return self._std(D_SUM, D_SQUARE, D_SQUARE_FINE)

    def _std(self, first: int, square: int, fine: int) -> Tensor:
        total = self.sums[first]
        spread = (self.sums[square] - total * (total / self.count)) + self.sums[fine]
        freedom = torch.where(self.count > 1, self.count - 1, torch.nan)
        return (spread / freedom).clamp(min=0.0).sqrt()

    def clip_counts(self, window: Window | None = None) -> tuple[Tensor, Tensor]:
        """Tokens clipped (high, low), int64, under one of `windows`; None means by the run's own method.

        Raises:
            ValueError: the window is not one of `windows`.
        """
        if window is None:
            return self.counts[OWN_HIGH], self.counts[OWN_LOW]
        if window not in self.windows:
            raise ValueError(f"{window} was not recorded; recorded: {', '.join(map(str, self.windows))}")
        high = FIRST_WINDOW + 2 * self.windows.index(window)
        return self.counts[high], self.counts[high + 1]

    def clip_rate(self, window: Window | None = None) -> Tensor:
        """Share of tokens clipped under `window` (None: by the run's own method); NaN without tokens."""
        high, low = self.clip_counts(window)
        return (high + low) / self.count

    @property
    def dual_clip_count(self) -> Tensor:
        """Tokens that the run's own dual clip cut, int64; not part of any clip rate."""
        return self.counts[OWN_DUAL]


@dataclass(frozen=True)
class Layout:
    """Sizes of the statistics, at least 1; `bin_width` is in positions, a multiple of 8, at most 2,040."""

    max_position: int
    windows: tuple[Window, ...]
    bin_width: int
    folds: int
    max_updates: int

    def __post_init__(self) -> None:
        for name in ("max_position", "bin_width", "folds", "max_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"position_stats.{name}: must be at least 1, got {getattr(self, name)}")
        if self.bin_width % BYTES or self.bin_width > MAX_BIN_WIDTH:
            raise ValueError(
                f"position_stats.bin_width: must be a multiple of {BYTES} up to {MAX_BIN_WIDTH}, got {self.bin_width}"
            )

    @property
    def bins(self) -> int:
        """Number of position bins; bin b holds positions `b * bin_width + 1 .. (b + 1) * bin_width`."""
        return -(-self.max_position // self.bin_width)

    @property
    def width(self) -> int:
        """Positions in all bins: `max_position` rounded up to whole bins."""
        return self.bins * self.bin_width

    @property
    def features(self) -> int:
        """Number of counts kept per cell."""
        return FIRST_WINDOW + 2 * len(self.windows)

    def moments(self, *grid: int, device: torch.device | str) -> Moments:
        """Zero sums for a grid of cells."""
        return Moments(
            torch.zeros(6, *grid, dtype=torch.float64, device=device),
            torch.zeros(self.features, *grid, dtype=torch.int64, device=device),
            self.windows,
        )
