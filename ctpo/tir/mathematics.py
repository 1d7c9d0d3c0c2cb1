r"""What two expressions are worth: math-verify's parser and comparison, with settings and evidence of our own.

Settings: the parser keeps the case of letters and takes no units away; degrees are angles where a trigonometric
function stands, else left out; juxtaposition is a product (math-verify would add the two integers in "(2)(3)").
Evidence: expressions are evaluated with many digits, at positive points and at points of both signs. That decides
where simplification finds no way (\ln(ab), \sqrt{ab}) and where math-verify is content with 15 digits. Sets go to
math-verify's `verify`.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from math_verify import verify
from sympy.core.function import AppliedUndef

from ctpo.tir.answers import Tokens, split
from ctpo.tir.comparing import PLACES, rounds_to

_DIGITS = 1000
_FEWER_DIGITS = 60
_AGREEMENTS = 3
_DISCRETE = (sympy.factorial, sympy.binomial, sympy.gamma)
_TRIGONOMETRY = {r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc"}
# The parser takes the complex root of a negative number.
_ODD_ROOT = re.compile(r"\\sqrt \[ (\d*[13579]) \] \{ - (\d+|\\frac \{ \d+ \} \{ \d+ \}) \}")
# The parser drops what follows \approx, calls \gcd(a,b) 1, and cancels the d of a derivative.
_MISREAD = re.compile(r"\\approx|\\(?:gcd|lcm) \( [^)]*[A-Za-z]|\\frac \{ d(?: \S)? \} \{ d [A-Za-z] \}")
_UNREAD = {("!", "'"), ("!", "!"), ("-", "-"), ("+", "+")}
_FUNCTION_NAMES = frozenset("fghFGPQ")
_GREEK = re.compile(r"\\(?:pi|alpha|beta|gamma|delta|theta|lambda|mu|rho|sigma|tau|phi|omega)")


class _Parser(_Latex2Sympy):
    def __init__(self, degrees: bool) -> None:
        super().__init__(is_real=True, convert_degrees=degrees, config=ConversionConfig(lowercase_symbols=False))

    def convert_postfix_list(self, arr: Sequence[Any], i: int = 0) -> Any:
        """The product of what stands side by side; math-verify would read 2(3) as a mixed number."""
        factors = [self.convert_postfix(factor) for factor in arr[i:]]
        if not all(isinstance(factor, sympy.Expr | sympy.MatrixBase) for factor in factors):
            raise ValueError("no product")
        matrices = any(getattr(factor, "is_Matrix", False) for factor in factors)
        return functools.reduce(self.mat_mul_flat if matrices else self.mul_flat, factors)


@functools.lru_cache(maxsize=512)
def parsed(text: Tokens) -> Any:
    """The SymPy object that math-verify's parser reads in the tokens, or None."""
    try:
        found = _Parser(bool(_TRIGONOMETRY & set(text))).parse(_latex(text))
    except Exception:
        return None
    if isinstance(found, sympy.Basic):
        units = {symbol: sympy.I for symbol in found.free_symbols if symbol.name == "i"}
        functions = {call: sympy.Symbol(str(call), real=True) for call in found.atoms(AppliedUndef)}
        floats = {value: sympy.Rational(str(value)) for value in found.atoms(sympy.Float)}
        for changes in (functions, floats):
            found = found.xreplace(changes) if changes else found
        return found.subs(units) if units else found
    if isinstance(found, sympy.MatrixBase):
        return found.applyfunc(lambda value: value.subs({s: sympy.I for s in value.free_symbols if s.name == "i"}))
    return None


