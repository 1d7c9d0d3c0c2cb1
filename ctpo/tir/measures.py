r"""What stands beside or instead of a number: units, number words ("million"), words, digits in another base."""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import NamedTuple

from ctpo.tir.answers import Tokens, number, tokens
from ctpo.tir.typesetting import clean

MAX_ANSWER_CHARS = 1000
"""Longer answers count only if they equal the reference character for character."""
_DEGREE = r"^{\circ}"


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Tokens | None:
    """An answer as tokens; None where it is empty, too long, not ASCII, or its brackets make no sense."""
    if len(text) > MAX_ANSWER_CHARS:
        return None
    cleaned = clean(text, _is_word)
    return tokens(cleaned) if cleaned.isascii() else None


def _plain_words(text: Tokens) -> str | None:
    if all(token.startswith(r"\text{") or (len(token) == 1 and token.isalpha()) for token in text):
        return _flat(text)
    return None


def _flat(text: Tokens) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", "".join(text)).replace(" ", "")


def is_words(text: Tokens) -> bool:
    """Words that no reading as a product of variables makes sense of."""
    words = _plain_words(text)
    return words is not None and (len(words) > 3 or any(len(token) > 1 for token in text))


def same_words(answer: Tokens, gold: Tokens) -> bool | None:
    ours, theirs = _plain_words(answer), _plain_words(gold)
    if any(r"\text{" in token for token in (*answer, *gold)) and _flat(answer) == _flat(gold):
        return True  # "October 30"
    if ours is None or theirs is None:
        return False if is_words(gold) or (ours is not None and is_words(answer)) else None
    # "yes" for "Yes", but two or three letters may name a segment or an angle: there the case counts.
    if ours == theirs or (
        ours.casefold() == theirs.casefold() and (len(ours) > 3 or ours.casefold() in ("yes", "no", "odd", "all"))
    ):
        return True
    return False if len(ours) == len(theirs) == 1 or is_words(answer) or is_words(gold) else None


_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}


def based(text: Tokens) -> tuple[str, int] | None:
    """The digits and the base of 1011_2, 152A_{11} or "1011 base 2"; None where the digits do not fit the base."""
    words = tuple(t for t in text if t not in (r"\text{base}", "_", "{", "}", "(", ")"))
    if not words or not {"_", r"\text{base}"} & set(text[1:]) or text[-1] not in ("}", ")", words[-1]):
        return None
    base = _BASES.get(words[-1].removeprefix(r"\text{").removesuffix("}")) or (
        int(words[-1]) if words[-1].isdigit() and len(words[-1]) < 3 else 0
    )
    spelled = re.sub(r"\\text\{(\w+)\}", r"\1", "".join(words[:-1]))
    digits = spelled.removeprefix("-").replace(".", "", 1)
    fits = any(c.isdigit() for c in digits) and all(c in _DIGITS[:base] for c in digits)
    return (spelled, base) if fits else None


THING = frozenset({("thing", 1)})
PERCENT = frozenset({("percent", 1)})
_SIZES = {
    name: (dimension, Fraction(size))
    for dimension, sizes in {
        "length": "0.001 mm millimeter, 0.01 cm centimeter centimetre, 1 m meter metre, 1000 km kilometer kilometre, "
        "0.0254 in inch inche, 0.3048 ft foot feet, 0.9144 yd yard, 1609.344 mi mile",
        "time": "1 s sec second, 60 min minute, 3600 h hr hour, 86400 day, 604800 week",
        "month": "1 month, 12 year yr",
        "mass": "0.001 g gm gram, 0.000001 mg, 1 kg kilogram, 0.45359237 lb pound, 0.028349523125 oz ounce",
        "money": "1 dollar usd, 0.01 cent",
        "euro": "1 euro eur",
        "volume": "1 l liter litre, 0.001 ml milliliter, 3.785411784 gallon",
        "degree": f"1 {_DEGREE} degree",
        "radian": "1 radian rad",
        "percent": r"0.01 \% percent",
        "area": "1 acre",
        "am": "1 am",
        "pm": "1 pm",
    }.items()
    for size, *names in (entry.split() for entry in sizes.split(", "))
    for name in names
}
_MULTIPLES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3}
# Words behind a number that change its value; others are the names of what is counted ("14 right triangles").
_NO_UNIT = frozenset(
    re.findall(
        r"\w+",
        "half halves third thirds quarter quarters squareroot below cubed factorial "
        "less more than to or and not mod modulo choose times plus minus "
        "over divided by negative if when for of base at least most maybe so is pi e i x y n root log",
    )
)
_PARTS = re.compile(r"\w*(?:four|fif|six|seven|eigh|nin|ten|twelf|teen|tie|hundred|thousand|million|billion)ths?")


