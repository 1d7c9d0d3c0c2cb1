"""Each sample has its own random stream, the same wherever and whenever it is drawn; so has each of its turns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from tir_harness import Harness, block, make_harness

from ctpo.tir.seeds import sample_seed, turn_seed


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    yield from make_harness(None)


def test_seeds_are_fixed_for_all_time() -> None:
    """Written down: samples of an evaluation that was begun with an older version must not change."""
    assert sample_seed(0, "aime25", "abc", 31) == 5506083112723244177
    assert turn_seed(5, 0) == 5346294308864735629


def test_no_two_requests_share_a_seed() -> None:
    """Two run seeds, steps and validation, problems whose names are alike, samples, turns: all apart."""
    seeds = [
        turn_seed(sample_seed(seed, source, problem, index, step), turn)
        for seed in (0, 1)
        for step in (None, 0, 1, 11, 304)
        for source in ("aime25", "deepscaler")
        for problem in ("1", "11", "1, 1", *(f"{i:016x}" for i in range(30)))
        for index in range(32)
        for turn in range(5)
    ]
    assert len(set(seeds)) == len(seeds) == 105_600
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_another_process_with_another_hash_seed_derives_the_same_seeds() -> None:
    code = "from ctpo.tir.seeds import *; print(turn_seed(sample_seed(3, 'a', 'p', 7, 12), 4))"
    expected = turn_seed(sample_seed(3, "a", "p", 7, 12), 4)
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert int(done.stdout) == expected


def test_every_turn_samples_with_its_own_seed(harness: Harness) -> None:
    server = harness.script(block("print(1)"), block("print(2)"), "\\boxed{2}")
    harness.run(server, sampling={"seed": 77})
    assert [params["seed"] for _, params in server.requests] == [turn_seed(77, turn) for turn in range(3)]


def test_without_a_seed_none_is_sent(harness: Harness) -> None:
    server = harness.script("\\boxed{2}")
    harness.run(server)
    assert all("seed" not in params for _, params in server.requests)


def test_with_verls_full_determinism_a_trajectory_is_named_by_its_seed(harness: Harness) -> None:
    """verl chooses a replica by this name: one name for all would leave the other replicas idle."""
    names = []
    for seed in (77, 78):
        server = harness.script(block("print(1)"), "\\boxed{2}")
        harness.run(server, sampling={"seed": seed}, rollout={"full_determinism": True})
        assert len(set(server.request_ids)) == 1, "turns of a trajectory go to one replica"
        names.append(server.request_ids[0])
    assert names == ["det-77", "det-78"]