def _latex(text: Tokens) -> str:
    """Tokens as LaTeX that the parser reads as meant. Raises ValueError where it would read something else."""
    if misread := _MISREAD.search(" ".join(text)):
        raise ValueError(f"misread by the parser: {misread.group()}")
    out: list[str] = []
    for before, token in itertools.pairwise(("", *text)):
        letter = len(before) == 1 and before.isalpha()
        if (before[-1:].isdigit() and (token[0].isdigit() or token == "_")) or (before, token) in _UNREAD:
            raise ValueError(f"no product, base, double factorial or sign: {before} {token}")
        if token == "(" and ((letter and before not in _FUNCTION_NAMES) or _GREEK.fullmatch(before)):
            out.append(r"\cdot")
        # The parser takes d for a differential, T for a transpose and \gamma for Euler's constant.
        if token in ("d", "T") and r"\int" not in text:
            token = rf"\mathit{{{token}}}"
        out.append(
            {r"\gamma": r"\mathit{gamma}", r"\Gamma": r"\mathit{Gamma}", "'": r"^{\mathit{prime}}"}.get(token, token)
        )
    return _ODD_ROOT.sub(r"( - \\sqrt [ \1 ] { \2 } )", " ".join(out))


def same_value(answer: Tokens, gold: Tokens) -> bool:
    """Whether both texts are the same mathematical object (no time limit of its own)."""
    ours, theirs = parsed(answer), parsed(gold)
    if ours is None or theirs is None:
        return _same_sets(answer, gold)
    if isinstance(ours, sympy.MatrixBase) and isinstance(theirs, sympy.MatrixBase):
        return ours.shape == theirs.shape and all(map(_same_expression, ours.flat(), theirs.flat()))
    if isinstance(ours, sympy.Expr) and isinstance(theirs, sympy.Expr):
        return _same_expression(ours, theirs) or _rounded(answer, theirs) or _rounded(gold, ours)
    first, second = list(_relations(ours)), list(_relations(theirs))
    if first and second:
        return _same_relations(first, second)
    return _same_sets(answer, gold)


def _same_expression(first: Any, second: Any) -> bool:
    """Whether two expressions agree wherever both have a real value (where they have I: at positive points)."""
    first, second = first.doit(), second.doit()
    if first == second:
        return not first.has(sympy.nan, sympy.zoo)
    names = sorted(first.free_symbols | second.free_symbols, key=str)
    if not names:
        return _agree(first, second, _DIGITS) is True
    agreements = 0
    discrete = any(e.has(*_DISCRETE) or any(p.base.is_negative for p in e.atoms(sympy.Pow)) for e in (first, second))
    for point, needed in _whole_points(len(names)) if discrete else _points(len(names)):
        if agreements >= needed:
            continue
        values = dict(zip(names, point, strict=True))
        if not (_real_at(first, values) and _real_at(second, values)):
            continue
        verdict = _agree(first.subs(values), second.subs(values), _FEWER_DIGITS if agreements else _DIGITS)
        if verdict is False:
            return False
        agreements += verdict is True
    return agreements >= _AGREEMENTS


def _points(names: int) -> Iterator[tuple[tuple[sympy.Rational, ...], int]]:
    """Points and how many agreements make each superfluous: positive ones first, then two of both signs."""
    rng = random.Random(2605)
    for index in range(24):
        positive = index < 16
        scale = (1, 4, 20)[index % 3]
        point = [sympy.Rational(rng.randint(1, 997) * scale, 1009) for _ in range(names)]
        signs = [1 if positive else rng.choice((-1, 1)) for _ in range(names)]
        if not positive:
            signs[index % names] = -1
        signed = tuple(sign * value for sign, value in zip(signs, point, strict=True))
        yield signed, _AGREEMENTS if positive else _AGREEMENTS + 2


def _whole_points(names: int) -> Iterator[tuple[tuple[sympy.Integer, ...], int]]:
    """Points for factorials and binomial coefficients: there both are exact and quick."""
    rng = random.Random(2605)
    for first in range(2, 12):
        yield tuple(sympy.Integer(rng.randint(2, 11) if name else first) for name in range(names)), 10


def _real_at(expression: Any, values: dict[Any, Any]) -> bool:
    """Whether no root or logarithm meets a negative number there; every point is right for an expression with I."""
    if expression.has(sympy.I):
        return all(value > 0 for value in values.values())
    inner = [p.base for p in expression.atoms(sympy.Pow) if not p.exp.subs(values).is_integer]
    inner += [log.args[0] for log in expression.atoms(sympy.log)]
    return all(bool(sympy.N(base.subs(values)) > 0) for base in inner)


