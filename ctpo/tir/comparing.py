r"""Whether an answer is the reference answer, given some way to compare two single mathematical expressions.

The rules, from the outside in: text; numbers; lists, sets, tuples, intervals and unions by their parts; words;
percentages, degrees, units, money, number bases, `x =`; and what is left goes to `same_value`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ctpo.tir.answers import MAX_DEPTH, Number, Parts, balanced, clean, depth, number, parts, split

SameValue = Callable[[str, str], bool]

MAX_ANSWER_CHARS = 1000
"""Longer answers count only if they equal the reference character for character."""

# A decimal stands for a value that is no finite decimal if it agrees to so many places, as math-verify has it.
_PLACES = 6
_ASSIGNMENT = re.compile(
    r"^(?P<name>[A-Za-z](?:_\{?\w+\}?)?(?:\s*\(\s*[a-z]\s*\))?|\\[a-z]+)\s*(?:=|\\in(?![a-zA-Z]))\s*(?P<value>[^=]+)$"
)
_BASE = re.compile(r"^(?P<digits>-?\s*[0-9A-Za-z.]+)_\{?(?P<base>\d{1,2}|\\text\{\w+\})\}?$")
_APPROXIMATELY = re.compile(r"^(?P<value>.*?)\\approx(?![a-zA-Z])(?P<rounded>.*)$")
# A full stop, an equation in brackets, an untrue one of numbers: math-verify would read a part and drop the rest.
_NO_ANSWER = re.compile(r"[^\d\s]\s*\.(?!\d)|\([^()]*=[^()]*\)|\\approx(?![a-zA-Z])|^[-\d.]+\s*=\s*[-\d.]+$")
_TEXT_UNIT = re.compile(r"^(?P<value>.*?\d.*?)\s*\\text\{\s*(?P<unit>[^{}]*)\}(?P<power>\^\{?[23]\}?)?$")
_WORD_UNIT = re.compile(r"^(?P<value>.*[\d})])\s*(?P<unit>[A-Za-z][A-Za-z ./]*?)(?P<power>\^\{?[23]\}?)?$")
# In a reference like "5m" the letter is a unit only for an answer that has one: else it may be a variable.
_VARIABLE = re.compile(r"[\d})][A-Za-z]$")
_WORDS = re.compile(r"^(?:\(?[A-Za-z]\)?|[A-Za-z][A-Za-z'\- ]*)$")
_UNITS = {
    alias: name
    for name, aliases in {
        "mm": "mm millimeter millimeters", "cm": "cm centimeter centimeters centimetres",
        "m": "m meter meters metre metres", "km": "km kilometer kilometers kilometres",
        "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles",
        "s": "s sec second seconds", "min": "min mins minute minutes", "h": "h hr hrs hour hours",
        "day": "day days", "week": "week weeks", "month": "month months", "year": "year years",
        "mg": "mg", "g": "g gram grams", "kg": "kg kilogram kilograms", "lb": "lb lbs pound pounds",
        "oz": "oz ounce ounces", "l": "l liter liters", "ml": "ml milliliter milliliters",
        "cent": "cent cents", "dollar": "dollar dollars usd", "degree": "degree degrees", "radian": "radian radians",
        "mph": "mph", "unit": "unit units", "point": "point points", "percent": "percent",
    }.items()
    for alias in aliases.split()
}  # fmt: skip


def quick_verdict(answer: str | None, gold: str) -> bool | None:
    """The verdict where text and arithmetic of numbers decide, None where more is needed. Never slow."""
    if answer is None:
        return False
    if len(answer) > MAX_ANSWER_CHARS or len(gold) > MAX_ANSWER_CHARS:
        return answer.strip() == gold.strip() != ""
    answer, gold = answer.strip(), gold.strip()
    if not answer or not gold or answer == gold:
        return bool(answer) and answer == gold
    ours, theirs = clean(answer), clean(gold)
    if not ours or not ours.isascii() or not theirs.isascii():
        return ours == theirs != ""
    if ours == theirs:
        return True
    if depth(ours) > MAX_DEPTH or not balanced(ours):
        return False
    first, second = number(ours), number(theirs)
    return None if first is None or second is None else _same_number(first, second)


def equal(answer: str, gold: str, same_value: SameValue) -> bool:
    """Whether `answer` is right.

    Args:
        answer: what the model wrote in its box.
        gold: the reference answer.
        same_value: compares two single expressions in LaTeX, answer first.
    """
    verdict = quick_verdict(answer, gold)
    return verdict if verdict is not None else _equal(clean(answer), clean(gold), same_value)


def _equal(answer: str, gold: str, same_value: SameValue) -> bool:
    answer, gold = _values(answer, gold)
    if answer == gold:
        return True
    ours, theirs = parts(answer), parts(gold)
    if ours is None and theirs is None:
        return _same_single(answer, gold, same_value)
    verdict = _same_parts(ours or Parts("one", (answer,)), theirs or Parts("one", (gold,)), same_value)
    # Differently cut unions, and an interval against an inequality, are still the same set.
    # math-verify reads only its second argument as either, so both orders are tried.
    return verdict or (_is_set_like(ours, theirs) and (same_value(answer, gold) or same_value(gold, answer)))


def _is_set_like(ours: Parts | None, theirs: Parts | None) -> bool:
    kinds = {found.kind if found else "one" for found in (ours, theirs)}
    return "union" in kinds or (len(kinds) == 2 and "one" in kinds and bool(kinds & {"()", "[]", "(]", "[)"}))


def _same_parts(ours: Parts, theirs: Parts, same_value: SameValue) -> bool:
    if len(ours.items) != len(theirs.items):
        return False
    kinds = {ours.kind, theirs.kind}

    def same(answer: str, gold: str) -> bool:
        quick = quick_verdict(answer, gold)
        return quick if quick is not None else _equal(answer, gold, same_value)

    if kinds <= {"list", "set", "one"} or kinds == {"union"}:
        return _same_in_any_order(ours.items, theirs.items, same)
    if kinds in ({"list", "()"}, {"ratio"}) or (len(kinds) == 1 and len(ours.kind) == 2):
        return all(same(a, g) for a, g in zip(ours.items, theirs.items, strict=True))
    return False


def _same_in_any_order(ours: Sequence[str], theirs: Sequence[str], same: Callable[[str, str], bool]) -> bool:
    left = list(ours)
    for gold in theirs:
        match = next((item for item in left if same(item, gold)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _values(answer: str, gold: str) -> tuple[str, str]:
    r"""Both without `\approx` and `x =`, the latter where only one has it, or both have the same."""
    answer, gold = _exact(answer), _exact(gold)
    ours, theirs = _ASSIGNMENT.match(answer), _ASSIGNMENT.match(gold)
    same_name = ours and theirs and ours["name"].replace(" ", "") == theirs["name"].replace(" ", "")
    if ours and (same_name or "=" not in gold):
        answer = ours["value"]
    if theirs and (same_name or "=" not in answer):
        gold = theirs["value"]
    return answer.strip(), gold.strip()


def _exact(text: str) -> str:
    r"""The value before `\approx` and its rounding, or one of several spellings of the same number ("0.5 = 50%")."""
    match = _APPROXIMATELY.match(text)
    if match is not None and match["value"].count("(") == match["value"].count(")"):
        rounded, _ = _without_unit(match["rounded"].strip())
        return (match["value"].strip() or rounded) if number(rounded) is not None else text
    sides = split(text, {"="})
    found = [number(side.removesuffix("%")) for side in sides]
    values = {one.value / (100 if side.endswith("%") else 1) for side, one in zip(sides, found, strict=True) if one}
    return sides[0] if len(sides) > 1 and None not in found and len(values) == 1 else text


def _same_single(answer: str, gold: str, same_value: SameValue) -> bool:
    percents = answer.endswith("%"), gold.endswith("%")
    if any(percents):
        return _same_percentage(answer, gold, percents, same_value)
    word = _same_words(answer, gold)
    if word is not None:
        return word
    based = _same_in_base(answer, gold)
    if based is not None:
        return based
    answer, our_unit = _without_unit(answer)
    if our_unit or not _VARIABLE.search(gold):
        gold, their_unit = _without_unit(gold)
    else:
        their_unit = None
    if our_unit and their_unit and our_unit != their_unit and {our_unit, their_unit} <= _KNOWN:
        return False
    if our_unit == "percent" or their_unit == "percent":
        return _same_percentage(answer, gold, (our_unit == "percent", their_unit == "percent"), same_value)
    first, second = number(answer), number(gold)
    if first is not None and second is not None:
        return _same_number(first, second)
    if _words_only(answer) != _words_only(gold) or _NO_ANSWER.search(answer):
        return False
    return bool(answer) and bool(gold) and (answer == gold or same_value(answer, gold))


_KNOWN = frozenset(name + power for name in _UNITS.values() for power in ("", "2", "3"))


def _same_number(first: Number, second: Number) -> bool:
    if first.value == second.value:
        return True
    if (first.decimals is None) == (second.decimals is None):
        return False
    decimals = first.decimals if first.decimals is not None else second.decimals
    difference = abs(first.value - second.value)
    scale = max(abs(first.value), abs(second.value))
    # Below 1e-4 the same number of places would be too few digits: there it is six of those.
    return (decimals or 0) >= _PLACES and 2 * difference * 10**_PLACES <= (1 if scale * 10**4 >= 1 else scale)


def _same_percentage(answer: str, gold: str, percents: tuple[bool, bool], same_value: SameValue) -> bool:
    """A sign that only one of the two has is taken or left: problems say "what percentage", and sheets vary."""
    bare = answer.removesuffix("%").strip(), gold.removesuffix("%").strip()
    if bare[0] and bare[1] and equal(*bare, same_value):
        return True
    first, second = number(bare[0]), number(bare[1])
    if percents[0] == percents[1] or first is None or second is None:
        return False
    return first.value / (100 if percents[0] else 1) == second.value / (100 if percents[1] else 1)


def _plain_words(text: str) -> str | None:
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()
    return " ".join(words.split()) if _WORDS.match(words) else None


def _words_only(text: str) -> bool:
    """Words that no reading as a product of variables makes sense of."""
    words = _plain_words(text)
    return words is not None and (r"\text" in text or len(words) > 3)


def _same_words(answer: str, gold: str) -> bool | None:
    ours, theirs = _plain_words(answer), _plain_words(gold)
    if ours is None or theirs is None:
        return None
    ours, theirs = (re.sub(r"^\((\w)\)$", r"\1", words) for words in (ours, theirs))
    if len(ours) == 1 or len(theirs) == 1:
        return ours == theirs
    if ours.casefold() == theirs.casefold():
        return True
    return False if _words_only(answer) or _words_only(gold) else None


def _same_in_base(answer: str, gold: str) -> bool | None:
    theirs = _BASE.match(gold)
    if theirs is None:
        return None
    ours = _BASE.match(answer)
    if ours is not None:
        return (ours["digits"], ours["base"]) == (theirs["digits"], theirs["base"])
    return answer.replace(" ", "") == theirs["digits"]


def _without_unit(text: str) -> tuple[str, str | None]:
    r"""The value and its unit: any word in \text{} behind a number, or a known unit in plain letters."""
    match = _TEXT_UNIT.match(text)
    if match is None:
        match = _WORD_UNIT.match(text)
        if match is None or not all(word.lower().strip(".") in _UNITS for word in re.split(r"[ /]+", match["unit"])):
            return text, None
    name = match["unit"].strip().rstrip(".").lower()
    square = re.match(r"(?:square|sq\.?|cubic|cu\.?)\s+", name)
    power = (match["power"] or "").strip("^{}") or ("" if square is None else "2" if name[0] == "s" else "3")
    name = name[square.end() :] if square else name
    return match["value"].strip(), _UNITS.get(name, name) + power


def readable(gold: str, parses: Callable[[str], bool]) -> bool:
    """Whether another way to write `gold` could be recognised: each of its parts is a number, words, or parses."""
    text = clean(gold)
    if not text or not text.isascii() or depth(text) > MAX_DEPTH or not balanced(text):
        return False
    text, _ = _values(text, "")
    found = parts(text)
    if found is not None:
        return bool(found.items) and all(readable(item, parses) for item in found.items)
    if _words_only(text) or _BASE.match(text):
        return True
    value, _ = _without_unit(text.removesuffix("%").strip())
    return number(value) is not None or parses(value)
