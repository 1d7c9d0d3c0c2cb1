"""The position plot in wandb: a mirror for people who watch a run; the record is `position_stats/`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctpo.records.position_stats import PositionSums

MOST_POINTS = 200


def position_plots(wandb: Any, sums: PositionSums) -> dict[str, Any]:
    """Line plots over token position: std of the cumulative log-ratio, clip rates. `wandb` is the module.

    At most `MOST_POINTS` positions, evenly spaced, among those that two or more responses reach.
    """
    cells, (fixed, adaptive) = sums.positions, sums.layout.windows[:2]
    reached = np.flatnonzero(cells.count >= 2)
    if len(reached) == 0:
        return {}
    chosen = reached[np.linspace(0, len(reached) - 1, min(MOST_POINTS, len(reached))).round().astype(int)]
    rates = {"own window": cells.clip_rate(), "fixed": cells.clip_rate(fixed), "adaptive": cells.clip_rate(adaptive)}
    lines = {"std": ("std of the cumulative log-ratio", {"std": cells.std})}
    lines["clip_rate"] = ("share of clipped tokens", rates)
    xs, xname = (chosen + 1).tolist(), "position (model tokens)"
    return {
        f"position/{name}": wandb.plot.line_series(
            xs, [value[chosen].tolist() for value in values.values()], list(values), title, xname
        )
        for name, (title, values) in lines.items()
    }
