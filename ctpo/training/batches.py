"""Which trajectories an update learns from, on which process, and which fold of prompts each belongs to."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions


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


def mini_batches(keys: Sequence[str], prompts: Sequence[str], per_update: int) -> list[list[int]]:
    """Indices of each update's trajectories: those of the next `per_update` prompts drawn.

    Padding, a key of no drawn prompt, takes the place of a trajectory that failed, so that no other one moves to
    another update.

    Args:
        keys: names of all trajectories and padding; `len(keys)` is a multiple of the number of updates.
        prompts: names of the prompts, as drawn.
        per_update: prompts of one update.
    """
    known = set(prompts)
    real = [i for i, key in enumerate(keys) if key.split("_")[0] in known]
    padding = [i for i, key in enumerate(keys) if key.split("_")[0] not in known]
    update_of = {prompt: i // per_update for i, prompt in enumerate(prompts)}
    updates: list[list[int]] = [[] for _ in range(len(prompts) // per_update)]
    for i in drawn_order([keys[i] for i in real], prompts):
        updates[update_of[keys[real[i]].split("_")[0]]].append(real[i])
    size = len(keys) // len(updates)
    for update in updates:
        while len(update) < size:
            update.append(padding.pop())
    return updates


def balanced_shares(updates: Sequence[Sequence[int]], lengths: Sequence[int], processes: int) -> list[list[int]]:
    """Indices for each process: an equal number of every update's trajectories, of nearly equal work.

    verl balances a whole step, and each process then cuts its own share into mini-batches. On 8 processes that puts
    20 to 26 % of the responses into another update than the one their prompt was drawn for.

    Args:
        updates: indices of each update's trajectories, a multiple of `processes`.
        lengths: tokens of each trajectory.
        processes: data-parallel size.
    """
    work = calculate_workload(torch.tensor(lengths, dtype=torch.int64)).tolist()
    shares: list[list[int]] = [[] for _ in range(processes)]
    for update in updates:
        parts = get_seqlen_balanced_partitions([work[i] for i in update], k_partitions=processes, equal_size=True)
        for share, part in zip(shares, parts, strict=True):
            share.extend(update[i] for i in part)
    return shares


def prompt_fold(prompt_ids: torch.Tensor, folds: int) -> int:
    """Fold of a prompt in `range(folds)`: a hash of its token ids, the same in every process and every run."""
    return zlib.crc32(prompt_ids.to(torch.int32).numpy().tobytes()) % folds
