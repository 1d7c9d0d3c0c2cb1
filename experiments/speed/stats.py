"""Position statistics of one training step at paper scale."""

from __future__ import annotations

import statistics
import tempfile
import time

import torch

from experiments.speed.loss import LENGTH, synthetic_batch
from experiments.speed.measuring import Row

PAPER_RESPONSES = 4096


def measure(rounds: int) -> list[Row]:
    """Position statistics of one training step at paper scale (4,096 responses of 8,000 tokens), fetch
    included."""
    from ctpo.methods import cumulative_log_ratio, token_log_ratio
    from ctpo.positions import PositionStats
    from ctpo.records import RunDirectory

    micro_batch = 8
    batch = synthetic_batch(micro_batch, LENGTH)
    log_probs = (batch["log_prob"].detach(), batch["old_log_prob"], batch["response_mask"])
    cumulative, token = cumulative_log_ratio(*log_probs), token_log_ratio(*log_probs)
    clipped = (cumulative > 0.5) & (batch["advantages"] > 0)
    folds = torch.arange(micro_batch)
    seconds = []
    for _ in range(max(1, rounds // 10)):
        stats = PositionStats.zeros(LENGTH)
        start = time.perf_counter()
        for index in range(PAPER_RESPONSES // micro_batch):
            stats.update(
                cumulative,
                batch["advantages"],
                batch["response_mask"],
                token_log_ratio=token,
                clipped_high=clipped,
                clipped_low=clipped,
                update_index=index * 16 * micro_batch // PAPER_RESPONSES,
                folds=folds,
            )
        arrays = stats.to_arrays()
        seconds.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        stored = RunDirectory(folder).write_position_stats(1, arrays, {}).stat().st_size
    return [
        Row(
            f"{PAPER_RESPONSES} x {LENGTH}  position statistics of a step",
            statistics.median(seconds),
            "s",
        ),
        Row(f"{PAPER_RESPONSES} x {LENGTH}  the same, stored", stored / 1e6, "MB", 1.0),
    ]
