"""The grader against verdicts written by hand, and against answers that nobody would write by hand."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ctpo.tir.grading import Grader
from experiments.speed import grader as bench

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
    assert len(rows) >= 900
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


RETYPINGS: dict[str, Callable[[str], str]] = {
    "display fractions": lambda text: re.sub(r"\\frac(?![a-z])", r"\\dfrac", text),
    "text fractions": lambda text: re.sub(r"\\dfrac(?![a-z])", r"\\tfrac", text),
    "growing brackets": lambda text: (
        re.sub(r"(?<![a-zA-Z}\\])\(", r"\\left(", text).replace(")", r"\right)")
        if text.count("(") == text.count(")") == len(re.findall(r"(?<![a-zA-Z}\\])\(", text))
        else text
    ),
    "thin spaces": lambda text: re.sub(r"([+=<>])", r"\\, \1\\;", text),
    "blanks": lambda text: re.sub(r"([+=<>])", r"  \1  ", text),
    "negative space": lambda text: r"\!" + text,
    "display style": lambda text: r"\displaystyle " + text,
    "dollars": lambda text: text if "$" in text else f"${text}$",
    "display": lambda text: rf"\[ {text} \]",
    "full stop": lambda text: text + ".",
    "box": lambda text: rf"\boxed{{{text}}}",
    "boxes": lambda text: rf"\boxed{{\boxed{{{text}}}}}",
    "bold": lambda text: rf"\mathbf{{{text}}}",
}
ORDINARY = [row for topic, rows in sorted(TABLE.items()) if topic != "look_alikes_and_broken" for row in rows if row[0]]
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@PROPERTY
@given(st.sampled_from(ORDINARY), st.sampled_from(sorted(RETYPINGS)), st.sampled_from(sorted(RETYPINGS)))
def test_typesetting_never_changes_a_verdict(
    grader: Grader, row: tuple[str, str, bool], first: str, second: str
) -> None:
    answer, gold, verdict = row
    assert grader.equal(RETYPINGS[first](answer), RETYPINGS[second](gold)) is verdict


@PROPERTY
@given(st.sampled_from(ORDINARY), st.permutations("abnrxyz"))
def test_other_letters_never_change_a_verdict(grader: Grader, row: tuple[str, str, bool], letters: list[str]) -> None:
    answer, gold, verdict = row
    runs = re.findall(r"(?<![A-Za-z\\])[A-Za-z]+", answer + " " + gold)
    assume(any(set(run) & set("abnrxyz") for run in runs) and "text" not in answer + gold)
    assume(all(set(run) <= set("abnrxyz") or not set(run) & set("abnrxyz") for run in runs))
    renamed = str.maketrans(dict(zip("abnrxyz", letters, strict=True)))

    def rename(text: str) -> str:
        return re.sub(r"(?<![A-Za-z\\])[abnrxyz]+", lambda run: run[0].translate(renamed), text)

    assert grader.equal(rename(answer), rename(gold)) is verdict


SIDES = [
    (answer, match, verdict)
    for answer, gold, verdict in ORDINARY
    if (match := re.fullmatch(r"([^=<>,:]*?)(=|<|>|\\le |\\ge )([^=<>,:]*)", gold))
    and not re.search(r"\\[lgn]e", match[1] + match[3])
]


@PROPERTY
@given(st.sampled_from(SIDES))
def test_swapped_sides_never_change_a_verdict(grader: Grader, row: tuple[str, re.Match[str], bool]) -> None:
    answer, sides, verdict = row
    turned = {"=": "=", "<": ">", ">": "<", r"\le ": r"\ge ", r"\ge ": r"\le "}[sides[2]]
    assert grader.equal(answer, f"{sides[3]} {turned} {sides[1]}") is verdict


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
