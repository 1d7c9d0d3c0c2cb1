"""Loss forward and backward of every method against verl's `vanilla`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.benchmarks.measuring import Row, interleaved, ratio_rows

LENGTH = 8000
SHAPES = ((1, LENGTH), (8, LENGTH))
AT_MOST = 1.5
"""Every method's loss at the larger shape, and CTPO's with statistics at both, as multiples of verl's `vanilla`."""


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


def measure(rounds: int) -> list[Row]:
    """Loss forward and backward of every method, and of CTPO with statistics, against verl's vanilla."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.workers.config import FSDPActorConfig, PolicyLossConfig

    from ctpo.actor_config import MethodActorConfig
    from ctpo.methods import METHODS
    from ctpo.methods.windows import CalibratedWindow
    from ctpo.policy_loss import register_policy_losses
    from ctpo.positions import PositionRecorder, PositionStats

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
                loss_scale_factor=LENGTH,
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
            config = config_of(name)
            if isinstance(method.window, CalibratedWindow):
                config.calibrate(torch.linspace(0.01, 1.0, length))
            contenders[name] = contender(f"ctpo/{name}", method.aggregation, config)
        with_stats = "ctpo + position statistics"
        contenders[with_stats] = contender("ctpo/ctpo", METHODS["ctpo"].aggregation, observed)
        times = interleaved(contenders, rounds)
        bounded = [with_stats, *(METHODS if (responses, length) == SHAPES[-1] else [])]
        rows += ratio_rows(times, "vanilla", f"{responses} x {length}", dict.fromkeys(bounded, AT_MOST))
    return rows
