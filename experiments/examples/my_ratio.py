"""An importance ratio of one's own, in a file outside the package: the last 32 columns and no more."""

import torch
from torch import Tensor

from ctpo.clipping import PositionAdaptiveWindow
from ctpo.log_ratios import LogRatio, masked
from ctpo.methods import Method


def recent_sum(increments: Tensor, bits: Tensor) -> Tensor:
    """`d_{t-31} + ... + d_t`, from all `d` and the mask, `[batch, length]`; the gradient is the package's business."""
    sums = increments.cumsum(-1)
    return masked(sums - torch.nn.functional.pad(sums, (32, 0))[:, : sums.shape[1]], bits)


method = Method("recent", LogRatio("recent", recent_sum), PositionAdaptiveWindow(0.025, 0.05), "an example")
