"""Claims about the demonstrations: protocol, honest tool output, quality, no leak of held-out problems."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any

import pytest

from ctpo.sandbox import Limits, SandboxClient
from ctpo.tir.code_blocks import final_answer, parse_turn
from ctpo.tir.prompts import observation
from experiments.tiny.build import RECIPE_VERSION
from experiments.tiny.demonstrations import demonstrate, program
from experiments.tiny.problems import ArithmeticProblem, draw
from experiments.tiny.spec import Quality

CHARS = 256


def demonstrations(count: int, quality: Any = None, seed: int = 0) -> Any:
    rng = random.Random(seed)
    return [demonstrate(rng, draw(rng, "train"), quality or Quality(), CHARS) for _ in range(count)]


def test_every_turn_but_the_last_is_a_tool_call_and_the_last_is_an_answer() -> None:
    for shown in demonstrations(500):
        *calls, last = shown.turns
        assert len(shown.observations) == len(calls)
        assert all(parse_turn(turn).code and final_answer(turn) is None for turn in calls)
        assert parse_turn(last).code is None
        assert final_answer(last) is not None


def test_the_shown_output_is_what_the_real_sandbox_prints_for_the_shown_code() -> None:
    shown = demonstrations(40, Quality(failing_call=0.5, mental=0.0))
    calls = [pair for one in shown for pair in zip(one.turns, one.observations, strict=False)][:24]
    assert any("NameError" in text for _, text in calls)
    assert any(text.lstrip("-").isdigit() for _, text in calls)

    async def run_all() -> Any:
        client = SandboxClient(Limits(), concurrency=2)
        try:
            return await asyncio.gather(*(client.run(parse_turn(turn).code or "") for turn, _ in calls))
        finally:
            await client.close()

    assert [observation(result, CHARS) for result in asyncio.run(run_all())] == [text for _, text in calls]


def test_every_style_of_program_computes_the_chain() -> None:
    rng = random.Random(3)
    chain = ArithmeticProblem(7, (("sub", 9), ("mul", 4), ("mod", 5)))
    codes = {program(rng, chain, failing=False)[0] for _ in range(60)}
    assert {code.count("\n") for code in codes} == {1, 4}
    for code in codes:
        printed: list[object] = []
        exec(code, {"print": printed.append})
        assert printed == [chain.answer]


def test_a_failing_program_fails_in_python_as_its_result_says() -> None:
    rng = random.Random(4)
    for _ in range(30):
        code, result = program(rng, ArithmeticProblem(2, (("add", 3), ("sub", 4))), failing=True)
        with pytest.raises(NameError) as raised:
            exec(code, {})
        assert result.reason == "error"
        assert result.stderr == f"NameError: {raised.value}\n"


def test_the_quality_is_mixed_as_asked() -> None:
    shown = demonstrations(3000)
    right = sum(final_answer(one.turns[-1]) == str(one.problem.answer) for one in shown) / len(shown)
    mental = sum(not one.observations for one in shown) / len(shown)
    failing = sum("NameError" in "".join(one.observations) for one in shown) / len(shown)
    assert 0.3 < right < 0.8
    assert mental == pytest.approx(Quality().mental, abs=0.04)
    assert failing == pytest.approx(Quality().failing_call * (1 - Quality().mental), abs=0.03)


def test_demonstrations_without_flaws_are_all_right() -> None:
    perfect = Quality(misread=0.0, mental=0.0, failing_call=0.0, second_call=0.5)
    for one in demonstrations(300, perfect):
        assert final_answer(one.turns[-1]) == str(one.problem.answer)


def test_no_held_out_problem_is_demonstrated_and_no_shown_program_computes_one() -> None:
    for one in demonstrations(3000, Quality(misread=0.9)):
        assert one.problem.split == "train"
        for turn in one.turns[:-1]:
            assert computed_chain(parse_turn(turn).code).split == "train"


def test_a_held_out_problem_is_refused() -> None:
    held_out = draw(random.Random(0), "test")
    with pytest.raises(ValueError, match=f"{held_out.problem_id} is held out"):
        demonstrate(random.Random(0), held_out, Quality(), CHARS)


def test_changed_demonstrations_come_with_a_new_recipe_version() -> None:
    """If this fails on purpose: raise RECIPE_VERSION, so that no cached model is taken for the new one."""
    text = "".join(repr(one) for one in demonstrations(200))
    assert (RECIPE_VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == (1, "2531f96247242bae")


def computed_chain(code: str | None) -> ArithmeticProblem:
    """The chain that straight-line code computes, read from its text: one operand a symbol, in order."""
    names = {"+": "add", "-": "sub", "*": "mul", "%": "mod"}
    start: int | None = None
    symbol, ops = "", []
    assert code is not None
    for word in code.replace("(", " ").replace(")", " ").split():
        if word in names:
            symbol = names[word]
        elif word.isdigit() and start is None:
            start = int(word)
        elif word.isdigit():
            ops.append((symbol, int(word)))
    assert start is not None
    return ArithmeticProblem(start, tuple(ops))
