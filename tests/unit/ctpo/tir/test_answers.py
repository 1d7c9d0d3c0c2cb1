"""Claims about how a boxed text is read, before any mathematics: layout, numbers, parts, units."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctpo.tir.answers import MAX_DEPTH, number, parts
from ctpo.tir.comparing import equal, quick_verdict, readable
from ctpo.tir.measures import MAX_ANSWER_CHARS, measure, read


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
        ("{7}", Fraction(7)),
        (r"32,\! 349", Fraction(32349)),
        (r"\boxed{\textbf{12}}", Fraction(12)),
    ],
)
def test_a_rational_number_is_read_exactly(text: str, value: Fraction) -> None:
    found = number(read(text) or ())
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize(
    "text", ["", "x", "1,00", "1 2", "1/0", r"\frac{1}{0}", r"1\frac{-1}{2}", "--1", "1e9999", "9" * 301, "2(3)"]
)
def test_what_is_no_rational_number_is_not_read_as_one(text: str) -> None:
    assert number(read(text) or ()) is None


@given(st.fractions(), st.sampled_from([r"\frac{{{0}}}{{{1}}}", "{0}/{1}", r"\dfrac{{{0}}}{{{1}}}", r" {0} / {1} "]))
def test_every_fraction_is_itself_in_every_spelling(value: Fraction, form: str) -> None:
    text = form.format(value.numerator, value.denominator)
    assert quick_verdict(text, str(value)) is True
    assert quick_verdict(text, str(value + 1)) is False


@given(st.text(max_size=60), st.text(max_size=60))
def test_reading_never_fails_and_never_takes_two_texts_for_one_by_accident(answer: str, gold: str) -> None:
    if equal(answer, gold, lambda a, g: False):
        assert answer.strip() == gold.strip() or readable(gold, lambda text: True)


@given(st.text("\\{}()[]^_$,.|!&%'~ 0123456789abdefginoprstx+-*/=<>", max_size=80))
def test_soup_of_signs_is_read_the_same_when_its_reading_is_read_again(text: str) -> None:
    found = read(text)
    if found and not any(token.startswith((r"\text", r"\math")) for token in found):
        again = read(" ".join(found))
        assert again is None or read(" ".join(again)) == again


@pytest.mark.parametrize(
    ("text", "kind", "items"),
    [
        ("1,2", "list", ("1", "2")),
        (r"\{1,2\}", "{}", ("1", "2")),
        ("{1, 2}", "{}", ("1", "2")),
        (r"\left\{ 1 \right\}", "{}", ("1",)),
        (r"\{\}", "{}", ()),
        (r"\varnothing", "{}", ()),
        ("(1,2)", "()", ("1", "2")),
        ("[0,1)", "[)", ("0", "1")),
        (r"(-\infty,\frac{1}{2}]", "(]", (r"-\infty", r"\frac{1}{2}")),
        ("(1,2),(3,4)", "list", ("(1,2)", "(3,4)")),
        (r"(0,1)\cup[2,3]", "union", ("(0,1)", "[2,3]")),
        (r"1\text{ and }2", "list", ("1", "2")),
        ("1, 2, or 3", "list", ("1", "2", "3")),
        (r"\pm 3", "list", ("3", "-3")),
        ("3:4", "ratio", ("3", "4")),
        ("f(1,2)", "one", ("f(1,2)",)),
        ("(1+2)(3+4)", "one", ("(1+2)(3+4)",)),
        ("1,000", "one", ("1000",)),
    ],
)
def test_an_answer_is_taken_apart_at_its_outermost_brackets(text: str, kind: str, items: tuple[str, ...]) -> None:
    found = parts(read(text) or ())
    assert (found.kind, tuple("".join(item) for item in found.items)) == (kind, items)


@pytest.mark.parametrize(
    "text", ["{1}}{", "1}", "{1", r"\frac{1}", "x^", "(" * (MAX_DEPTH + 1), "x" * (MAX_ANSWER_CHARS + 1)]
)
def test_brackets_that_make_no_sense_are_no_answer(text: str) -> None:
    assert read(text) is None


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (r"$\displaystyle \left( \dfrac{1}{2},\, 3 \right).$", r"( \frac { 1 } { 2 } , 3 )"),
        (r"\frac\pi2+\sqrt3", r"\frac { \pi } { 2 } + \sqrt { 3 }"),
        ("x**2 + 1", "x ^ { 2 } + 1"),
        ("sqrt(sqrt(2)+1)/2", r"\sqrt { \sqrt { 2 } + 1 } / 2"),
        ("2*pi*r", r"2 \cdot \pi \cdot r"),
        (r"2\mathrm{e}^{\mathrm{i}x}", "2 e ^ { i x }"),
        (r"x=2\frac13", r"x = ( 2 + \frac { 1 } { 3 } )"),
        (r"3\text{ miles}", r"3 \text{miles}"),
        ("3 miles", r"3 \text{miles}"),
    ],
)
def test_one_spelling_is_left_of_many(text: str, tokens: str) -> None:
    assert " ".join(read(text) or ()) == tokens


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (r"5\text{ cm}^2", "5", {("length", 2)}),
        (r"5\text{ square centimeters}", "5", {("length", 2)}),
        (r"60\text{ km/h}", "60", {("length", 1), ("time", -1)}),
        (r"3\text{ million dollars}", r"\frac{3000000}{1}", {("money", 1)}),
        (r"90^\circ", "90", {("degree", 1)}),
        (r"14\text{ right triangles}", "14", {("thing", 1)}),
        (r"2\text{ halves}", r"2\text{halves}", set()),
        (r"\sin 30^\circ", r"\sin30^{\circ}", set()),
    ],
)
def test_a_unit_is_told_from_a_value(text: str, value: str, unit: set[tuple[str, int]]) -> None:
    found = measure(read(text) or ())
    assert ("".join(found.counted()), set(found.unit)) == (value, unit)


@pytest.mark.parametrize(
    "gold", ["12", r"\text{Monday}", "(1,2)", r"\{1,2\}", "2345_6", "5\\text{ cm}", "50\\%", r"1,2,\ldots,9"]
)
def test_what_needs_no_parser_is_readable(gold: str) -> None:
    assert readable(gold, lambda text: False)


@pytest.mark.parametrize("gold", ["", " ", r"\frac{1}{", "５", "(" * 30 + "1" + ")" * 30, "x+"])
def test_what_nothing_can_read_is_not(gold: str) -> None:
    assert not readable(gold, lambda text: False)
