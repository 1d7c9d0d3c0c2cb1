"""Claims about how a boxed text is read, before any mathematics: numbers, parts, layout."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctpo.tir.answers import MAX_DEPTH, balanced, clean, depth, explicit, number, parts, split
from ctpo.tir.comparing import equal, quick_verdict, readable


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", Fraction(12)),
        ("-1,234.50", Fraction(-12345, 10)),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        (r"\frac34", Fraction(3, 4)),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        (r"\frac{-3}{4}", Fraction(-3, 4)),
        (r"1\frac{3}{4}", Fraction(7, 4)),
        (r"-1\frac34", Fraction(-7, 4)),
        ("1 3/4", Fraction(7, 4)),
        (r"1.5\times 10^{-2}", Fraction(3, 200)),
        ("2e3", Fraction(2000)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        (r"45^\circ", Fraction(45)),
        ("{7}", Fraction(7)),
    ],
)
def test_a_rational_number_is_read_exactly(text: str, value: Fraction) -> None:
    found = number(clean(text))
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize(
    "text", ["", "x", "1,00", "1 2", "1/0", r"\frac{1}{0}", r"1\frac{-1}{2}", "--1", "1e9999", "9" * 301]
)
def test_what_is_no_rational_number_is_not_read_as_one(text: str) -> None:
    assert number(clean(text)) is None


@given(st.fractions(), st.sampled_from([r"\frac{{{0}}}{{{1}}}", "{0}/{1}", r"\dfrac{{{0}}}{{{1}}}", r" {0} / {1} "]))
def test_every_fraction_is_itself_in_every_spelling(value: Fraction, form: str) -> None:
    text = form.format(value.numerator, value.denominator)
    assert quick_verdict(text, str(value)) is True
    assert quick_verdict(text, str(value + 1)) is False


@given(st.text(max_size=60), st.text(max_size=60))
def test_reading_never_fails_and_never_takes_two_texts_for_one_by_accident(answer: str, gold: str) -> None:
    never = equal(answer, gold, lambda a, g: False)
    if never:
        assert any(a == g for a in (answer.strip(), clean(answer)) for g in (gold.strip(), clean(gold))) or readable(
            gold, lambda text: False
        )


@pytest.mark.parametrize(
    ("text", "kind", "items"),
    [
        ("1,2", "list", ("1", "2")),
        (r"\{1,2\}", "set", ("1", "2")),
        (r"\left\{ 1 \right\}", "set", ("1",)),
        (r"\{\}", "set", ()),
        ("(1,2)", "()", ("1", "2")),
        ("[0,1)", "[)", ("0", "1")),
        (r"(-\infty,\frac{1}{2}]", "(]", (r"-\infty", r"\frac{1}{2}")),
        ("(1,2),(3,4)", "list", ("(1,2)", "(3,4)")),
        (r"(0,1)\cup[2,3]", "union", ("(0,1)", "[2,3]")),
        (r"1\text{ and }2", "list", ("1", "2")),
        ("1, 2, or 3", "list", ("1", "2", "3")),
        (r"\pm 3", "list", ("3", "-3")),
        ("3:4", "ratio", ("3", "4")),
        ("f(1,2)", None, ()),
        ("(1+2)(3+4)", None, ()),
        ("1,000", None, ()),
        ("x+1", None, ()),
    ],
)
def test_an_answer_is_taken_apart_at_its_outermost_brackets(
    text: str, kind: str | None, items: tuple[str, ...]
) -> None:
    found = parts(clean(text))
    if kind is None:
        assert found is None
    else:
        assert found is not None
        assert found.kind == kind
        assert tuple(item.replace(" ", "") for item in found.items) == items


def test_brackets_that_do_not_balance_are_left_alone() -> None:
    assert split("(1,2", {","}) == ["(1,2"]
    assert not balanced("{1}}{")
    assert balanced(r"\{ {1} ")
    assert depth("(" * (MAX_DEPTH + 1)) == MAX_DEPTH + 1


def test_layout_goes_and_meaning_stays() -> None:
    assert clean(r"$\displaystyle \left( \dfrac{1}{2},\, 3 \right).$") == r"( \frac{1}{2}, 3 )"
    assert clean("\\begin{pmatrix}1\\\\ 2\\end{pmatrix}") == "\\begin{pmatrix}1\\\\ 2\\end{pmatrix}"
    assert explicit(r"\frac\pi2+\sqrt3(1)+1{,}5") == r"\frac{\pi}{2}+\sqrt{3}(1)+1{,}5"
    assert explicit(r"2(3)") == r"2\cdot (3)"
    assert explicit(r"\sin 30^\circ") == r"\sin (30\pi/180)"


@pytest.mark.parametrize("gold", ["12", r"\text{Monday}", "(1,2)", r"\{1,2\}", "2345_6", "5\\text{ cm}", "50\\%"])
def test_what_needs_no_parser_is_readable(gold: str) -> None:
    assert readable(gold, lambda text: False)


@pytest.mark.parametrize("gold", ["", " ", r"\frac{1}{", "５", "(" * 30 + "1" + ")" * 30, "x+"])
def test_what_nothing_can_read_is_not(gold: str) -> None:
    assert not readable(gold, lambda text: False)
