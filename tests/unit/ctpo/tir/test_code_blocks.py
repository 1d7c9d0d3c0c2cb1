from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctpo.tir.code_blocks import Turn, extract_code, final_answer, parse_turn

CODE = "x = {'a': [1]}\nprint(x)"
BLOCK = f"```python\n{CODE}\n```\n"

lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=30)
code_lines = lines.filter(lambda line: not line.strip().startswith(("```", "~~~")))


@given(st.lists(code_lines, min_size=1, max_size=6).filter(lambda ls: "".join(ls).strip()), lines)
def test_code_between_fences_comes_back_unchanged(code: list[str], prose: str) -> None:
    prose = prose.replace("`", "").replace("~", "")
    text = f"{prose}\n```python\n" + "\n".join(code) + "\n```\nDone."
    assert extract_code(text) == "\n".join(code)


@given(st.text(max_size=200))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    turn = parse_turn(text)
    assert turn.code is None or turn.answer is None


@given(st.text(alphabet="\\boxed{} `~\npython1", max_size=120))
def test_an_answer_is_always_balanced_and_part_of_the_text(text: str) -> None:
    answer = final_answer(text)
    if answer is not None:
        bare = answer.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
        assert answer.strip()
        assert bare.count("{") == bare.count("}")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"First.\n{BLOCK}Then.", CODE),
        (BLOCK + "```python\nprint(2)\n```", CODE),
        ("```python\n\n```\n```python\nprint(2)\n```", "print(2)"),
        ("```text\nnot code\n```\n" + BLOCK, CODE),
        ("```text\n```python\nshown, not called\n```\n", None),
        ("```\nprint(1)\n```", None),
        ("```python\nprint(1)\n", None),
        ("```python\nprint('```')\n```", "print('```')"),
        ("````python\nprint(1)\n```\n````", "print(1)\n```"),
        ("```python\nprint(1)\n`````", "print(1)"),
        ("~~~python\nprint(1)\n~~~", "print(1)"),
        ("~~~python\nprint(1)\n```", None),
        ("```python\r\nprint(1)\r\nprint(2)\r\n```\r\n", "print(1)\nprint(2)"),
        ("1. so\n   ```python\n   if x:\n       y\n   ```", "if x:\n    y"),
        ("```Python title=a\nprint(1)\n```", "print(1)"),
        ("```pythonic\nprint(1)\n```", None),
        ("inline ```python print(1)``` only", None),
        ("```python print(1)```\nno block", None),
        ("```python\ns = '\x0c\u2028'\n```", "s = '\x0c\u2028'"),
    ],
)
def test_the_first_complete_python_block_is_the_call(text: str, code: str | None) -> None:
    assert extract_code(text) == code


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\left\{ 1, 2 \right\}}", r"\left\{ 1, 2 \right\}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{\{1\}", None),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed{a \\}", r"a \\"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{3} and \boxed{4", "3"),
        (r"\boxed{3} } } {", "3"),
        (r"{ \boxed{3", None),
        (r"\boxed{} \boxed{ }", None),
        (r"put it in \boxed{}: \boxed{9}, i.e. \boxed{}", "9"),
        ("\\boxed{1\n+2}", "1\n+2"),
        ("```python\nprint('\\boxed{3}')\n```", None),
        ("\\boxed{1}\n```python\n# \\boxed{2}\n```\n", "1"),
        ("\\boxed{1}\n```python\n# \\boxed{2}", "1"),
        ("```\n\\boxed{6}\n```", "6"),
        ("no box", None),
    ],
)
def test_the_last_balanced_box_outside_code_is_the_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_a_box_after_the_block_makes_the_turn_final_and_one_before_it_does_not() -> None:
    assert parse_turn(BLOCK + r"Hence \boxed{3}.") == Turn(code=None, answer="3")
    assert parse_turn(r"I guess \boxed{3}." + "\n" + BLOCK) == Turn(code=CODE, answer=None)
    assert parse_turn("Just words.") == Turn(code=None, answer=None)


@pytest.mark.parametrize("piece", ["\\boxed{", "{", "}", "```python\n", "```\n", "~~~", "\\", "`"])
def test_hostile_repetition_is_read_in_linear_time(piece: str) -> None:
    started = time.process_time()
    parse_turn(piece * 50_000)
    assert time.process_time() - started < 5