class Measured(NamedTuple):
    """A value with the number word (million) and the unit behind it; `loose` where the unit may be a variable."""

    value: Tokens
    multiple: Fraction = Fraction(1)
    size: Fraction = Fraction(1)
    unit: frozenset[tuple[str, int]] = frozenset()
    loose: bool = False

    def counted(self) -> Tokens:
        return _times(self.value, self.multiple)

    def sized(self) -> Tokens:
        return _times(self.value, self.multiple * self.size)


def _times(value: Tokens, factor: Fraction) -> Tokens:
    found = number(value)
    if factor == 1:
        return value
    if found is not None:
        factor, value = factor * found.value, ("1",)
    quotient = (r"\frac", "{", str(abs(factor.numerator)), "}", "{", str(factor.denominator), "}")
    product = quotient if value == ("1",) else (*quotient, "(", *value, ")")
    return ("-", *product) if factor < 0 else product


def _size(word: str) -> tuple[str, Fraction] | None:
    return _SIZES.get(word) or _SIZES.get(word.removesuffix("s") if len(word) > 3 else word)


def _is_word(word: str) -> bool:
    word = word.lower()
    return bool(_size(word)) or word in {*_MULTIPLES, *_POWERS, "mph", "per", "units", "unit", "points"}


def measure(text: Tokens) -> Measured:
    r"""The value and the unit of "5\text{ cm}^2", "3\text{ million}", "90^\circ", "5m"; all value if it has none."""
    at = len(text)
    while at:
        token, before = text[at - 1], text[at - 2] if at > 1 else ""
        if token.startswith(r"\text{") or token in (_DEGREE, r"\%") or (token in ("/", r"\cdot") and at < len(text)):
            at -= 1
        elif token == "}" and at > 4 and text[at - 4] == "^" and text[at - 5].startswith(r"\text{"):
            at -= 4
        elif token in ("C", "F") and before == _DEGREE:
            at -= 1
        else:
            break
    trig = any(token in (r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc") for token in text)
    if at and at < len(text) and not trig:
        return _with_unit(text[:at], text[at:]) or Measured(text)
    if at == len(text) > 1 and text[-1] in "mshgl" and (text[-2].isdigit() or text[-2] in ("}", ")")):
        measured = _with_unit(text[:-1], (rf"\text{{{text[-1]}}}",))
        return measured._replace(loose=True) if measured else Measured(text)
    return Measured(text)


def _with_unit(value: Tokens, unit: Tokens) -> Measured | None:
    spelled = re.sub(r"\\text\b|\\cdot", "", re.sub(r"\^ \{ (\d) \}", r"\1", " ".join(unit)))
    spelled = re.sub(r"\bmph\b", "mile / h", spelled)
    words = re.findall(r"[A-Za-z][\w']*|/|\^\{\\circ\}|\\%|\d", spelled)
    multiple, size, sign, power = Fraction(1), Fraction(1), 1, 1
    dimensions: dict[str, int] = {}
    last: tuple[str, Fraction] | None = None
    for word in (w if len(w) == 1 else w.lower() for w in words):
        found = _size(word)
        if word in _NO_UNIT or _PARTS.fullmatch(word):
            return None
        if word in ("/", "per"):
            sign = -1
        elif word in _MULTIPLES or word.removesuffix("s") in _MULTIPLES:
            multiple *= _MULTIPLES.get(word) or _MULTIPLES[word.removesuffix("s")]
        elif word.isdigit() and last:
            dimensions[last[0]] += sign * (int(word) - 1)
            size *= last[1] ** (sign * (int(word) - 1))
        elif word == "squared" and not last:
            return None
        elif word in _POWERS:
            power = _POWERS[word]
        elif found and found != last:
            dimensions[found[0]] = dimensions.get(found[0], 0) + sign * power
            size, last, power = size * found[1] ** (sign * power), found, 1
        elif not found:
            dimensions["thing"] = 1
    if "thing" in dimensions or (not dimensions and multiple == 1):
        return Measured(value, multiple, unit=THING)
    return Measured(value, multiple, size, frozenset(dimensions.items()))
