"""Loss and position statistics: as a share of an actor update on `tiny`, and beside verl's `vanilla`."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.speed.measuring import Row, interleaved, ratio_rows

if TYPE_CHECKING:
    from verl.workers.config import FSDPActorConfig

    from ctpo.training.actor_config import MethodActorConfig

LENGTH = 8000
MOST_OF_AN_UPDATE = 3.0
"""Per cent of an actor update on `tiny` that CTPO's loss and statistics may take together."""
TINY = {"responses": 16, "prompt": 96, "response": 256}
"""A mini-batch of `experiments/configs/model/tiny.yaml`, which is one micro-batch."""


def synthetic_batch(responses: int, length: int) -> dict[str, Tensor]:
    """A micro-batch as the tool loop makes it: stretches of tool output between stretches of model tokens."""
    generator = torch.Generator().manual_seed(0)
    old = -3 * torch.rand(responses, length, generator=generator)
    segment = torch.arange(length) // (length // 16) % 4
    return {
        "old_log_prob": old,
        "log_prob": (old + 0.01 * torch.randn(old.shape, generator=generator)).requires_grad_(),
        "advantages": torch.randn(responses, 1, generator=generator).repeat(1, length),
        "response_mask": (segment != 3).repeat(responses, 1),
    }


def measure(rounds: int) -> list[Row]:
    """The share of an update first, then every method against verl's `vanilla`."""
    return [_share_of_an_update(rounds), *_against_vanilla(rounds)]


def _share_of_an_update(rounds: int) -> Row:
    """Forward and backward pass, clipping and optimizer step as the actor makes them, without verl's own overhead."""
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM

    from experiments.tiny.build import tiny_model
    from experiments.tiny.spec import TinyModelSpec

    responses, length = TINY["responses"], TINY["response"]
    model = AutoModelForCausalLM.from_pretrained(tiny_model(TinyModelSpec(), progress=False), dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    batch = synthetic_batch(responses, length)
    loss = _loss(_config("ctpo", responses, with_statistics=True), batch)
    ids = torch.randint(3, model.config.vocab_size, (responses, TINY["prompt"] + length))

    def update() -> None:
        logits = model(input_ids=ids).logits[:, -length - 1 : -1]
        cross_entropy(logits.transpose(1, 2), ids[:, -length:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss()

    times = interleaved({"update": update, "loss": loss}, max(3, rounds // 3))
    share = statistics.median(part / whole for part, whole in zip(times["loss"], times["update"], strict=True))
    return Row("tiny: ctpo's loss and position statistics, of an actor update", 100 * share, "%", MOST_OF_AN_UPDATE)


def _against_vanilla(rounds: int) -> list[Row]:
    from verl.workers.config import FSDPActorConfig

    from ctpo.methods import METHODS, CalibratedWindow

    responses = 8
    batch = synthetic_batch(responses, LENGTH)
    plain = FSDPActorConfig(rollout_n=responses, ppo_micro_batch_size_per_gpu=responses)
    contenders: dict[str, Callable[[], object]] = {"vanilla": _loss(plain, batch, "vanilla")}
    for name, method in METHODS.items():
        config = _config(name, responses)
        if isinstance(method.window, CalibratedWindow):
            config.calibrate(torch.linspace(0.01, 1.0, LENGTH))
        contenders[name] = _loss(config, batch)
    contenders["ctpo + position statistics"] = _loss(_config("ctpo", responses, with_statistics=True), batch)
    return ratio_rows(interleaved(contenders, rounds), "vanilla", f"{responses} x {LENGTH}", {})


def _config(name: str, responses: int, with_statistics: bool = False) -> MethodActorConfig:
    from verl.workers.config import PolicyLossConfig

    from ctpo.methods import METHODS
    from ctpo.positions import PositionRecorder, PositionStats
    from ctpo.training.actor_config import MethodActorConfig

    config = MethodActorConfig(
        rollout_n=responses,
        ppo_micro_batch_size_per_gpu=responses,
        method={"name": name},
        policy_loss=PolicyLossConfig(loss_mode=f"ctpo/{name}"),
        loss_agg_mode=METHODS[name].aggregation,
        loss_scale_factor=LENGTH,
    )
    if with_statistics:
        config.observer = PositionRecorder(PositionStats.zeros(LENGTH))
        config.observer.folds = torch.arange(responses) % 32
        for _ in range(2):  # past the first update of a step, which is recorded in less detail
            config.observer.begin_update()
    return config


def _loss(config: FSDPActorConfig, batch: dict[str, Tensor], name: str | None = None) -> Callable[[], None]:
    """Forward and backward pass of a loss (default: the configured one)."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    from ctpo.training.policy_loss import register_policy_losses

    register_policy_losses()
    function = get_policy_loss_fn(name or config.policy_loss.loss_mode)
    mode = "seq-mean-token-mean" if name else config.loss_agg_mode

    def call() -> None:
        batch["log_prob"].grad = None
        value, _ = function(**batch, loss_agg_mode=mode, config=config)
        value.backward()

    return call
