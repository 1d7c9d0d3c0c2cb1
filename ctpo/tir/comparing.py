r"""Whether an answer is the reference answer, given math-verify's reading of mathematical expressions.

Text and arithmetic of rational numbers decide the most frequent cases without it (`quick_verdict`). Beyond them,
math-verify reads and compares; a rule stands here only where its verdict would be wrong, with a row of
`tests/unit/ctpo/tir/graded_answers.yaml` that needs the rule.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from ctpo.tir.answers import COMMAS, EQUALITY, ORDER, Number, Parts, Tokens, number, parts, split
from ctpo.tir.measures import MAX_ANSWER_CHARS, PERCENT, THING, Measured, based, is_words, measure, read, same_words

SameValue = Callable[[Tokens, Tokens], bool]

# A decimal stands for a value that is no finite decimal if it agrees to so many places, as math-verify has it.
PLACES = 6
_INTEGER = re.compile(r"-?[0-9]{1,300}")


def quick_verdict(answer: str | None, gold: str) -> bool | None:
    """The verdict where text and arithmetic of numbers decide, None where more is needed. Never slow."""
    if answer is None:
        return False
    if len(answer) > MAX_ANSWER_CHARS or answer.strip() == gold.strip():
        return answer.strip() == gold.strip() != ""
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return int(answer) == int(gold)  # four in five
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
    if ours is None or theirs is None:
        return False
    ours = _renamed(ours, theirs)
    # SymPy writes log for the natural logarithm: `log(2)` is right for \ln 2, and for \log 2 as it stands.
    return any(
        _same(_named(ours, name), _named(theirs, other), same_value)
        for name, other in dict.fromkeys((n, o) for n in _logs(ours) for o in _logs(theirs))
    )


def _renamed(answer: Tokens, gold: Tokens) -> Tokens:
    r"""The answer in the variable of the gold: f(n)=n+1 is f(x)=x+1. So with `k\pi, k\in\mathbb{Z}`."""
    ours, theirs = _variable(answer), _variable(gold)
    swapped = {ours: theirs, theirs: ours}
    return tuple(swapped.get(token) or token for token in answer) if ours and theirs else answer


def _variable(text: Tokens) -> str | None:
    for side in split(text, {"="}):
        if len(side) == 4 and (side[1], side[3]) == ("(", ")") and side[2].isalpha() and text.count(side[2]) > 1:
            return side[2]
    places = (at for at, token in enumerate(text) if token in (r"\mathbb{Z}", r"\mathbb{N}") and at > 2)
    return next((text[at - 2] for at in places if text[at - 1] == r"\in" and text[at - 2].isalpha()), None)


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
        return (bool(found.items) and all(_readable(item, parses) for item in found.items)) or found.kind == "{}"
    if is_words(text) or based(text) or text == (r"\ldots",):
        return True
    value = measure(text).value
    return number(value) is not None or (bool(value) and parses(value))


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
    if ours.kind == "{}" and len(ours.items) == 1 and theirs.kind in ("()", "<>"):
        return _same(ours.items[0], gold, same_value)  # {(1, 2)} is how SymPy prints a solution
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
        or bool((ORDER | {r"\setminus", r"\cap"}) & set(text))
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
    # `[1, 2]` is how Python prints a list: only an answer is read so, for a reference that is no interval or pair.
    printed = ours.kind == "[]" and (theirs.kind == "list" or (theirs.kind == "{}" and len(theirs.items) > 2))
    if kinds <= {"list", "{}", "one"} or kinds == {"union"} or printed:
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
    if any((len(token) > 1 and token[0] == "0") or token.startswith(r"\text") for item in theirs for token in item):
        return False
    pairs = zip(itertools.pairwise(ours), itertools.pairwise(theirs), strict=True)
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
    sides = split(text, EQUALITY)
    if keep or len(sides) < 2 or len(split(text, COMMAS)) > 1 or not all(sides):
        return text
    named = [_is_name(side) for side in sides]
    if all(named[:-1]) and not ORDER & set(text):
        return sides[-1]
    if named == [False, True]:
        return sides[0]
    return text


def _values(answer: Tokens, gold: Tokens, same_value: SameValue) -> tuple[Tokens, Tokens]:
    r"""Both without `\approx` and without `name =`, unless the two name different things."""
    answer, gold = _exact(answer), _exact(gold)
    ours, theirs = (split(text, EQUALITY) for text in (answer, gold))
    if len(ours) > 1 and len(theirs) > 1:
        names = [[side for side in sides if _is_name(side)][:1] for sides in (ours, theirs)]
        keep = names[0] != names[1] or not names[0]
        return _without_names(answer, keep), _without_names(gold, keep)
    if len(ours) > 1 and not ORDER & set(answer) and len(split(answer, COMMAS)) == 1:
        value = _without_names(answer, keep=False)
        # "m+n = 33" for 33; an untrue equation of numbers has no value.
        numbers = (s for s in ours[:-1] if s and not any(map(_NAME_TOKEN.fullmatch, s)))
        if value == answer and all(same_value(ours[-1], s) for s in numbers):
            value = ours[-1]
        answer = value
    return answer, _without_names(gold, keep=False)


def _exact(text: Tokens) -> Tokens:
    r"""The value before `\approx` and its rounding, or the first of several spellings of one number ("0.5 = 50%")."""
    builder = split(text[1:-1], {"|", ":"}) if text[:1] == (r"\{",) else []
    if len(builder) == 2 and ORDER & set(builder[1]):
        return builder[1]  # \{x \mid x > 2\}
    before, *after = split(text, {r"\approx"})
    if len(after) == 1 and number(measure(after[0]).value):
        before = _without_names(before, keep=False)
        return after[0] if not before or _is_name(before) else before
    sides = split(text, {"="})
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
    exact, decimal = (first, second) if first.decimals is None else (second, first)
    if exact.decimals is not None or decimal.decimals is None or (exact.value * 10**PLACES).denominator == 1:
        return False
    return decimal.decimals >= PLACES and rounds_to(exact.value, decimal.value)


def rounds_to(first: Fraction, second: Fraction) -> bool:
    """Whether two values agree to `PLACES` decimals, or below 1e-4 to as many digits."""
    scale = max(abs(first), abs(second))
    return 2 * abs(first - second) * 10**PLACES <= (1 if scale * 10**4 >= 1 else scale)


def _same_single(answer: Tokens, gold: Tokens, same_value: SameValue) -> bool:
    word = same_words(answer, gold)
    if word is not None:
        return word
    theirs = based(gold)
    if theirs is not None:
        return (based(answer) or ("".join(answer), theirs[1])) == theirs
    if based(answer) is not None:
        return False
    first, second = measure(answer), measure(gold)
    # In a reference like "5m" the letter is a unit only for an answer that has one: else it may be a variable.
    if second.loose and not first.unit:
        second = Measured(gold)
    if first.unit and second.unit and THING not in (first.unit, second.unit):
        return first.unit == second.unit and _same_amount(first.sized(), second.sized(), same_value)
    # Problems say "what percentage", and sheets vary: a sign that only one of the two has is taken or left.
    percent = (first.unit == PERCENT) != (second.unit == PERCENT)
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
