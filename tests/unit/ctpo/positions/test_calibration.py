from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctpo.methods import METHODS
from ctpo.methods.windows import ASSUMED_DEVIATION, CalibratedWindow, PositionAdaptiveWindow
from ctpo.positions import PositionStats
from ctpo.positions.calibration import ASSUMED_TOKENS, Calibration
from ctpo.records import RunDirectory
from ctpo.training.step_metrics import merge_ranks

LENGTH = 24


def step_stats(seed: int, spread: float, responses: int = 40) -> tuple[PositionStats, list[list[float]]]:
    """Statistics of a step's second update, and the cumulative log-ratios at every position."""
    generator = torch.Generator().manual_seed(seed)
    d = spread * torch.randn(responses, LENGTH, generator=generator)
    mask = torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (responses, 1), generator=generator)
    sums = torch.where(mask, d, 0.0).cumsum(-1)
    stats = PositionStats.zeros(LENGTH, bin_width=8)
    stats.update(torch.where(mask, sums, 0.0), torch.ones_like(d), mask)
    return stats, [sums[mask[:, t], t].double().tolist() for t in range(LENGTH)]


def expected_deviations(steps: list[list[list[float]]], decay: float) -> list[float]:
    """By loops: weighted variance per position, drawn towards the square-root law where there are few tokens."""
    counts, spreads = [], []
    for t in range(LENGTH):
        weighted = [(decay ** (len(steps) - 1 - k), value) for k, step in enumerate(steps) for value in step[t]]
        count = sum(weight for weight, _ in weighted)
        mean = sum(weight * value for weight, value in weighted) / count if count else 0.0
        counts.append(count)
        spreads.append(sum(weight * (value - mean) ** 2 for weight, value in weighted))
    law = sum(spreads) / sum(count * (t + 1) for t, count in enumerate(counts))
    return [
        ((spread + ASSUMED_TOKENS * law * (t + 1)) / (count + ASSUMED_TOKENS)) ** 0.5
        for t, (count, spread) in enumerate(zip(counts, spreads, strict=True))
    ]


def test_deviations_are_the_exponentially_weighted_ones_of_all_steps() -> None:
    calibration, steps = Calibration(0.8, LENGTH), []
    for seed, spread in enumerate([0.05, 0.2, 0.1]):
        stats, values = step_stats(seed, spread)
        steps.append(values)
        calibration.learn(stats.read().positions)
        assert calibration.deviations is not None
        np.testing.assert_allclose(calibration.deviations, expected_deviations(steps, 0.8), rtol=1e-4)


def test_positions_that_nothing_reached_follow_the_square_root_law() -> None:
    calibration = Calibration(0.9, 4 * LENGTH)
    d = 0.1 * torch.randn(4000, LENGTH, generator=torch.Generator().manual_seed(0))
    stats = PositionStats.zeros(4 * LENGTH, bin_width=8)
    stats.update(d.cumsum(-1), torch.ones_like(d), torch.ones_like(d, dtype=torch.bool))
    calibration.learn(stats.read().positions)
    assert calibration.scale == pytest.approx(0.1, rel=0.05)
    positions = torch.arange(1, 4 * LENGTH + 1)
    torch.testing.assert_close(calibration.deviations, 0.1 * positions.sqrt(), rtol=0.06, atol=0.0)


def test_before_anything_is_measured_the_window_is_ctpos() -> None:
    window = METHODS["ctpo_calibrated"].window
    calibration = Calibration.of(METHODS["ctpo_calibrated"], LENGTH)
    assert calibration is not None
    assert calibration.deviations is None
    assert calibration.scale is None
    positions = torch.arange(1, 8001)
    for bound, ctpos in zip(
        window.log_bounds(positions), PositionAdaptiveWindow(0.025, 0.05).log_bounds(positions), strict=True
    ):
        torch.testing.assert_close(bound, ctpos)
    assert ASSUMED_DEVIATION * 2.5 == 0.05
    # A step that moved nothing teaches nothing.
    calibration.learn(step_stats(0, 0.0)[0].read().positions)
    assert calibration.deviations is None
    assert Calibration.of(METHODS["ctpo"], LENGTH) is None


def test_a_resumed_run_has_exactly_the_state_of_one_that_never_stopped(tmp_path: Path) -> None:
    records = RunDirectory(tmp_path / "runs" / "s" / "m" / "ctpo_calibrated" / "seed0")
    live = Calibration(0.9, LENGTH)
    states = []
    for step in range(1, 13):  # past 9, where names no longer sort as numbers
        # Two ranks, merged as the trainer does.
        stats = merge_ranks([step_stats(10 * step + rank, 0.1)[0].read() for rank in range(2)])
        records.write_position_stats(step, stats.to_arrays(), {"method": "ctpo_calibrated"})
        live.learn(stats.positions)
        states.append(live.deviations)
    resumed = Calibration(0.9, LENGTH)
    resumed.replay(records)
    torch.testing.assert_close(resumed.deviations, states[-1], rtol=0, atol=0)
    # A checkpoint of an earlier step: what came after is dropped first.
    records.set_aside_after(7)
    resumed.replay(records)
    torch.testing.assert_close(resumed.deviations, states[6], rtol=0, atol=0)


def test_the_window_reads_its_own_position_and_the_last_one_beyond() -> None:
    window = CalibratedWindow(1.0, 2.0, 0.9, torch.tensor([0.1, 0.2, 0.3]))
    low, high = window.log_bounds(torch.tensor([[0, 1, 2, 3, 9]]))
    torch.testing.assert_close(high, torch.tensor([[0.2, 0.2, 0.4, 0.6, 0.6]]))
    torch.testing.assert_close(low, -high / 2)
    assert window == CalibratedWindow(1.0, 2.0, 0.9)
    assert hash(window) == hash(CalibratedWindow(1.0, 2.0, 0.9))
