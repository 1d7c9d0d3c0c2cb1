r"""What an answer says, as text: layout removed, numbers as fractions, lists and tuples in their parts.

Everything here is pure, needs no SymPy and is linear in the length of the text. `ctpo.tir.comparing` builds
the verdict on it. Non-ASCII characters are read only where they are mathematical signs in their own right
(pi, the minus sign, the degree sign); a letter or digit that merely looks like an ASCII one is another answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DEPTH = 24
"""Brackets nested deeper than this are no answer to a competition problem."""

_SIGNS = str.maketrans(
    {
        "−": "-", "×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "∪": r"\cup ",
        "∩": r"\cap ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∅": r"\emptyset ", "∈": r"\in ",
        "\u00a0": " ",
    }
)  # fmt: skip
_ROOT = re.compile(r"√\s*(\d+|[A-Za-z]|\(([^()]*)\))")
_SPACES = re.compile(
    r"(?<!\\)\\[!,;:> ]|~"
    r"|\\(?:quad|qquad|displaystyle|textstyle|limits|left|right|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])"
)
_SPACED_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:\\[, ]\d{3})+(?!\d)")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_FONTS = re.compile(r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf|bf|boxed|fbox)\s*\{([^{}]*)\}")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mbox|operatorname)\s*\{([^{}]*)\}")
_DOLLARS = re.compile(r"^(?:\$\$?|\\\(|\\\[)(.*?)(?:\$\$?|\\\)|\\\])$", re.DOTALL)
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
_OPEN = {"{": "}", "(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle"}
_CLOSE = frozenset(")]}") | {r"\}", r"\rangle"}


def clean(text: str) -> str:
    r"""The answer without layout: no math delimiters, sizes or thin spaces; one spelling of fractions and texts."""
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[2] if m[2] is not None else m[1]}}}", text.translate(_SIGNS)).strip()
    inner = _DOLLARS.match(text)
    text = inner[1] if inner and "$" not in inner[1] else text
    text = _SPACED_THOUSANDS.sub(lambda m: re.sub(r"\\[, ]", "", m[0]), text)
    text = _FRACTIONS.sub(r"\\frac", _SPACES.sub(lambda m: "" if m[0] in (r"\!",) else " ", text))
    text = text.replace(r"\lbrace", r"\{").replace(r"\rbrace", r"\}").replace("{,}", ",").replace(r"\%", "%")
    text = text.replace(r"\$", "").replace(r"\degree", r"^\circ").replace(r"^{\circ}", r"^\circ")
    text = _TEXT.sub(r"\\text{\1}", _FONTS.sub(r"\1", text))
    text = text.strip().rstrip(",;").rstrip()
    return " ".join((text[:-1] if text.endswith(".") and not text.endswith("..") else text).split())


_FACTOR = re.compile(r"(\d)\s*\(")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ")
_FIRST_ARGUMENT = re.compile(r"\\(frac|sqrt)\s*(\\[a-zA-Z]+|[0-9a-zA-Z])")
_SECOND_ARGUMENT = re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\\[a-zA-Z]+|[0-9a-zA-Z])")
_GROUPED = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])")


def explicit(text: str) -> str:
    r"""A cleaned single expression with what LaTeX and readers imply spelled out, for math-verify's parser.

    Braces around one-token arguments, a dot in 2(3) (a mixed number to that parser), degrees of an angle in
    radians, no thousands separators.
    """
    text = _GROUPED.sub(lambda m: m[0].replace(",", ""), text.replace("\\phantom", ""))
    text = _SECOND_ARGUMENT.sub(r"\1{\2}", _FIRST_ARGUMENT.sub(r"\\\1{\2}", text))
    text = _FACTOR.sub(r"\1\\cdot (", text)
    return _DEGREES.sub(r"(\1\\pi/180)", text) if _TRIGONOMETRY.search(text) else text


def depth(text: str) -> int:
    """How deep brackets nest, counting unbalanced ones."""
    level = deepest = 0
    for token in _TOKEN.findall(text):
        if token in _OPEN:
            level += 1
            deepest = max(deepest, level)
        elif token in _CLOSE:
            level -= 1
    return deepest


def balanced(text: str) -> bool:
    """Whether every curly brace has its partner. (Round and square ones may differ: half-open intervals.)"""
    level = 0
    for token in _TOKEN.findall(text):
        level += (token == "{") - (token == "}")
        if level < 0:
            return False
    return level == 0


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,300})"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d{{0,300}})?|\.\d{{1,300}})"
_QUOTIENT = r"\\frac(?:\{(?P<n{0}>-?\d{{1,300}})\}|(?P<N{0}>\d))\s*(?:\{(?P<d{0}>\d{{1,300}})\}|(?P<D{0}>\d))"
_FORMS = tuple(
    re.compile(r"(?P<sign>[+-]?)\s*" + form)
    for form in (
        rf"(?P<dec>{_DECIMAL})",
        rf"(?P<n1>{_DIGITS})\s*/\s*(?P<d1>{_DIGITS})",
        _QUOTIENT.replace("{0}", "1").replace("{{", "{").replace("}}", "}"),
        r"(?P<whole>\d{1,300})\s*" + _QUOTIENT.replace("{0}", "1").replace("{{", "{").replace("}}", "}"),
        r"(?P<whole>\d{1,300})\s+(?P<n1>\d{1,300})/(?P<d1>\d{1,300})",
        rf"(?P<dec>{_DECIMAL})\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{{?\s*(?P<exp>[+-]?\d{{1,3}})\s*\}}?",
        rf"(?P<dec>{_DECIMAL})[eE](?P<exp>[+-]?\d{{1,3}})",
        r"(?P<lead>\d{0,300})\.(?P<fixed>\d{0,300})\\overline\s*\{(?P<cycle>\d{1,300})\}",
    )
)


@dataclass(frozen=True)
class Number:
    """A rational number as written: its exact value, and its decimals if it was written with a decimal point."""

    value: Fraction
    decimals: int | None = None


def number(text: str) -> Number | None:
    r"""The rational number that a cleaned text spells, or None.

    Integers (with thousands separators), decimals (also repeating ones), fractions, mixed numbers ("2\frac{1}{3}"
    is seven thirds), scientific notation; a degree sign is dropped.
    """
    text = re.sub(r"\s*\^\s*\\circ$", "", text).strip()
    while text.startswith("{") and text.endswith("}") and text.count("{") == 1:
        text = text[1:-1].strip()
    for form in _FORMS:
        match = form.fullmatch(text)
        if match is None:
            continue
        parts = match.groupdict()
        try:
            value = _value(parts)
        except ZeroDivisionError:
            return None
        decimal = parts.get("dec") or ""
        decimals = len(decimal.partition(".")[2]) if "." in decimal and not parts.get("exp") else None
        return Number(-value if parts["sign"] == "-" else value, decimals)
    return None


def _value(parts: dict[str, str | None]) -> Fraction:
    if parts.get("dec"):
        exact = Fraction((parts["dec"] or "").replace(",", ""))
        return exact * Fraction(10) ** int(parts.get("exp") or 0)
    if parts.get("cycle"):
        lead, fixed, cycle = (parts[name] or "" for name in ("lead", "fixed", "cycle"))
        scale = 10 ** len(fixed)
        return Fraction(int(lead + fixed or "0"), scale) + Fraction(int(cycle), scale * (10 ** len(cycle) - 1))
    top = parts.get("n1") or parts.get("N1") or ""
    bottom = parts.get("d1") or parts.get("D1") or ""
    quotient = Fraction(int(top.replace(",", "")), int(bottom.replace(",", "")))
    if parts.get("whole") is None:
        return quotient
    if quotient < 0:
        raise ZeroDivisionError
    return int(parts["whole"] or "0") + quotient


@dataclass(frozen=True)
class Parts:
    """An answer of several parts. `kind` is list (bare commas), set, union, ratio, or a tuple's pair of brackets."""

    kind: str
    items: tuple[str, ...]


