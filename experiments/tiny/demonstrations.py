"""Demonstrations of deliberately mixed quality, in the chat protocol of `ctpo.tir`.

A warm start on perfect traces would leave nothing for reinforcement learning to do. So some demonstrations
misread a step, some guess the answer without code, some call a program that fails and then repair it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ctpo.sandbox.results import ExecutionResult
from ctpo.tir.prompts import observation
from experiments.tiny.problems import LABELS, SYMBOLS, ArithmeticProblem, Op, question
from experiments.tiny.spec import Quality

INTRO = (
    "Let me solve this step by step.",
    "I will work this out with Python.",
    "Okay, here is my plan.",
    "We need to be careful here.",
    "Sure, this is simple.",
    "Let us go through the steps.",
)
CONNECT = ("First", "Then", "Next", "After that", "Now", "Also", "So", "Further")
SAY = {
    "add": ("I add {n}", "we have to add {n}", "adding {n} is needed", "the sum with {n}"),
    "sub": ("I subtract {n}", "we have to subtract {n}", "removing {n} is needed", "the difference with {n}"),
    "mul": (
        "I multiply by {n}",
        "we have to multiply by {n}",
        "scaling by {n} is needed",
        "the product with {n}",
    ),
    "mod": (
        "I reduce mod {n}",
        "we have to reduce mod {n}",
        "reducing mod {n} is needed",
        "the remainder mod {n}",
    ),
}
BEFORE_CODE = (
    "Now I run the code.",
    "Here is the code.",
    "Let me write a program.",
    "Python can do this.",
    "Running this gives the value.",
)
READ_OUTPUT = (
    "The tool says {r}.",
    "So the output is {r}.",
    "We get {r} from the code.",
    "The program printed {r}.",
)
FINISH = (
    "The answer is \\boxed{{{r}}}.",
    "Thus the result is \\boxed{{{r}}}.",
    "Final answer: \\boxed{{{r}}}",
    "Hence \\boxed{{{r}}} is what we want.",
)
CHECK = (
    "Let me check it once more.",
    "I want to verify this.",
    "To be sure, I run it again.",
    "A second look is good.",
)
REPAIR = (
    "Something went wrong, let me fix it.",
    "That failed, I try again.",
    "There is a bug, I correct it.",
)
MENTAL = ("I can do this in my head.", "No code is needed here.", "I just know this one.")
# No name one letter away from a builtin: Python would add "Did you mean" to the error.
VARIABLES = "abcxyzvtn"
GUESS_ERRORS = (0, 0, -10, -2, -1, 1, 2, 3, 10)


@dataclass(frozen=True)
class Demonstration:
    """One trajectory: the model's turns, and between them what the tool returned (one fewer)."""

    problem: ArithmeticProblem
    question: str
    turns: tuple[str, ...]
    observations: tuple[str, ...]


def demonstrate(
    rng: random.Random, problem: ArithmeticProblem, quality: Quality, tool_output_chars: int
) -> Demonstration:
    """A demonstration of `problem`; the chain that it computes is never one of the test split.

    Raises ValueError if the problem itself is of the test split.
    """
    if problem.split != "train":
        raise ValueError(f"problem {problem.problem_id} is held out: demonstrate problems of the train split")
    asked = question(rng, problem)
    ops = _misread(rng, problem, quality.misread)
    plan = f"{rng.choice(INTRO)} We start with {problem.start}."
    for i, (op, n) in enumerate(ops):
        plan += f" {rng.choice(CONNECT)} {LABELS[i]}: {rng.choice(SAY[op]).format(n=n)}."
    if rng.random() < quality.mental:
        guess = problem.answer + rng.choice(GUESS_ERRORS)
        turn = f"{plan} {rng.choice(MENTAL)} {rng.choice(FINISH).format(r=guess)}"
        return Demonstration(problem, asked, (turn,), ())

    computed = ArithmeticProblem(problem.start, ops)
    printed = str(computed.answer)
    turns: list[str] = []
    observations: list[str] = []

    def call(words: str, failing: bool) -> None:
        code, result = program(rng, computed, failing)
        turns.append(f"{words}\n```python\n{code}\n```")
        observations.append(observation(result, tool_output_chars))

    failing = rng.random() < quality.failing_call
    call(f"{plan} {rng.choice(BEFORE_CODE)}", failing)
    if failing:
        call(rng.choice(REPAIR), False)
    elif rng.random() < quality.second_call:
        call(f"{rng.choice(READ_OUTPUT).format(r=printed)} {rng.choice(CHECK)}", False)
    words = rng.choice(READ_OUTPUT).format(r=printed)
    turns.append(f"{words} {rng.choice(FINISH).format(r=printed)}")
    return Demonstration(problem, asked, tuple(turns), tuple(observations))


def program(rng: random.Random, chain: ArithmeticProblem, failing: bool) -> tuple[str, ExecutionResult]:
    """Straight-line code that computes `chain`, and what the sandbox returns for it.

    The result follows from the chain itself, so that thousands of demonstrations need no thousands of
    processes; the tests compare it with the real sandbox. `failing` code prints a name that does not exist.
    """
    first, second = rng.sample(VARIABLES, 2)
    style = rng.choice(("one variable", "alternating", "expression"))
    lines: list[str] = []
    shown = first
    if style == "expression":
        expression = str(chain.start)
        for op, n in chain.ops:
            expression = f"({expression} {SYMBOLS[op]} {n})"
        lines.append(f"{first} = {expression}")
    else:
        lines.append(f"{first} = {chain.start}")
        for i, (op, n) in enumerate(chain.ops):
            target = second if style == "alternating" and i % 2 == 0 else first
            lines.append(f"{target} = {shown} {SYMBOLS[op]} {n} # {LABELS[i]}")
            shown = target
    if failing:
        shown = rng.choice([name for name in VARIABLES if name not in (first, second)])
        error = f"NameError: name '{shown}' is not defined"
        result = ExecutionResult(stdout="", stderr=f"{error}\n", reason="error", duration_s=0.0, status=1, error=error)
    else:
        result = ExecutionResult(stdout=f"{chain.answer}\n", stderr="", reason="ok", duration_s=0.0)
    return "\n".join([*lines, f"print({shown})"]), result


def _misread(rng: random.Random, problem: ArithmeticProblem, probability: float) -> tuple[Op, ...]:
    while True:
        ops = tuple(_misread_step(rng, step, probability) for step in problem.ops)
        if ArithmeticProblem(problem.start, ops).split == "train":
            return ops


def _misread_step(rng: random.Random, step: Op, probability: float) -> Op:
    op, n = step
    if rng.random() >= probability:
        return step
    if rng.random() < 0.6:
        return rng.choice([other for other in SYMBOLS if other != op]), n
    return op, rng.randint(2, 9)
