"""Speed, measured side by side in one run: `python experiments/bench.py [loss|stats|all]`.

A ratio is the median over rounds of (this contender's time / the reference's time in the same round), so
that a machine that slows down for a while slows both. A round runs every contender several times in turn,
because the position statistics do some of their work only every few micro-batches; what counts is the
round's total.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

CALLS_PER_ROUND = 16
LENGTH = 8000
SHAPES = ((1, LENGTH), (8, LENGTH))
PAPER_RESPONSES = 4096


@dataclass(frozen=True)
class Row:
    """One measurement: its value, what it is in, and the most it may be (None: no stated bound)."""

    label: str
    value: float
    unit: str
    bound: float | None = None

    @property
    def broken(self) -> bool:
        """Whether the stated bound is exceeded."""
        return self.bound is not None and self.value > self.bound


Section = Callable[[int], list[Row]]
SECTIONS: dict[str, Section] = {}
"""Name -> measurement, given the number of rounds. `all` runs every one in this order."""


def section(name: str) -> Callable[[Section], Section]:
    """Register a measurement under a name of the command line."""

    def register(measure: Section) -> Section:
        SECTIONS[name] = measure
        return measure

    return register


def interleaved(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds per call of each contender in every round, after two warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 2):
        total = dict.fromkeys(contenders, 0.0)
        for _ in range(CALLS_PER_ROUND):
            for name, call in contenders.items():
                start = time.perf_counter()
                call()
                total[name] += time.perf_counter() - start
        if number >= 2:
            for name, seconds in total.items():
                times[name].append(seconds / CALLS_PER_ROUND)
    return times


def ratio_rows(times: dict[str, list[float]], reference: str, shape: str, bounds: dict[str, float]) -> list[Row]:
    """The reference in milliseconds, then every other contender as a multiple of it."""
    rows = [Row(f"{shape}  verl {reference}", 1e3 * statistics.median(times[reference]), "ms")]
    for name, seconds in times.items():
        if name != reference:
            ratio = statistics.median(a / b for a, b in zip(seconds, times[reference], strict=True))
            rows.append(Row(f"{shape}  {name}", ratio, f"x {reference}", bounds.get(name)))
    return rows


def synthetic_batch(responses: int, length: int) -> dict[str, Tensor]:
    """A micro-batch as the tool loop makes it: stretches of tool output between stretches of model tokens."""
    generator = torch.Generator().manual_seed(0)
    old = -3 * torch.rand(responses, length, generator=generator)
    segment = torch.arange(length) // 500 % 4
    return {
        "old_log_prob": old,
        "log_prob": (old + 0.01 * torch.randn(old.shape, generator=generator)).requires_grad_(),
        "advantages": torch.randn(responses, 1, generator=generator).repeat(1, length),
        "response_mask": (segment != 3).repeat(responses, 1),
    }


@section("loss")
def bench_loss(rounds: int) -> list[Row]:
    """Loss forward and backward of every method, and of CTPO with statistics, against verl's vanilla."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.workers.config import FSDPActorConfig, PolicyLossConfig

    from ctpo.actor_config import MethodActorConfig
    from ctpo.methods import METHODS
    from ctpo.policy_loss import register_policy_losses
    from ctpo.position_stats import PositionRecorder, PositionStats

    register_policy_losses()
    rows: list[Row] = []
    for responses, length in SHAPES:
        batch = synthetic_batch(responses, length)
        sizes = {"rollout_n": responses, "ppo_micro_batch_size_per_gpu": responses}

        def config_of(name: str, sizes: dict[str, int] = sizes) -> MethodActorConfig:
            return MethodActorConfig(
                **sizes,
                method={"name": name},
                policy_loss=PolicyLossConfig(loss_mode=f"ctpo/{name}"),
                loss_agg_mode=METHODS[name].aggregation,
            )

        observed = config_of("ctpo")
        recorder = PositionRecorder(PositionStats.zeros(length))
        recorder.folds = torch.arange(responses) % 32
        for _ in range(2):  # past the first update of a step, which is recorded in less detail
            recorder.begin_update()
        observed.observer = recorder

        def contender(
            loss: str, mode: str, config: FSDPActorConfig, batch: dict[str, Tensor] = batch
        ) -> Callable[[], None]:
            function = get_policy_loss_fn(loss)

            def call() -> None:
                batch["log_prob"].grad = None
                value, _ = function(**batch, loss_agg_mode=mode, config=config)
                value.backward()

            return call

        plain = FSDPActorConfig(**sizes)
        contenders: dict[str, Callable[[], object]] = {"vanilla": contender("vanilla", "seq-mean-token-mean", plain)}
        for name, method in METHODS.items():
            contenders[name] = contender(f"ctpo/{name}", method.aggregation, config_of(name))
        with_stats = "ctpo + position statistics"
        contenders[with_stats] = contender("ctpo/ctpo", METHODS["ctpo"].aggregation, observed)
        times = interleaved(contenders, rounds)
        rows += ratio_rows(times, "vanilla", f"{responses} x {length}", {with_stats: 1.5})
    return rows


@section("stats")
def bench_stats(rounds: int) -> list[Row]:
    """Position statistics of one training step at paper scale (4,096 responses of 8,000 tokens), fetch
    included."""
    from ctpo.log_ratios import cumulative_log_ratio, token_log_ratio
    from ctpo.position_stats import PositionStats

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
        stats.to_arrays()
        seconds.append(time.perf_counter() - start)
    return [
        Row(
            f"{PAPER_RESPONSES} x {LENGTH}  position statistics of a step",
            statistics.median(seconds),
            "s",
            2.0,
        )
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="?", default="all", choices=[*SECTIONS, "all"], help="what to measure")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of %(default)s interleaved measurements")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a stated bound is exceeded")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds: must be at least 1, got {options.rounds}")
    table = Table("measurement", "value", "unit", "bound", title=f"{torch.get_num_threads()} threads")
    broken = 0
    for name in SECTIONS if options.section == "all" else [options.section]:
        for row in SECTIONS[name](options.rounds):
            bound = "" if row.bound is None else f"{row.bound:g}{'  EXCEEDED' if row.broken else ''}"
            table.add_row(row.label, f"{row.value:.2f}", row.unit, bound)
            broken += row.broken
    Console().print(table)
    load = f"machine load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    print(f"bench: {broken} stated bounds exceeded; {load}")
    return 1 if options.check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
