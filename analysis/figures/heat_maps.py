"""Heat maps: spread and clip rate by position and training step, and by position and update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm

from analysis import style
from analysis.artifacts import Artifact
from analysis.inputs import Sweep
from analysis.position_sums import ADAPTIVE, PositionSums, Sums

#: At most this many training steps are shown, evenly spread over the run.
MAX_STEPS = 40

_CAPTION = (
    "Left: standard deviation of the cumulative log-ratio; right: share of tokens that the adaptive window "
    "clips. Top: by training step, updates pooled (the first left out). Bottom: by mini-batch update within "
    "step {last}; the first update comes before the policy has moved. Colours follow the square root, so that "
    "one wild step does not hide the others. Cells with fewer than {least} tokens are blank."
)
LEAST_TOKENS = 20
MAX_TICKS = 6


def make(sweep: Sweep, model: str, method: str) -> Artifact:
    """Two quantities by training step above, by update below."""
    runs, loaded = sweep.sums_over_training(model, method, MAX_STEPS)
    last, newest = loaded[-1]
    grids = {
        "training step": ([step for step, _ in loaded], [sums.bins for _, sums in loaded]),
        "update within the step": (list(range(len(newest.updates.sums[0]))), _rows(newest.updates)),
    }
    figure, axes = style.panels(2, 2, 2 * style.ROW + 0.3, sharex=True)
    quantities = (
        ("std", r"std of $\log\rho_t$", "rocket_r"),
        ("clip_rate_adaptive", "clipped tokens (adaptive window)", "mako_r"),
    )
    tables = []
    for row, (label, (values, cells)) in enumerate(grids.items()):
        for column, (quantity, title, colours) in enumerate(quantities):
            grid = np.array([_quantity(cell, quantity) for cell in cells])
            bar = _draw(figure, axes[row, column], grid, values, newest, colours)
            axes[row, column].set_title(title if row == 0 else f"{title}, step {last}", loc="left")
            if quantity != "std":
                bar.ax.yaxis.set_major_formatter(style.percent)
            axes[row, column].set_ylabel(label)
            tables.append(_table(label, values, quantity, grid, newest))
    for axis in axes[1]:
        axis.set_xlabel("position $t$ (model tokens)")
    caption = _CAPTION.format(last=last, least=LEAST_TOKENS)
    title = f"Heat maps ({model}, {style.look(method).label})"
    return Artifact(f"heat_maps_{model}_{method}", title, caption, runs, pd.concat(tables), figure)


def _rows(updates: Sums) -> list[Sums]:
    used = [index for index in range(updates.sums.shape[1]) if updates.count[index].sum() > 0]
    return [updates[index] for index in range(max(used, default=0) + 1)]


def _quantity(cells: Sums, quantity: str) -> np.ndarray:
    values = cells.std if quantity == "std" else cells.clip_rate(ADAPTIVE)
    return np.where(cells.count >= LEAST_TOKENS, values, np.nan)


def _draw(figure: Any, axis: Any, grid: np.ndarray, values: list[int], sums: PositionSums, colours: str) -> Any:
    import seaborn as sns

    filled = np.flatnonzero(np.isfinite(grid).any(0))
    width = int(filled[-1]) + 1 if filled.size else 1
    edges = np.arange(width + 1) * sums.bin_width
    rows = np.arange(len(grid) + 1) - 0.5
    palette = sns.color_palette(colours, as_cmap=True)
    top = max(0.01, float(np.nanmax(grid, initial=0.0)))
    mesh = axis.pcolormesh(edges, rows, grid[:, :width], cmap=palette, norm=PowerNorm(0.5, 0.0, top), rasterized=True)
    axis.grid(False)
    shown = np.arange(0, len(grid), -(-len(grid) // MAX_TICKS))
    axis.set_yticks(shown, [str(values[row]) for row in shown])
    return figure.colorbar(mesh, ax=axis)


def _table(label: str, values: list[int], quantity: str, grid: np.ndarray, sums: PositionSums) -> pd.DataFrame:
    rows, columns = np.indices(grid.shape)
    table = pd.DataFrame(
        {
            "rows_are": label,
            "row": np.array(values)[rows.ravel()],
            "first_position": columns.ravel() * sums.bin_width + 1,
            "quantity": quantity,
            "value": grid.ravel(),
        }
    )
    return table.dropna()
