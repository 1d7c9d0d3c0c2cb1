"""A mini-batch is the next prompts drawn, whatever finished first, failed, or runs on how many processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from ctpo.training.batches import balanced_shares, drawn_order, mini_batches

#: The paper's step.
PROMPTS, RESPONSES, PER_UPDATE = 512, 8, 32
DRAWN = [f"p{i}" for i in np.random.default_rng(1).permutation(PROMPTS)]


def finished(seed: int, failed: int = 0) -> list[str]:
    """Names of a step's trajectories as verl hands them over: by when they finished, padding at the end."""
    names = [f"{prompt}_{session}_0" for prompt in DRAWN for session in range(RESPONSES)]
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[i] for i in order[failed:]] + [f"pad7_{i}_0" for i in range(failed)]


def lengths_of(keys: list[str], seed: int) -> list[int]:
    """Tokens: prompts differ in difficulty, their responses too; padding has 2."""
    generator = np.random.default_rng(seed)
    difficulty = dict(zip(DRAWN, np.exp(generator.normal(7.7, 0.55, PROMPTS)), strict=True))
    spread = np.exp(generator.normal(0, 0.45, len(keys)))
    tokens = [difficulty.get(key.split("_")[0], 2.0) * one for key, one in zip(keys, spread, strict=True)]
    return [int(min(length, 8250)) for length in tokens]


def prompts_of(keys: list[str], indices: list[int]) -> set[str]:
    return {keys[i].split("_")[0] for i in indices} - {"pad7"}


def test_trajectories_are_put_into_the_order_of_their_prompts() -> None:
    in_order = [f"{prompt}_{session}_0" for prompt in DRAWN for session in range(RESPONSES)]
    keys = finished(0)
    assert [keys[i] for i in drawn_order(keys, DRAWN)] == in_order
    # A prompt whose trajectories all failed is simply absent.
    assert drawn_order(["b2_1_0", "c3_0_0", "b2_0_0"], ["c3", "a1", "b2"]) == [1, 2, 0]


@pytest.mark.parametrize("failed", [0, 1, 255, 256, 2000])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_each_update_holds_exactly_the_prompts_drawn_on_any_number_of_processes(processes: int, failed: int) -> None:
    keys = finished(failed, failed)
    updates = mini_batches(keys, DRAWN, PER_UPDATE)
    shares = balanced_shares(updates, lengths_of(keys, failed), processes)
    assert sorted(i for share in shares for i in share) == list(range(len(keys)))
    assert {len(share) for share in shares} == {len(keys) // processes}
    size = PER_UPDATE * RESPONSES // processes
    for number in range(PROMPTS // PER_UPDATE):
        # What a process of verl cuts from its share: the next `size` sequences.
        cut = [i for share in shares for i in share[number * size : (number + 1) * size]]
        wanted = set(DRAWN[number * PER_UPDATE : (number + 1) * PER_UPDATE])
        kept = {key.split("_")[0] for key in keys} & wanted
        assert prompts_of(keys, cut) == kept
        assert len(cut) == PER_UPDATE * RESPONSES


def test_balancing_within_updates_costs_no_time_and_balancing_the_step_mixes_them() -> None:
    """Against verl's own way, on responses as long as the paper's: both of its defects are seen here."""
    keys, processes = finished(3), 8
    lengths = lengths_of(keys, 3)
    cost = calculate_workload(torch.tensor(lengths)).tolist()
    updates = mini_batches(keys, DRAWN, PER_UPDATE)
    size = PER_UPDATE * RESPONSES // processes

    def slow_down(shares: list[list[int]]) -> float:
        """Time of all updates, each as long as its slowest process, over that of an even split."""
        work = np.array(
            [[sum(lengths[i] for i in s[n : n + size]) for s in shares] for n in range(0, len(shares[0]), size)]
        )
        return float(work.max(1).sum() / work.mean(1).sum())

    ordered = [i for update in updates for i in update]
    whole = get_seqlen_balanced_partitions([cost[i] for i in ordered], processes, equal_size=True)
    verls = [[ordered[i] for i in part] for part in whole]
    ours = balanced_shares(updates, lengths, processes)
    update_of = {i: number for number, update in enumerate(updates) for i in update}
    moved = np.mean([update_of[i] != n // size for share in verls for n, i in enumerate(share)])
    assert 0.15 < moved < 0.35
    assert slow_down(verls) > 1.1
    assert slow_down(ours) < 1.005
