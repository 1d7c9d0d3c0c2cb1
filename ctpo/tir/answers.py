r"""What an answer says, as text: LaTeX, plain and SymPy notation become one row of tokens without layout.

Everything here is pure, needs no SymPy and is linear in the length of the text. `ctpo.tir.comparing` builds
the verdict on it. A letter or digit that merely looks like an ASCII one is another answer.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

MAX_DEPTH = 24
"""Brackets nested deeper than this are no answer to a competition problem."""

Tokens = tuple[str, ...]

COMMAS = frozenset({",", ";", r"\land", r"\lor"})
EQUALITY, ORDER = frozenset({"=", r"\in"}), frozenset({"<", ">", r"\le", r"\ge", r"\ne", r"\notin"})

_SPELLINGS = {
    spelling: token
    for token, spellings in {
        r"\frac": r"\dfrac \tfrac \cfrac \nicefrac \sfrac", r"\binom": r"\dbinom \tbinom",
        "|": r"\mid \vert \lvert \rvert",
        r"\le": r"\leq \leqslant \leqq", r"\ge": r"\geq \geqslant \geqq", r"\ne": r"\neq", "<": r"\lt", ">": r"\gt",
        r"\cdot": r"\times \ast *", "/": r"\div", r"\emptyset": r"\varnothing",
        r"\ldots": r"\dots \cdots \dotsc \dotsb",
        r"\{": r"\lbrace", r"\}": r"\rbrace", "[": r"\lbrack", "]": r"\rbrack", "(": r"\lparen", ")": r"\rparen",
        r"\%": "%", r"\approx": r"\simeq", r"\phi": r"\varphi", r"\epsilon": r"\varepsilon",
        "'": r"\prime", r"\csc": r"\cosec", r"\tan": r"\tg", r"\mod": r"\bmod",
        r"\setminus": r"\backslash \smallsetminus", ":": r"\colon", r"\land": r"\wedge",
    }.items()
    for spelling in spellings.split()
}  # fmt: skip
_TOKEN = re.compile(
    r"\^\{\\circ\}|\\text\{[^{}]*\}|\\mathbb\s*\{?\s*[A-Z]\s*\}?|\\(?:begin|end)\s*\{[a-z]+\*?\}|\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\.\d+"
    r"|<=|>=|!=|==|\S",
    re.DOTALL,
)
_DEGREES = re.compile(r"\^\s*(?:\{\s*(?:\\circ|o)\s*\}|(?:\\circ|o)(?![A-Za-z]))")
_OPEN = {"{": "}", "(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle"}
_CLOSE = frozenset(_OPEN.values())
_ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, "^": 1, "_": 1}
_ACCENTS = frozenset(
    rf"\{name}"
    for name in re.findall(r"\w+", "overline bar hat vec tilde widehat widetilde overrightarrow dot overarc")
)


def tokens(text: str) -> Tokens | None:
    r"""A cleaned text as tokens in one spelling, or None where its brackets make no sense.

    Arguments always stand in braces ("\frac12" is `\frac{1}{2}`), other braces become round brackets, numbers lose
    leading zeros and a mixed number is a sum. A name with a mark or several letters is one `\mathit{}`.
    """
    rest = deque(_SPELLINGS.get(token, token) for token in _TOKEN.findall(_DEGREES.sub(r"^{\\circ}", text)))
    level = deepest = 0
    for token in rest:
        level += (token in _OPEN) - (token in _CLOSE)
        deepest = max(deepest, level)
    try:
        found = _group(rest, None) if deepest <= MAX_DEPTH else None
    except (IndexError, ValueError):
        return None
    while found and (found[0], found[-1]) == ("(", ")") and _closing(found) == len(found) - 1 and not _listed(found):
        found = found[1:-1]
    return tuple(found) if found else None


def _listed(found: list[str]) -> bool:
    return len(split(tuple(found[1:-1]), {",", ";"})) > 1


def _group(rest: deque[str], close: str | None) -> list[str]:
    """Tokens up to `close`. Raises ValueError or IndexError where a brace or an argument is missing."""
    out: list[str] = []
    while rest:
        token = rest.popleft()
        if token == close:
            return _mixed(out)
        if token == "}":
            raise ValueError("a brace too many")
        if token == "{":
            out += _braced(_group(rest, "}"), whole=not out and not rest)
        elif token in _ACCENTS:
            digits = rest[1] if rest[0] == "{" else ""
            inside = "".join(_argument(rest, token)).replace("\\", "")
            inside = digits if digits.isdigit() else inside  # leading zeros count in 0.\overline{03}
            out.append(
                rf"\mathit{{{token[1:]}{inside}}}" if inside.isalnum() and not inside.isdigit() else "\\overline"
            )
            out += [] if out[-1] != "\\overline" else ["{", inside, "}"]
        elif token == r"\angle":
            letters = ""
            while rest and len(letters) < 3 and re.fullmatch("[A-Z]", rest[0]):
                letters += rest.popleft()
            out.append(rf"\mathit{{angle{min(letters, letters[::-1])}}}" if letters else token)
        elif token in _ARGUMENTS:
            out.append(token)
            if token == r"\sqrt" and rest and rest[0] == "[":
                rest.popleft()
                out += ["[", *_group(rest, "]"), "]"]
            for _ in range(_ARGUMENTS[token]):
                out += ["{", *(_power(rest) if token == "^" else _argument(rest, token)), "}"]
        elif token.startswith((r"\begin", r"\end")) and re.search("matrix|array", token):
            out.append(token if "vmatrix" in token else token.split("{")[0].strip() + "{pmatrix}")
            if token.startswith(r"\begin") and "array" in token and rest[0] == "{":
                _argument(rest, "array")
        else:
            out.append(_one(token))
    if close is not None:
        raise ValueError(f"no {close}")
    return _mixed(out)


def _power(rest: deque[str], height: int = 0) -> list[str]:
    """An exponent: 2^3^2 is 2^(3^2), as in Python."""
    exponent = _argument(rest, "^")
    if rest and rest[0] == "^":
        if height == MAX_DEPTH:
            raise ValueError("a tower too high")
        rest.popleft()
        return ["(", *exponent, ")", "^", "{", *_power(rest, height + 1), "}"]
    return exponent


def _one(token: str) -> str:
    if token[0].isdigit() or (token[0] == "." and len(token) > 1):
        whole, point, decimals = token.partition(".")
        return (whole.lstrip("0") or "0") + point + decimals
    if token.startswith(r"\mathbb"):
        return rf"\mathbb{{{token.rstrip('} ')[-1]}}}"
    return "=" if token == "==" else _SPELLINGS.get(token, {"<=": r"\le", ">=": r"\ge", "!=": r"\ne"}.get(token, token))


def _braced(inside: list[str], whole: bool) -> list[str]:
    for command, new in ((r"\over", r"\frac"), (r"\choose", r"\binom")):
        if inside.count(command) == 1:
            at = inside.index(command)
            return [new, "{", *inside[:at], "}", "{", *inside[at + 1 :], "}"]
    if whole and (not inside or _listed(["", *inside, ""])):
        return [r"\{", *inside, r"\}"]
    return inside if len(inside) < 2 else ["(", *inside, ")"]


def _argument(rest: deque[str], command: str) -> list[str]:
    token = rest.popleft()
    if token == "{":
        return _group(rest, "}")
    if token == "(" and command in ("^", r"\sqrt"):
        return _group(rest, ")")
    if token in "+-" and command == "^":
        return [token, *_argument(rest, command)]
    if token.isdigit() and len(token) > 1 and command not in ("^", "_"):
        rest.appendleft(token[1:])
        return [token[0]]
    if token in _ARGUMENTS:
        rest.appendleft(token)
        inner: deque[str] = deque([rest.popleft()])
        return [inner[0], *(part for _ in range(_ARGUMENTS[token]) for part in ("{", *_argument(rest, token), "}"))]
    return [_one(token)]


def _mixed(out: list[str]) -> list[str]:
    r"""2\frac{1}{3} is a sum, in brackets; 2\frac{x}{3} and 2\frac{4}{3} are products (table: products)."""
    for at in range(len(out) - 8, -1, -1):
        whole, top, bottom = out[at], out[at + 3], out[at + 6]
        shape = [whole, r"\frac", "{", top, "}", "{", bottom, "}"]
        digits = all(part.isdigit() for part in (whole, top, bottom))
        if digits and out[at : at + 8] == shape and int(top[:300]) < int(bottom[:300]):
            out[at : at + 8] = ["(", whole, "+", *shape[1:], ")"]
    return out


def split(text: Tokens, separators: Iterable[str]) -> list[Tokens]:
    """`text` at the separators that stand outside all brackets; one item if brackets do not balance.

    Half-open intervals close with the other bracket, so "(" and "[" are both closed by either.
    """
    items: list[list[str]] = [[]]
    level = 0
    for token in text:
        level += (token in _OPEN or token.startswith(r"\begin")) - (token in _CLOSE or token.startswith(r"\end"))
        if token in separators and level == 0:
            items.append([])
        else:
            items[-1].append(token)
    return [text] if level else [tuple(item) for item in items]


def _closing(found: list[str]) -> int:
    """Where the bracket that the first token opens is closed, -1 if nowhere."""
    level = 0
    for position, token in enumerate(found):
        level += (token in _OPEN) - (token in _CLOSE)
        if level == 0:
            return position
    return -1


class Number(NamedTuple):
    """A rational number as written: its exact value, and its decimals if it was written with a decimal point."""

    value: Fraction
    decimals: int | None = None


_DECIMAL = r"(?P<dec>\d{1,300}(?:\.\d{1,300})?|\.\d{1,300})"
_FORMS = tuple(
    re.compile(r"(?P<sign>[+-]?)" + form)
    for form in (
        _DECIMAL,
        r"(?P<top>\d{1,300}(?:\.\d{1,300})?)/(?P<bottom>\d{1,300}(?:\.\d{1,300})?)",
        r"\\frac\{(?P<top>-?\d{1,300}(?:\.\d{1,300})?)\}\{(?P<bottom>\d{1,300}(?:\.\d{1,300})?)\}",
        r"\(?(?P<whole>\d{1,300})\+\\frac\{(?P<top>\d{1,300})\}\{(?P<bottom>\d{1,300})\}\)?",
        r"(?P<whole>\d{1,300}) (?P<top>\d{1,300})/(?P<bottom>\d{1,300})",
        _DECIMAL + r"(?:\\cdot|x)10\^\{(?P<exp>[+-]?\d{1,3})\}",
        _DECIMAL + r"[eE](?P<exp>[+-]?\d{1,3})",
        r"(?P<lead>\d{0,300})\.(?P<fixed>\d{0,300})\\overline\{(?P<cycle>\d{1,300})\}",
    )
)


def number(text: Tokens) -> Number | None:
    r"""The rational number that a text spells, or None.

    Integers, decimals (also repeating ones), fractions, mixed numbers, scientific notation.
    """
    spelled = re.sub(r"(?<!\d) | (?!\d)", "", " ".join(text)) if len(text) < 40 else ""
    while spelled.startswith("(") and spelled.endswith(")") and spelled.count("(") == 1:
        spelled = spelled[1:-1]
    for form in _FORMS:
        if match := form.fullmatch(spelled):
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
        return Fraction(parts["dec"] or "") * Fraction(10) ** int(parts.get("exp") or 0)
    if parts.get("cycle"):
        lead, fixed, cycle = (parts[name] or "" for name in ("lead", "fixed", "cycle"))
        scale = 10 ** len(fixed)
        return Fraction(int(lead + fixed or "0"), scale) + Fraction(int(cycle), scale * (10 ** len(cycle) - 1))
    return int(parts.get("whole") or 0) + Fraction(parts["top"] or "") / Fraction(parts["bottom"] or "")


class Parts(NamedTuple):
    r"""An answer in parts. `kind` is one, list (commas), union, ratio, "{}" for a set, "()", "[)" ... or "<>"."""

    kind: str
    items: tuple[Tokens, ...]


def parts(text: Tokens) -> Parts:
    r"""The parts of a list, set, tuple, interval, union or ratio. `a \pm b` is the list of its two values."""
    if text == (r"\emptyset",):
        return Parts("{}", ())
    if text[0] == r"\begin{pmatrix}" and text[-1] == r"\end{pmatrix}" and "&" not in text:
        return Parts("<>", tuple(item for item in split(text[1:-1], {r"\\"}) if item))
    for kind, separators in (("list", COMMAS), ("union", {r"\cup"}), ("ratio", {":"})):
        found = [item for item in split(text, separators) if item or kind != "list"]
        if len(found) > 1 and (kind != "ratio" or not (EQUALITY | ORDER) & set(text)):
            return Parts(kind, tuple(value for item in found for value in _both_signs(item)))
    brackets = {"(": "()", "[": "[]", r"\{": "{}", r"\langle": "<>"}.get(text[0])
    if brackets and _closing(list(text)) == len(text) - 1:
        inside = [item for item in split(text[1:-1], {",", ";"}) if item]
        if brackets == "()" and sum(token in (r"\pm", r"\mp") for token in text) == 1:
            return Parts("list", tuple(_both_signs(text)))
        if brackets == "{}":
            return Parts("{}", tuple(value for item in inside for value in _both_signs(item)))
        if len(inside) > 1:
            return Parts(brackets[0] + text[-1].replace(r"\rangle", ">"), tuple(inside))
    signs = _both_signs(text)
    return Parts("list" if len(signs) > 1 else "one", tuple(signs))


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
