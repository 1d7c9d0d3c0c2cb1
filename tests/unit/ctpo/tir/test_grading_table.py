"""The grader against verdicts written by hand, and against answers that nobody would write by hand."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ctpo.tir.grading import Grader
from experiments.benchmarks import grader as bench

TABLE: dict[str, list[tuple[str, str, bool]]] = yaml.safe_load(
    (Path(__file__).parent / "graded_answers.yaml").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    # Twice the usual CPU limit: other tests share the machine's caches.
    grader = Grader(cpu_seconds=1.6, wall_seconds=60)
    yield grader
    grader.close()


def test_the_table_is_as_large_as_it_says_and_has_no_row_twice() -> None:
    rows = [(answer, gold) for rows in TABLE.values() for answer, gold, _ in rows]
    assert len(rows) >= 300
    assert len(set(rows)) == len(rows)
    verdicts = [verdict for rows in TABLE.values() for *_, verdict in rows]
    assert 0.3 < sum(verdicts) / len(verdicts) < 0.7


@pytest.mark.parametrize("topic", sorted(TABLE))
def test_every_verdict_of_the_table(grader: Grader, topic: str) -> None:
    wrong = [(answer, gold) for answer, gold, verdict in TABLE[topic] if grader.equal(answer, gold) is not verdict]
    assert wrong == []


@pytest.mark.parametrize("topic", sorted(TABLE))
def test_every_reference_of_the_table_is_itself_and_can_be_read(grader: Grader, topic: str) -> None:
    for _, gold, _ in TABLE[topic]:
        assert grader.equal(gold, gold)
        assert grader.readable(gold), gold


def test_fuzzed_answers_are_all_graded_in_time(grader: Grader) -> None:
    rng = random.Random(2605)
    pairs = [(bench.fuzzed(rng), bench.ordinary(rng)[1]) for _ in range(600)]
    started = time.monotonic()
    _, durations, verdicts = bench.timed(grader, pairs)
    assert len(verdicts) == 600
    assert max(durations) < 60
    assert grader.equal("x+1", "1+x")
    assert time.monotonic() - started < 240


def test_hostile_answers_are_not_paid_and_cost_at_most_the_limit() -> None:
    grader = Grader(cpu_seconds=0.4, wall_seconds=60)
    try:
        _, durations, verdicts = bench.timed(grader, [(answer, "17") for answer in bench.HOSTILE])
        assert not any(verdicts)
        assert max(durations) < 60
        assert grader.equal("x+1", "1+x")
    finally:
        grader.close()


def test_a_verdict_is_remembered_until_told_otherwise(grader: Grader) -> None:
    grader.forget()
    assert grader.equal("x+3", "3+x")
    spent = grader._process
    grader.close()
    assert grader.equal("x+3", "3+x")
    assert grader._process is None
    grader.forget()
    assert grader.equal("x+3", "3+x")
    assert grader._process not in (None, spent)
