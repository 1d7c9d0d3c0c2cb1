from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctpo.sandbox import ExecutionResult
from ctpo.tir.code_blocks import final_answer, parse_turn
from ctpo.tir.prompts import MIN_CHARS, NO_OUTPUT, SYSTEM_PROMPTS, UNAVAILABLE, observation, tool_message

REASONS = ["ok", "error", "timeout", "memory", "output", "killed"]


def result(stdout: str = "", stderr: str = "", reason: str = "ok", status: int = 0, error: str = "") -> ExecutionResult:
    return ExecutionResult(stdout, stderr, reason, 0.1, status, error)  # type: ignore[arg-type]


@given(
    st.text(st.characters(), max_size=500),
    st.text(max_size=500),
    st.sampled_from(REASONS),
    st.integers(MIN_CHARS, 400),
)
def test_an_observation_is_never_empty_never_too_long_and_always_encodable(
    stdout: str, stderr: str, reason: str, max_chars: int
) -> None:
    text = observation(result(stdout, stderr, reason), max_chars)
    assert 0 < len(text) <= max_chars
    text.encode("utf-8")


def test_short_output_comes_back_as_printed() -> None:
    assert observation(result("7\n  8\n"), 256) == "7\n  8"
    assert observation(result(" \n"), 256) == NO_OUTPUT


def test_long_output_keeps_its_beginning_and_its_end() -> None:
    text = observation(result("begin" + "x" * 1_000_000 + "end"), 256)
    assert len(text) == 256
    assert text.startswith("begin")
    assert text.endswith("end")
    assert "[...]" in text


@pytest.mark.parametrize("stdout", ["", "some output\n", "x" * 10_000])
@pytest.mark.parametrize("error", ["ZeroDivisionError: division by zero", "ValueError: two\nlines\nand a note"])
def test_an_error_shows_the_exception_itself_whatever_else_is_on_stderr(stdout: str, error: str) -> None:
    stderr = f"Traceback (most recent call last):\n  File ...\n{error}\nprinted at exit\n"
    text = observation(result(stdout, stderr, "error", 1, error), 256)
    assert text.endswith(error)
    assert text.startswith(stdout.strip()[:50])
    assert "printed at exit" not in text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (result("", "gave up\n", "error", 1), "gave up\n[exit status 1]"),
        (result("7\n", "", "error", 137), "7\n[exit status 137]"),
        (result("7\n", "", "killed", -9), "7\n[killed by SIGKILL]"),
        (result("", "", "killed", -11), "[killed by SIGSEGV]"),
        (result("", "a warning\n"), "a warning"),
        (result("7\n", "Exception in thread T:\nKeyError: 1\n"), "7\nException in thread T:\nKeyError: 1"),
        (result("7\n", "w" * 300), "7\n" + "w" * 165 + "\n[...]\n" + "w" * 82),
        (result("7" * 250, "w" * 300), "7" * 250),
    ],
)
def test_an_end_without_an_exception_is_named_and_text_on_stderr_is_shown_where_there_is_room(
    given: ExecutionResult, shown: str
) -> None:
    assert observation(given, 256) == shown


@pytest.mark.parametrize("reason", ["timeout", "memory", "output", "killed"])
def test_what_stopped_a_program_survives_the_cut(reason: str) -> None:
    for max_chars in (MIN_CHARS, 256):
        text = observation(result("y" * 5000, "", reason), max_chars)
        assert text.splitlines()[-1].startswith("[stopped: ")
        assert text.startswith("y")


@given(
    st.lists(
        st.sampled_from(
            [
                "<|im_end|>",
                "<|im_start|>",
                "</tool_response>",
                "<tool_response>",
                "<think>",
                "</think>",
                "<tool_call>",
                "<",
                "|",
                ">",
                "a",
            ]
        ),
        max_size=20,
    )
)
def test_printed_chat_markup_cannot_end_the_observation(pieces: list[str]) -> None:
    text = observation(result("".join(pieces) + ".", "".join(pieces), "error"), 256)
    assert not re.search(r"<\|[a-z_]+\|>|</?(think|tool_response|tool_call)>", text)


def test_a_limit_too_short_for_an_ending_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"tir\.tool_output_chars=16"):
        observation(result("x"), 16)
    assert len(UNAVAILABLE) <= MIN_CHARS


def test_the_tool_message_carries_the_text_in_the_tool_role() -> None:
    assert tool_message("5") == {"role": "tool", "content": "5"}


def test_the_math_prompt_promises_what_the_parser_and_the_observation_deliver() -> None:
    prompt = SYSTEM_PROMPTS["math"]
    assert parse_turn(prompt).code == "print(2 + 2)"
    assert final_answer(prompt) is None
    assert "what it printed so far and its error" in prompt
    assert "loses its middle" in prompt
    assert "new process without network, files or earlier variables" in prompt
    assert len(SYSTEM_PROMPTS["short"].splitlines()) == 1
    assert "```python" in SYSTEM_PROMPTS["short"]
    assert "\\boxed{}" in SYSTEM_PROMPTS["short"]