_CONNECTOR = re.compile(r"\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def parts(text: str) -> Parts | None:
    r"""The parts of a cleaned text that is a list, set, tuple, interval, union or ratio; None for one value.

    `a \pm b` is the list of its two values. "1,000" is one number, "1, 000" a list.
    """
    if _THOUSANDS.fullmatch(text):
        return None
    text = _CONNECTOR.sub(" , ", text)
    text = re.sub(r",\s*,", ",", text)
    items = split(text, {",", ";"})
    if len(items) > 1:
        return Parts("list", tuple(value for item in items for value in _both_signs(item)))
    pieces = split(text, {r"\cup"})
    if len(pieces) > 1:
        return Parts("union", tuple(pieces))
    ratio = split(text, {":"})
    if len(ratio) > 1:
        return Parts("ratio", tuple(ratio))
    closing = _closing(text)
    if closing is not None:
        opening = r"\{" if text.startswith(r"\{") else text[0]
        inside = split(text[len(opening) : len(text) - len(closing)], {",", ";"})
        if opening == r"\{":
            values = [value for item in inside for value in _both_signs(item)]
            return Parts("set", () if values == [""] else tuple(values))
        if len(inside) > 1:
            return Parts(opening + closing, tuple(inside))
    signs = _both_signs(text)
    return Parts("list", tuple(signs)) if len(signs) > 1 else None


def _both_signs(text: str) -> list[str]:
    if r"\pm" not in text and r"\mp" not in text:
        return [text]
    swapped = {r"\pm": "-", r"\mp": "+"}
    first = re.sub(r"\\(pm|mp)(?![a-zA-Z])", lambda m: "+" if m[1] == "pm" else "-", text).lstrip()
    second = re.sub(r"\\(pm|mp)(?![a-zA-Z])", lambda m: swapped["\\" + m[1]], text)
    return [first.removeprefix("+"), second]


def split(text: str, separators: set[str]) -> list[str]:
    """`text` at the separators that stand outside all brackets; one item if brackets do not balance.

    Half-open intervals close with the other bracket, so "(" and "[" are both closed by either.
    """
    items: list[str] = []
    current: list[str] = []
    level = 0
    for token in _TOKEN.findall(text):
        if token in _OPEN:
            level += 1
        elif token in _CLOSE:
            level -= 1
        if token in separators and level == 0:
            items.append("".join(current).strip())
            current = []
        else:
            current.append(token)
    if level:
        return [text]
    return [*items, "".join(current).strip()]


def _closing(text: str) -> str | None:
    """The bracket that closes the text's first one, if that is its last token."""
    found = _TOKEN.findall(text)
    if not found or found[0] not in ("(", "[", r"\{"):
        return None
    level = 0
    for position, token in enumerate(found):
        level += (token in _OPEN) - (token in _CLOSE)
        if level == 0:
            fits = token in ((r"\}",) if found[0] == r"\{" else (")", "]"))
            return token if fits and position == len(found) - 1 else None
    return None
