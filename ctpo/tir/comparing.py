r"""Whether an answer is the reference answer, given math-verify's reading of mathematical expressions.

Text and arithmetic of rational numbers decide the most frequent cases without it (`quick_verdict`). Beyond them,
math-verify reads and compares; a rule stands here only where its verdict would be wrong, with a row of
`tests/unit/ctpo/tir/graded_answers.yaml` that needs the rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from ctpo.tir.answers import Number, Tokens, clean, number, split, tokens

SameValue = Callable[[Tokens, Tokens], bool]

MAX_ANSWER_CHARS = 1000
"""Longer answers count only if they equal the reference character for character."""

# A decimal stands for a value that is no finite decimal if it agrees to so many places, as math-verify has it.
PLACES = 6

_EQUAL, _IN = frozenset({"="}), frozenset({r"\in"})
_ORDER = frozenset({"<", ">", r"\le", r"\ge", r"\ne", r"\notin"})
_RELATIONS = _EQUAL | _IN | _ORDER
_COMMAS = {",", ";", r"\land", r"\lor"}
_DEGREE = r"^{\circ}"


def read(text: str) -> Tokens | None:
    """An answer as tokens; None where it is empty, too long, not ASCII after cleaning, or its brackets make no sense."""
    if len(text) > MAX_ANSWER_CHARS:
        return None
    cleaned = clean(text, _is_word)
    return tokens(cleaned) if cleaned.isascii() else None


def quick_verdict(answer: str | None, gold: str) -> bool | None:
    """The verdict where text and arithmetic of numbers decide, None where more is needed. Never slow."""
    if answer is None:
        return False
    if len(answer) > MAX_ANSWER_CHARS or answer.strip() == gold.strip():
        return answer.strip() == gold.strip() != ""
    ours, theirs = read(answer), read(gold)
    if ours is None or theirs is None:
        return False
    if ours == theirs:
        return True
    first, second = number(ours), number(theirs)
    return None if first is None or second is None else _same_number(first, second)


def equal(answer: str, gold: str, same_value: SameValue) -> bool:
    """Whether `answer` is right.

    Args:
        answer: what the model wrote in its box.
        gold: the reference answer.
        same_value: compares two expressions, answer first.
    """
    verdict = quick_verdict(answer, gold)
    if verdict is not None:
        return verdict
    ours, theirs = read(answer), read(gold)
    assert ours is not None and theirs is not None
    # SymPy writes log for the natural logarithm: `log(2)` is right for \ln 2, and for \log 2 as it stands.
    return any(
        _same(_named(ours, name), _named(theirs, other), same_value)
        for name, other in dict.fromkeys((n, o) for n in _logs(ours) for o in _logs(theirs))
    )


def _logs(text: Tokens) -> tuple[str, ...]:
    return (r"\ln", r"\log") if r"\plainlog" in text else ("",)


def _named(text: Tokens, log: str) -> Tokens:
    return tuple(log if token == r"\plainlog" else token for token in text)


def readable(gold: str, parses: Callable[[Tokens], bool]) -> bool:
    """Whether another way to write `gold` could be recognised: each of its parts is a number, words, or parses."""
    text = read(gold)
    return text is not None and _readable(_named(text, r"\ln"), parses)


def _readable(text: Tokens, parses: Callable[[Tokens], bool]) -> bool:
    text = _without_names(_exact(text), keep=False)
    found = parts(text)
    if len(found.items) != 1 or found.kind != "one":
        return bool(found.items) and all(_readable(item, parses) for item in found.items) or found.kind == "{}"
    if _words(text) or _based(text) or text == (r"\ldots",):
        return True
    value = measure(text).value
    return number(value) is not None or (bool(value) and parses(value))


class Parts(NamedTuple):
    r"""An answer in parts. `kind` is one, list (commas), union, ratio, "{}" for a set, "()", "[)" ... or "<>"."""

    kind: str
    items: tuple[Tokens, ...]


def parts(text: Tokens) -> Parts:
    r"""The parts of a list, set, tuple, interval, union or ratio. `a \pm b` is the list of its two values."""
    text = tuple(token for token in text if token != r"\emptyset") if text == (r"\{", r"\emptyset", r"\}") else text
    if text == (r"\emptyset",):
        return Parts("{}", ())
    for kind, separators in (("list", _COMMAS), ("union", {r"\cup"}), ("ratio", {":"})):
        found = [item for item in split(text, separators) if item or kind != "list"]
        if len(found) > 1 and (kind != "ratio" or not _RELATIONS & set(text)):
            return Parts(kind, tuple(value for item in found for value in _both_signs(item)))
    brackets = {"(": "()", "[": "[]", r"\{": "{}", r"\langle": "<>"}.get(text[0])
    if brackets and len(split(text[1:-1], set())) == 1 and text[-1] in (")", "]", r"\}", r"\rangle"):
        if all(level > 0 for level in _levels(text[:-1])):
            inside = [item for item in split(text[1:-1], {",", ";"}) if item]
            if brackets == "{}":
                return Parts("{}", tuple(value for item in inside for value in _both_signs(item)))
            if len(inside) > 1:
                return Parts(brackets[0] + text[-1].replace(r"\rangle", ">"), tuple(inside))
    signs = _both_signs(text)
    return Parts("list" if len(signs) > 1 else "one", tuple(signs))


def _levels(text: Tokens) -> list[int]:
    level, levels = 0, []
    for token in text:
        level += token in ("(", "[", r"\{", r"\langle", "{")
        level -= token in (")", "]", r"\}", r"\rangle", "}")
        levels.append(level)
    return levels


def _both_signs(text: Tokens) -> list[Tokens]:
    if not {r"\pm", r"\mp"} & set(text):
        return [text]
    values = []
    for signs in ({r"\pm": "+", r"\mp": "-"}, {r"\pm": "-", r"\mp": "+"}):
        signed = tuple(signs.get(token, token) for token in text)
        # A leading plus, also behind "=" or a bracket, is no sign of its own.
        values.append(
            tuple(t for n, t in enumerate(signed) if t != "+" or (n and signed[n - 1] not in ("=", "(", "{", r"\in")))
        )
    return values


def _same(answer: Tokens, gold: Tokens, same_value: SameValue) -> bool:
    if answer == gold:
        return True
    first, second = number(answer), number(gold)
    if first is not None and second is not None:
        return _same_number(first, second)
    answer, gold = _values(answer, gold, same_value)
    if answer == gold:
        return True
    if not answer or not gold:
        return False
    ours, theirs = parts(answer), parts(gold)
    if ours.kind == theirs.kind == "one":
        return _same_single(answer, gold, same_value)
    if _same_parts(ours, theirs, same_value):
        return True
    # Differently cut unions, and an interval against inequalities, are still the same set.
    if {ours.kind, theirs.kind} <= {"()", "[]", "(]", "[)", "{}"}:
        return False
    return _set_like(answer, ours) and _set_like(gold, theirs) and same_value(answer, gold)


def _set_like(text: Tokens, found: Parts) -> bool:
    return (
        found.kind in ("union", "{}", "()", "[]", "(]", "[)")
        or bool(_ORDER & set(text))
        or any(token.startswith(r"\mathbb") for token in text)
    )


def _same_parts(ours: Parts, theirs: Parts, same_value: SameValue) -> bool:
    kinds = {ours.kind, theirs.kind}

    def same(answer: Tokens, gold: Tokens) -> bool:
        return _same(answer, gold, same_value)

    if kinds == {"ratio"}:
        return _same_ratio(ours.items, theirs.items, same_value)
    if len(kinds) == 2 and "ratio" in kinds and "one" in kinds:
        sides = [_quotient(p.items) if p.kind == "ratio" and len(p.items) == 2 else p.items[0] for p in (ours, theirs)]
        return _same_single(sides[0], sides[1], same_value)
    if len(ours.items) != len(theirs.items):
        return False
    # `[1, 2]` is how Python prints a list: only an answer is read so, for a reference that is no interval.
    if kinds <= {"list", "{}", "one"} or kinds == {"union"} or (ours.kind == "[]" and theirs.kind in ("list", "{}")):
        return _same_in_any_order(ours.items, theirs.items, same)
    if kinds in ({"list", "()"}, {"()", "<>"}, {"list", "<>"}) or (len(kinds) == 1 and len(ours.kind) == 2):
        return all(same(a, g) for a, g in zip(ours.items, theirs.items, strict=True))
    return False


def _same_in_any_order(
    ours: Sequence[Tokens], theirs: Sequence[Tokens], same: Callable[[Tokens, Tokens], bool]
) -> bool:
    left = list(ours)
    for gold in theirs:
        match = next((item for item in left if same(item, gold)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _quotient(items: Sequence[Tokens]) -> Tokens:
    return (r"\frac", "{", *items[0], "}", "{", *items[1], "}")


def _same_ratio(ours: Sequence[Tokens], theirs: Sequence[Tokens], same_value: SameValue) -> bool:
    """Part by part, or in proportion; of times of day ("4:05 p.m.") only part by part."""
    if len(ours) != len(theirs):
        return False
    if all(_same(a, g, same_value) for a, g in zip(ours, theirs, strict=True)):
        return True
    if any(len(token) > 1 and token[0] == "0" or token.startswith(r"\text") for item in theirs for token in item):
        return False
    pairs = zip([*zip(ours, ours[1:], strict=False)], [*zip(theirs, theirs[1:], strict=False)], strict=True)
    return all(_same_single(_quotient(a), _quotient(g), same_value) for a, g in pairs)


_NAME_TOKEN = re.compile(
    r"[A-Za-z]|\\mathit\{\w+\}|\\(?:angle|triangle|[a-z]*(?:alpha|beta|gamma|theta|phi|lambda|mu)|pi)"
)


def _is_name(text: Tokens) -> bool:
    r"""Whether a side of "=" names what the other side is the value of: x, a_{1}, AB, |AB|, f(x), (x,y), \angle ABC."""
    plain, level, at = True, 0, 0
    for at, token in enumerate(text):
        if token in ("_", "{", "}"):
            level += (token == "{") - (token == "}")
        elif level == 0 and token not in ("|", "(", ")", ",", ":", "'", "^", r"\mathit{prime}"):
            plain = plain and (_NAME_TOKEN.fullmatch(token) is not None or (at > 1 and token.isdigit()))
    return plain and bool(text) and text not in (("i",), ("e",), (r"\pi",)) and "^" not in text


def _without_names(text: Tokens, keep: bool) -> Tokens:
    """The value of `name = value`, whichever side the name is on; with `keep`, the text as it is."""
    sides = split(text, set(_EQUAL | _IN))
    if keep or len(sides) < 2 or len(split(text, _COMMAS)) > 1 or not all(sides):
        return text
    named = [_is_name(side) for side in sides]
    if all(named[:-1]) and not _ORDER & set(text):
        return sides[-1]
    if named == [False, True]:
        return sides[0]
    return text


def _values(answer: Tokens, gold: Tokens, same_value: SameValue) -> tuple[Tokens, Tokens]:
    r"""Both without `\approx` and without `name =`, unless the two name different things."""
    answer, gold = _exact(answer), _exact(gold)
    ours, theirs = (split(text, set(_EQUAL | _IN)) for text in (answer, gold))
    if len(ours) > 1 and len(theirs) > 1:
        names = [[side for side in sides if _is_name(side)][:1] for sides in (ours, theirs)]
        keep = names[0] != names[1] or not names[0]
        return _without_names(answer, keep), _without_names(gold, keep)
    if len(ours) > 1 and not _ORDER & set(answer) and len(split(answer, _COMMAS)) == 1:
        value = _without_names(answer, keep=False)
        # "m+n = 33" for 33; an untrue equation of numbers has no value.
        if value == answer and all(same_value(ours[-1], s) for s in ours[:-1] if number(s)):
            value = ours[-1]
        answer = value
    return answer, _without_names(gold, keep=False)


def _exact(text: Tokens) -> Tokens:
    r"""The value before `\approx` and its rounding, or the first of several spellings of one number ("0.5 = 50%")."""
    before, *after = split(text, {r"\approx"})
    if len(after) == 1 and number(measure(after[0]).value):
        before = _without_names(before, keep=False)
        return after[0] if not before or _is_name(before) else before
    sides = split(text, set(_EQUAL))
    if len(sides) > 1 and all(sides):
        values = [_percent(side) for side in sides]
        if None not in values and len(set(values)) == 1:
            return sides[0]
    return text


def _percent(text: Tokens) -> Fraction | None:
    found = number(text[:-1] if text[-1:] == (r"\%",) else text)
    return None if found is None else found.value / (100 if text[-1] == r"\%" else 1)


def _same_number(first: Number, second: Number) -> bool:
    if first.value == second.value:
        return True
    if (first.decimals is None) == (second.decimals is None):
        return False
    decimals = first.decimals if first.decimals is not None else second.decimals
    return (decimals or 0) >= PLACES and rounds_to(first.value, second.value)


def rounds_to(first: Fraction, second: Fraction) -> bool:
    """Whether two values agree to `PLACES` decimals, or below 1e-4 to as many digits."""
    scale = max(abs(first), abs(second))
    return 2 * abs(first - second) * 10**PLACES <= (1 if scale * 10**4 >= 1 else scale)


def _same_single(answer: Tokens, gold: Tokens, same_value: SameValue) -> bool:
    word = _same_words(answer, gold)
    if word is not None:
        return word
    theirs = _based(gold)
    if theirs is not None:
        return (_based(answer) or ("".join(answer), theirs[1])) == theirs
    if _based(answer) is not None:
        return False
    first, second = measure(answer), measure(gold)
    # In a reference like "5m" the letter is a unit only for an answer that has one: else it may be a variable.
    if second.loose and not first.unit:
        second = Measured(gold)
    if first.unit and second.unit and _THING not in (first.unit, second.unit):
        return first.unit == second.unit and _same_amount(first.sized(), second.sized(), same_value)
    # Problems say "what percentage", and sheets vary: a sign that only one of the two has is taken or left.
    percent = (first.unit == _PERCENT) != (second.unit == _PERCENT)
    return _same_amount(first.counted(), second.counted(), same_value) or (
        percent and _same_amount(first.sized(), second.sized(), same_value)
    )


def _same_amount(answer: Tokens, gold: Tokens, same_value: SameValue) -> bool:
    if not answer or not gold:
        return False
    first, second = number(answer), number(gold)
    if first is not None and second is not None:
        return _same_number(first, second)
    return answer == gold or same_value(answer, gold)


def _plain_words(text: Tokens) -> str | None:
    if all(token.startswith(r"\text{") or (len(token) == 1 and token.isalpha()) for token in text):
        return _flat(text)
    return None


def _flat(text: Tokens) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", "".join(text)).replace(" ", "")


def _words(text: Tokens) -> bool:
    """Words that no reading as a product of variables makes sense of."""
    words = _plain_words(text)
    return words is not None and (len(words) > 3 or any(len(token) > 1 for token in text))


def _same_words(answer: Tokens, gold: Tokens) -> bool | None:
    ours, theirs = _plain_words(answer), _plain_words(gold)
    if any(r"\text{" in token for token in (*answer, *gold)) and _flat(answer) == _flat(gold):
        return True  # "October 30"
    if ours is None or theirs is None:
        return False if _words(gold) or (ours is not None and _words(answer)) else None
    # "yes" for "Yes", but two or three letters may name a segment or an angle: there the case counts.
    if ours == theirs or (
        ours.casefold() == theirs.casefold() and (len(ours) > 3 or ours.casefold() in ("yes", "no", "odd", "all"))
    ):
        return True
    return False if len(ours) == len(theirs) == 1 or _words(answer) or _words(gold) else None


_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}


def _based(text: Tokens) -> tuple[str, int] | None:
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


_THING = frozenset({("thing", 1)})
_PERCENT = frozenset({("percent", 1)})
_SIZES = {
    name: (dimension, Fraction(size))
    for dimension, sizes in {
        "length": "0.001 mm millimeter, 0.01 cm centimeter centimetre, 1 m meter metre, 1000 km kilometer kilometre, "
        "0.0254 in inch inche, 0.3048 ft foot feet, 0.9144 yd yard, 1609.344 mi mile",
        "time": "1 s sec second, 60 min minute, 3600 h hr hour, 86400 day, 604800 week",
        "month": "1 month, 12 year yr",
        "mass": "0.001 g gm gram, 0.000001 mg, 1 kg kilogram, 0.45359237 lb pound, 0.028349523125 oz ounce",
        "money": "1 dollar usd, 0.01 cent",
        "volume": "1 l liter litre, 0.001 ml milliliter, 3.785411784 gallon",
        "degree": f"1 {_DEGREE} degree",
        "radian": "1 radian rad",
        "percent": r"0.01 \% percent",
        "area": "1 acre",
        "speed": "1 mph",
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
    "half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths eighth eighths tenth tenths "
    "hundredth hundredths cubed factorial less more than to or and not mod modulo choose times plus minus over divided "
    "by negative if when for of base at least most maybe so is pi e i x y n root squareroot log".split()
)


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
    return bool(_size(word)) or word in _MULTIPLES or word in _POWERS or word in ("per", "units", "unit", "points")


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
    words = re.findall(r"[A-Za-z][\w']*|/|\^\{\\circ\}|\\%|\d", spelled)
    multiple, size, sign, power = Fraction(1), Fraction(1), 1, 1
    dimensions: dict[str, int] = {}
    last: tuple[str, Fraction] | None = None
    for word in (w if len(w) == 1 else w.lower() for w in words):
        found = _size(word)
        if word in _NO_UNIT:
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
        return Measured(value, multiple, unit=_THING)
    return Measured(value, multiple, size, frozenset(dimensions.items()))
