from __future__ import annotations

import math

import pytest
import torch

from ctpo.methods.windows import DualClip, LogWindow, PositionAdaptiveWindow, RatioWindow

POSITIONS = torch.tensor([[1, 2, 3, 4, 100, 8000]])


def test_ratio_window_is_its_logarithms_at_every_position() -> None:
    low, high = RatioWindow(0.5, 5.0).log_bounds(POSITIONS)
    assert low.shape == high.shape == POSITIONS.shape
    torch.testing.assert_close(low, torch.full_like(low, math.log(0.5)))
    torch.testing.assert_close(high, torch.full_like(high, math.log(5.0)))


@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 1.0])
def test_adaptive_window_grows_as_a_power_of_the_position(power: float) -> None:
    low, high = PositionAdaptiveWindow(0.025, 0.05, power).log_bounds(POSITIONS)
    for column, t in enumerate(POSITIONS[0].tolist()):
        assert low[0, column].item() == pytest.approx(-0.025 * t**power, rel=1e-6)
        assert high[0, column].item() == pytest.approx(0.05 * t**power, rel=1e-6)


def test_power_zero_is_the_fixed_window() -> None:
    adaptive = PositionAdaptiveWindow(0.3, 0.4, 0.0).log_bounds(POSITIONS)
    for bound, fixed in zip(adaptive, LogWindow(-0.3, 0.4).log_bounds(POSITIONS), strict=True):
        assert torch.equal(bound, fixed)
    as_ratio = RatioWindow(math.exp(-0.3), math.exp(0.4)).log_bounds(POSITIONS)
    for bound, fixed in zip(adaptive, as_ratio, strict=True):
        torch.testing.assert_close(bound, fixed)


def test_bounds_are_finite_before_the_first_model_token() -> None:
    zero = torch.zeros(1, 1, dtype=torch.int64)
    for window in (RatioWindow(0.5, 5.0), PositionAdaptiveWindow(0.025, 0.05), LogWindow(-1, 1)):
        low, high = window.log_bounds(zero)
        assert low.item() <= 0 <= high.item()
        assert math.isfinite(low.item() + high.item())


def test_dual_clip_ceiling_grows_as_a_power_of_the_position() -> None:
    ceiling = DualClip(0.05, 0.5).log_ceiling(POSITIONS)
    torch.testing.assert_close(ceiling, 0.05 * POSITIONS.float().sqrt())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (RatioWindow, (0.0, 2.0)),
        (RatioWindow, (1.1, 2.0)),
        (RatioWindow, (0.5, 0.9)),
        (RatioWindow, (0.5, math.inf)),
        (RatioWindow, (math.nan, 2.0)),
        (LogWindow, (0.1, 0.2)),
        (LogWindow, (-0.1, -0.05)),
        (PositionAdaptiveWindow, (-0.1, 0.2, 0.5)),
        (PositionAdaptiveWindow, (0.1, math.nan, 0.5)),
        (PositionAdaptiveWindow, (0.1, 0.2, -1.0)),
        (DualClip, (-0.1, 0.5)),
    ],
)
def test_bounds_that_would_clip_an_unchanged_policy_are_refused(kind: type, values: tuple[float]) -> None:
    with pytest.raises(ValueError, match="must"):
        kind(*values)
