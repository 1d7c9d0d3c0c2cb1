"""Which trajectories a mini-batch holds, in which order, and which fold of prompts each belongs to."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch


def drawn_order(keys: Sequence[str], prompts: Sequence[str]) -> list[int]:
    """Indices that put trajectories into the order in which their prompts were drawn, a prompt's side by side.

    verl hands them over as they finished, the short ones first. Cut into mini-batches, that would give short responses
    to the first updates and long ones to the last, where the policy has moved most: late positions would look more
    off-policy than they are, and two runs would not share their mini-batches.

    Args:
        keys: verl's names of trajectories, `{prompt}_{session}_{index}`.
        prompts: names of the prompts, as drawn.
    """
    place = {prompt: i for i, prompt in enumerate(prompts)}

    def of(i: int) -> tuple[int, int, int]:
        prompt, session, index = keys[i].split("_")
        return place[prompt], int(session), int(index)

    return sorted(range(len(keys)), key=of)


def prompt_fold(prompt_ids: torch.Tensor, folds: int) -> int:
    """Fold of a prompt in `range(folds)`: a hash of its token ids, the same in every process and every run."""
    return zlib.crc32(prompt_ids.to(torch.int32).numpy().tobytes()) % folds