def _agree(first: Any, second: Any, digits: int) -> bool | None:
    """Whether two numbers are equal as far as `digits` digits tell; None if one of them is none."""
    values = [sympy.N(value, 30) for value in (first, second)]
    if not all(value.is_number and value.is_finite for value in values):
        return values[0] == values[1] if all(v.is_infinite for v in values) else None
    if abs(values[0] - values[1]) > sympy.Float("1e-20") * max(map(abs, values)) and min(map(abs, values)) > 1e-50:
        return False
    difference = first - second
    if difference.is_Rational:
        return bool(difference == 0)
    # SymPy marks a sum that cancels up to the last digit by a precision of one bit.
    parts = sympy.N(difference, 15, maxn=digits).as_real_imag()
    return all(part == 0 or getattr(part, "_prec", 53) == 1 for part in parts)


_DECIMAL = re.compile(rf"-?\d*\.\d{{{PLACES},}}")


def _rounded(text: Tokens, value: Any) -> bool:
    """Whether the text is a decimal of enough places and the value rounds to it."""
    if not _DECIMAL.fullmatch("".join(text)) or value.free_symbols:
        return False
    exact = sympy.N(value.doit(), 30)
    finite = value.is_Rational and (value * 10**PLACES).is_Integer
    return bool(exact.is_Float) and not finite and rounds_to(Fraction("".join(text)), Fraction(str(exact)))


def _relations(found: Any) -> Iterator[tuple[str, Any]]:
    """The comparisons of a chain as (sign, difference), all turned to "less" or "equal"."""
    for relation in getattr(found, "_unsorted_args", [found]):
        if isinstance(relation, sympy.core.relational.Relational) and isinstance(relation.rhs, sympy.Expr):
            turned = isinstance(relation, sympy.Gt | sympy.Ge)
            sign = {sympy.Gt: "Lt", sympy.Ge: "Le"}.get(type(relation), type(relation).__name__)
            yield (
                sign.replace("StrictLessThan", "Lt").replace("LessThan", "Le"),
                (relation.rhs - relation.lhs if turned else relation.lhs - relation.rhs),
            )


def _same_relations(first: list[tuple[str, Any]], second: list[tuple[str, Any]]) -> bool:
    if len(first) != len(second):
        return False
    left = list(second)
    for sign, difference in first:
        match = next((o for o in left if o[0] == sign and _proportional(difference, o[1], sign)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _proportional(first: Any, second: Any, sign: str) -> bool:
    """Whether one difference is a constant multiple of the other, a positive one for an inequality."""
    names = sorted(first.free_symbols | second.free_symbols, key=str)
    point = next(_points(len(names)))[0] if names else ()
    at = [sympy.N(side.doit().subs(dict(zip(names, point, strict=True)))) for side in (first, second)]
    if not names or not all(value.is_real and value != 0 for value in at):
        return False
    if sign in ("Lt", "Le") and at[0] * at[1] < 0:
        return False
    exact = [side.doit().subs(dict(zip(names, point, strict=True))) for side in (first, second)]
    return _same_expression(first * exact[1], second * exact[0])


def _same_sets(answer: Tokens, gold: Tokens) -> bool:
    ours, theirs = _set(answer), _set(gold)
    return ours is not None and theirs is not None and bool(verify(theirs, ours, timeout_seconds=None))


def _set(text: Tokens) -> Any:
    """The set that an interval, a union, or inequalities for one name describe, or None."""
    for separators, join in (({",", ";", r"\lor"}, sympy.Union), ({r"\land"}, sympy.Intersection)):
        items = split(text, separators)
        if len(items) > 1 and len(split(text[1:-1], set())) == 1 and text[0] not in ("(", "["):
            sets = [_set(item) for item in items]
            return None if any(one is None for one in sets) else join(*sets)
    found = parsed(text)
    if isinstance(found, sympy.Set):
        return found.doit()
    conditions = getattr(found, "_unsorted_args", [found])
    if isinstance(found, sympy.Basic) and len(found.free_symbols) == 1 and list(_relations(found)):
        return sympy.Intersection(*(condition.as_set() for condition in conditions))
    return None
