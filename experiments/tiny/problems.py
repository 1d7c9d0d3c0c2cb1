"""Labelled arithmetic chains: "Start with 9: A: scale it by 5, B: subtract 5." -> 40.

Operands are single digits and every step carries a label: both are what a model of 0.1 M parameters needs to
learn to copy them. Which split a problem belongs to follows from its content alone, so training and held-out
problems are disjoint whatever the seeds and sizes.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

from ctpo.tir.prompts import SYSTEM_PROMPTS

Op = tuple[str, int]
Split = Literal["train", "test"]

SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "mod": "%"}
LABELS = "ABCD"
HELD_OUT_ONE_IN = 16
"""One problem in so many belongs to the test split."""

_REQUESTS = {
    "add": ("add {n}", "increase it by {n}", "plus {n}"),
    "sub": ("subtract {n}", "decrease it by {n}", "take away {n}"),
    "mul": ("multiply by {n}", "scale it by {n}", "times {n}"),
    "mod": ("take the remainder mod {n}", "reduce it modulo {n}", "mod {n}"),
}


@dataclass(frozen=True)
class ArithmeticProblem:
    """A chain of one to four operations on a start value; equal content means equal problem."""

    start: int
    ops: tuple[Op, ...]

    @property
    def problem_id(self) -> str:
        """Hash of the content (16 hex digits), independent of the wording."""
        content = f"{self.start}:" + ",".join(f"{op}{n}" for op, n in self.ops)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def split(self) -> Split:
        return "test" if int(self.problem_id, 16) % HELD_OUT_ONE_IN == 0 else "train"

    @property
    def answer(self) -> int:
        value = self.start
        for op, n in self.ops:
            value = apply(op, value, n)
        return value


def apply(op: str, value: int, n: int) -> int:
    """One step of a chain, with Python's `%` (the result of `mod` is never negative)."""
    if op == "add":
        return value + n
    if op == "sub":
        return value - n
    if op == "mul":
        return value * n
    return value % n


def draw(rng: random.Random, split: Split) -> ArithmeticProblem:
    """A random problem of `split`: two to four steps, operands 2 to 9, `mod` only as the last step."""
    while True:
        problem = _draw_any(rng)
        if problem.split == split:
            return problem


def draw_distinct(rng: random.Random, split: Split, count: int) -> list[ArithmeticProblem]:
    """`count` problems of `split`, no two with the same content."""
    found: dict[ArithmeticProblem, None] = {}
    while len(found) < count:
        found.setdefault(draw(rng, split))
    return list(found)


def question(rng: random.Random, problem: ArithmeticProblem) -> str:
    """The problem in words, one of many wordings."""
    steps = (f"{LABELS[i]}: {rng.choice(_REQUESTS[op]).format(n=n)}" for i, (op, n) in enumerate(problem.ops))
    return f"Start with {problem.start}: {', '.join(steps)}."


def messages(question: str) -> list[dict[str, str]]:
    """The prompt of one problem, as the data set stores it."""
    return [
        {"role": "system", "content": SYSTEM_PROMPTS["short"]},
        {"role": "user", "content": question},
    ]


def _draw_any(rng: random.Random) -> ArithmeticProblem:
    length = rng.choice((2, 3, 4))
    start = rng.randint(2, 9)
    ops: list[Op] = []
    for i in range(length):
        op = rng.choice(("add", "sub", "mul") if i < length - 1 else tuple(SYMBOLS))
        ops.append((op, rng.randint(5, 9) if op == "mod" else rng.randint(2, 9)))
    return ArithmeticProblem(start, tuple(ops))
