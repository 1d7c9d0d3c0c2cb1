"""Each sample has its own random stream, the same wherever and whenever it is drawn; so has each of its turns."""

from __future__ import annotations

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


def test_no_two_samples_share_a_seed() -> None:
    seeds = {
        sample_seed(seed, benchmark, problem, index)
        for seed in range(3)
        for benchmark in ("a", "b")
        for problem in ("1", "11", "1, 1")
        for index in range(40)
    }
    assert len(seeds) == 3 * 2 * 3 * 40
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_every_turn_samples_with_its_own_seed(harness: Harness) -> None:
    server = harness.script(block("print(1)"), block("print(2)"), "\\boxed{2}")
    harness.run(server, sampling={"seed": 77})
    assert [params["seed"] for _, params in server.requests] == [turn_seed(77, turn) for turn in range(3)]


def test_without_a_seed_none_is_sent(harness: Harness) -> None:
    server = harness.script("\\boxed{2}")
    harness.run(server)
    assert all("seed" not in params for _, params in server.requests)
