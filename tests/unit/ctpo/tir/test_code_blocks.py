"""Claims of docs/turns.md: each row of its table, and for any text no error, linear time, no grade for code."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctpo.tir.code_blocks import Turn, final_answer, parse_turn

TABLE = Path(__file__).parents[4] / "docs" / "turns.md"
BLOCK = "```python\nprint(1)\n```\n"

lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=30)
code_lines = lines.filter(lambda line: "```" not in line)
PIECES = [
    *(
        "```",
        "````",
        "~~~",
        "`",
        "python",
        "{.python}",
        "text",
        "\n",
        "\r\n",
        "\u2028",
        "    ",
        "\t",
        "> ",
        "- ",
        "1. ",
    ),
    *(
        "\\",
        "\\\\",
        "boxed",
        "\\boxed",
        "\\fbox{",
        "{",
        "}",
        "[",
        "]",
        "$",
        "7",
        "...",
        "answer",
        '"',
        "'",
        '"""',
        "#",
        "x",
    ),
]
marked_up = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


def cell(text: str) -> str | None:
    """A cell of the table: code in backticks, or – for nothing."""
    if text == "–":
        return None
    content = text.strip("`")
    content = content[1:-1] if content[0] == content[-1] == " " else content
    return content.translate(str.maketrans("⏎␍⇥⍽◌", "\n\r\t\N{NO-BREAK SPACE}\N{ZERO WIDTH SPACE}"))


def rows() -> list[tuple[str, str, str | None, str | None]]:
    table = [re.split(r" \| ", line[2:-2]) for line in TABLE.read_text().splitlines() if line.startswith("| ")][1:]
    return [(rule, cell(turn) or "", cell(call), cell(answer)) for turn, call, answer, rule in table]


@pytest.mark.parametrize(("rule", "turn", "call", "answer"), rows())
def test_each_row_of_the_documented_table_holds(rule: str, turn: str, call: str | None, answer: str | None) -> None:
    assert parse_turn(turn) == Turn(call, answer), rule


def test_the_table_is_read_whole() -> None:
    table = rows()
    assert len(table) > 100
    assert sum(call is not None for _, _, call, _ in table) > 40
    assert sum(answer is not None for _, _, _, answer in table) > 30


@given(st.lists(code_lines, min_size=1, max_size=6).filter(lambda ls: "".join(ls).strip()), lines)
def test_code_between_fences_comes_back_unchanged(code: list[str], prose: str) -> None:
    prose = prose.replace("`", "").replace("~", "")
    text = f"{prose}\n```python\n" + "\n".join(code) + "\n```\nDone."
    assert parse_turn(text).code == "\n".join(code)


@given(st.one_of(st.text(max_size=200), marked_up))
def test_no_text_makes_the_parser_fail_and_an_answer_is_part_of_it(text: str) -> None:
    turn = parse_turn(text)
    assert turn.code is None or turn.answer is None
    answer = final_answer(text)
    if answer is not None:
        bare = answer.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
        assert answer.strip()
        assert bare.count("{") == bare.count("}")


@given(
    st.lists(code_lines, max_size=4),
    st.sampled_from(['"{}"', "# {}", "'''\n{}\n'''"]),
    st.sampled_from(["> ", "  ", ""]),
)
def test_a_box_in_python_is_never_an_answer(code: list[str], quoted: str, prefix: str) -> None:
    body = "\n".join([*code, quoted.format(r"\boxed{5}"), "print(1)"]).replace("```", "").splitlines()
    block = "\n".join(prefix + line for line in ["```python", *body, "```"])
    assert final_answer(f"So \\boxed{{1}}:\n{block}\n") == "1"
    assert final_answer(f"So \\boxed{{1}}: {block.removesuffix('```')}") == "1"


HOSTILE = [
    *(
        "\\boxed{",
        "{",
        "}",
        "```python\n",
        "```\n",
        "~~~",
        "\\",
        "`",
        '"',
        '\\"',
        "'",
        "#",
        "- ",
        "> ",
        " ",
        "\n",
        "1. ",
    ),
    *(
        "```a x=",
        "~~~a x=",
        "x=",
        "<tool_response>",
        "</think>",
        "'x",
        "\\boxed 1,",
        "\\framebox[",
        "\\boxed{answer ",
        '```\n"""',
        "\\boxed ",
    ),
]


@pytest.mark.parametrize(
    "frame",
    ["{}", "```python\n{}", "```python x{}\ny", "~~~python\n{}x", "```python\n# {}x", "``` {}y", "\\boxed{{{}}}"],
)
def test_hostile_repetition_is_read_in_linear_time(frame: str) -> None:
    for piece in HOSTILE:
        started = time.process_time()
        parse_turn(frame.format(piece * (100_000 // len(piece))))
        assert time.process_time() - started < 2, piece


@pytest.mark.parametrize("piece", ["`", "{", "\\", "\n", "\\boxed{", "```python\n"])
def test_a_megabyte_is_read_in_seconds(piece: str) -> None:
    started = time.process_time()
    parse_turn(piece * (1_000_000 // len(piece)))
    assert time.process_time() - started < 10
