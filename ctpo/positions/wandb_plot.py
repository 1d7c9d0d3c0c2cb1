"""The position plot in wandb: a mirror for people who watch a run; the record is `position_stats/`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctpo.records.position_stats import FloatArray, PositionSums

MOST_POINTS = 200


def position_plots(wandb: Any, sums: PositionSums) -> dict[str, Any]:
    """Line plots over token position: std of the cumulative log-ratio, clip rates. `wandb` is the module.

    At most `MOST_POINTS` positions, evenly spaced, among those that two or more responses reach.
    """
    cells = sums.positions
    reached = np.flatnonzero(cells.count >= 2)
    if len(reached) == 0:
        return {}
    chosen = reached[np.linspace(0, len(reached) - 1, min(MOST_POINTS, len(reached))).round().astype(int)]
    fixed, adaptive = sums.layout.windows[:2]

    def lines(title: str, values: dict[str, FloatArray]) -> Any:
        return wandb.plot.line_series(
            xs=(chosen + 1).tolist(),
            ys=[value[chosen].tolist() for value in values.values()],
            keys=list(values),
            title=title,
            xname="position (model tokens)",
        )

    rates = {"own window": cells.clip_rate(), "fixed": cells.clip_rate(fixed), "adaptive": cells.clip_rate(adaptive)}
    return {
        "position/std": lines("std of the cumulative log-ratio", {"std": cells.std}),
        "position/clip_rate": lines("share of clipped tokens", rates),
    }
