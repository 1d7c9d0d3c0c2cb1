"""The prompts of a resumed run are those of one that never stopped, wherever in an epoch it stopped.

verl's own fetch, sampler and loader, as the trainer uses them; what a checkpoint keeps goes through a file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.utils import create_rl_sampler
from verl.utils.dataset.rl_dataset import collate_fn

from ctpo.training.trainer import RecordingTrainer

PROMPTS, BATCH, STEPS = 13, 4, 9  # 3 steps an epoch, one prompt left over


class Loop:
    """The data side of a trainer: nothing but verl's `_fetch_one_gen_batch` and what it uses."""

    def __init__(self) -> None:
        rows = [{"raw_prompt": np.array([index], dtype=object)} for index in range(PROMPTS)]
        sampler = create_rl_sampler(OmegaConf.create({"shuffle": True, "seed": 3}), rows)
        self.train_dataloader = StatefulDataLoader(
            rows, batch_size=BATCH, num_workers=0, drop_last=True, collate_fn=collate_fn, sampler=sampler
        )
        self.train_dataloader_it = None

    def step(self) -> list[int]:
        batch = RecordingTrainer._fetch_one_gen_batch(self)
        return [int(prompt[0]) for prompt in batch["raw_prompt"]]


@pytest.mark.parametrize("stop", range(1, STEPS), ids=lambda stop: f"after_step_{stop}_of_3_an_epoch")
def test_data_order_survives_a_stop_at_any_step(tmp_path: Path, stop: int) -> None:
    undisturbed = Loop()
    expected = [undisturbed.step() for _ in range(STEPS)]
    assert expected[:3] != expected[3:6], "each epoch has an order of its own"

    first = Loop()
    seen = [first.step() for _ in range(stop)]
    torch.save(first.train_dataloader.state_dict(), tmp_path / "data.pt")
    second = Loop()
    second.train_dataloader.load_state_dict(torch.load(tmp_path / "data.pt", weights_only=False))
    seen += [second.step() for _ in range(stop, STEPS)]
    assert seen == expected
