"""Seeds of single samples, the same in every process, on every machine and in whatever order samples are drawn.

A sample in training is named by run seed, training step, data source, problem and index within its group. A sample in
validation, during training or in `experiments/evaluate.py`, has no step in its name: a learning curve is then measured
with the same random numbers throughout, so that its differences are not noise, and a later evaluation of the same
checkpoint with the same seed draws the same samples. A method's name is nowhere, so methods with one run seed share
their first step and the random numbers of all evaluations.
"""

from __future__ import annotations

import hashlib


def sample_seed(seed: int, source: str, problem_id: str, sample_index: int, step: int | None = None) -> int:
    """Seed of one sample of one problem: 63 bits of a hash of its name.

    Args:
        seed: of the run, or of the evaluation.
        source: benchmark or training set (`data_source`).
        problem_id: unique within the source.
        sample_index: 0-based, among the samples of the problem.
        step: training step that learns from the sample; None in validation.
    """
    name: tuple[str | int, ...] = (seed, source, problem_id, sample_index)
    return _hash("sample", *name) if step is None else _hash("training sample", *name, step)


def turn_seed(seed: int, turn: int) -> int:
    """Seed of the `turn`-th request (from 0) of the sample with `seed`.

    An engine starts a request's random stream at its seed: with one seed for all turns, every turn would be drawn
    with the same numbers.
    """
    return _hash("turn", seed, turn)


def _hash(*parts: str | int) -> int:
    # repr keeps apart what a separator inside a name could merge.
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
