"""The plot in wandb shows the same numbers as the statistics. wandb is real, in offline mode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import wandb

from ctpo.positions import PositionStats
from ctpo.positions.wandb_plot import MOST_POINTS, position_plots
from ctpo.records.position_stats import PositionSums


def statistics(length: int) -> PositionSums:
    torch.manual_seed(0)
    stats = PositionStats.zeros(length)
    increments = 0.1 * torch.randn(6, length)
    stats.update(increments.cumsum(-1), torch.randn(6, length), torch.ones(6, length))
    return stats.read()


def test_the_plot_holds_the_statistics_at_its_positions() -> None:
    stats = statistics(40)
    plots = position_plots(wandb, stats)
    assert set(plots) == {"position/std", "position/clip_rate"}
    table = plots["position/std"].table
    step, value = table.columns.index("step"), table.columns.index("lineVal")
    shown = {row[step]: row[value] for row in table.data}
    assert sorted(shown) == list(range(1, 41))
    assert shown[7] == pytest.approx(stats.positions.std[6])


def test_a_long_response_is_thinned_and_an_empty_step_gives_no_plot() -> None:
    table = position_plots(wandb, statistics(8 * MOST_POINTS))["position/std"].table
    assert len(table.data) == MOST_POINTS
    assert position_plots(wandb, PositionStats.zeros(16).read()) == {}


def test_wandb_accepts_it_offline(tmp_path: Path) -> None:
    run = wandb.init(project="ctpo", mode="offline", dir=tmp_path)
    run.log(position_plots(wandb, statistics(24)), step=1)
    run.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
