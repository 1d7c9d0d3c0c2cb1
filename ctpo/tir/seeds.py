"""Seeds of single samples, the same in every process, on every machine and in whatever order samples are drawn."""

from __future__ import annotations

import hashlib


def sample_seed(seed: int, benchmark: str, problem_id: str, sample_index: int) -> int:
    """Seed of one sample of one problem: 63 bits of a hash of its name."""
    return _hash("sample", seed, benchmark, problem_id, sample_index)


def turn_seed(seed: int, turn: int) -> int:
    """Seed of a trajectory's `turn`-th request (from 0).

    An engine starts a request's random stream at its seed: with one seed for all turns, every turn would be drawn
    with the same numbers.
    """
    return _hash("turn", seed, turn)


def _hash(*parts: str | int) -> int:
    # repr keeps apart what a separator inside a name could merge.
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
