r"""What an answer says, as text: LaTeX, plain and SymPy notation become one row of tokens without layout.

Everything here is pure, needs no SymPy and is linear in the length of the text. `ctpo.tir.comparing` builds
the verdict on it. A letter or digit that merely looks like an ASCII one is another answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

MAX_DEPTH = 24
"""Brackets nested deeper than this are no answer to a competition problem."""

Tokens = tuple[str, ...]

_SIGNS = {
    "−": "-", "–": "-", "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∞": r"\infty ", "°": r"^{\circ}",
    "∪": r"\cup ", "∩": r"\cap ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp ", "≈": r"\approx ",
    "∅": r"\emptyset ", "∈": r"\in ", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "…": r"\ldots ", "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": r"\langle ", "⟩": r"\rangle ", "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "′": "'",
    "√": r"\sqrt ", "△": r"\triangle ", "∠": r"\angle ", "→": r"\to ",
}  # fmt: skip
_RAISED = re.compile(r"(?<=[\w)}\]|])[⁻⁺]?[⁰¹²³⁴-⁹]+")

# Layout: what a typesetter adds and a reader does not see.
_JOINED = re.compile(r"(?<=\d)\s*(?:\{,\}\s*|,\s*(?:\\!\s*)+|(?:\\!\s*)+,\s*(?:\\!\s*)*)(?=\d{3}(?!\d))")
_NOTHING = re.compile(
    r"\\!\s*|\\(?:left|right|middle|[bB]igg?[lrm]?)\s*\.|\\v?phantom(?![a-zA-Z])\s*(?:\{[^{}]*\}|.)|\\(?:textcolor|color)\s*\{[^{}]*\}"
    r"|\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|ensuremath|strut"
    r"|mathstrut|boxed|fbox|underline|math(?:bf|it|sf|tt|normal|bin|ord|rel|open|close|inner)|boldsymbol|bold|bm|bf|it"
    r"|rm|sf|tt|em)(?![a-zA-Z])"
)
_SPACES = re.compile(
    r"(?<!\\)(?:\\\\)*?\\[,;:> \n]|~|\\(?:q?quad|thinspace|enspace|space|hfill|par)(?![a-zA-Z])|\\hspace\*?\s*\{[^{}]*\}"
)
_GROUPED = re.compile(r"(?<![\w.,\\])\d{1,3}(?:([,'_])\d{3})(?:\1\d{3})*(?![\d,'_])")
_SPACED_GROUPS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:\\[, ]| )\d{3})+(?!\d)")
_TEXT = re.compile(r"\\(?:text[a-z]*|emph|[mh]box|mathrm|operatorname\*?|mathop)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z][\w'.-]*(?:\s+[A-Za-z][\w'.-]*)*")
_SPEED = re.compile(r"(?<=[\d)}])\s*(k?m)\s*/\s*(s|h|hr)(?![A-Za-z])")
_DELIMITED = re.compile(r"^(?:\$\$?|\\\(|\\\[)(.*?)(?:\$\$?|\\\)|\\\])$", re.DOTALL)
_WRAPPED = re.compile(r"\\(?:boxed|fbox|math(?:bf|it|sf|rm)|boldsymbol|bm|displaystyle)\s*\{")
_NAME = re.compile(r"(?<![A-Za-z\\])(?:log(?:10|2)(?=\()|[A-Za-z]{2,}(?![A-Za-z]))")
_SPELLINGS = {
    spelling: token
    for token, spellings in {
        r"\frac": r"\dfrac \tfrac \cfrac \nicefrac \sfrac", r"\binom": r"\dbinom \tbinom", "|": r"\mid \vert \lvert \rvert",
        r"\le": r"\leq \leqslant \leqq", r"\ge": r"\geq \geqslant \geqq", r"\ne": r"\neq", "<": r"\lt", ">": r"\gt",
        r"\cdot": r"\times \ast *", "/": r"\div", r"\emptyset": r"\varnothing", r"\ldots": r"\dots \cdots \dotsc \dotsb",
        r"\{": r"\lbrace", r"\}": r"\rbrace", "[": r"\lbrack", "]": r"\rbrack", "(": r"\lparen", ")": r"\rparen",
        r"\%": "%", r"\approx": r"\simeq", "'": r"\prime", r"\csc": r"\cosec", r"\tan": r"\tg", r"\mod": r"\bmod",
        r"\setminus": r"\backslash \smallsetminus", ":": r"\colon", r"\land": r"\wedge",
    }.items()
    for spelling in spellings.split()
}  # fmt: skip
_TOKEN = re.compile(
    r"\\text\{[^{}]*\}|\\mathbb\s*\{?\s*[A-Z]\s*\}?|\\(?:begin|end)\s*\{[a-z]+\*?\}|\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\.\d+"
    r"|<=|>=|!=|==|\S",
    re.DOTALL,
)
_OPEN = {"{": "}", "(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle"}
_CLOSE = frozenset(_OPEN.values())
_ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, "^": 1, "_": 1}
_ACCENTS = frozenset(
    rf"\{name}" for name in "overline bar hat vec tilde widehat widetilde overrightarrow dot overarc".split()
)

# Plain and SymPy notation. `log` of SymPy is natural, so `log(` has its own token until `equal` has tried both.
_CALLS = {
    "sqrt": r"\sqrt{%s}", "cbrt": r"\sqrt[3]{%s}", "Rational": r"\frac{%s}{%s}", "binomial": r"\binom{%s}{%s}",
    "comb": r"\binom{%s}{%s}", "exp": "e^{%s}", "Abs": "|%s|", "abs": "|%s|", "floor": r"\lfloor %s\rfloor ",
    "ceiling": r"\lceil %s\rceil ", "ceil": r"\lceil %s\rceil ", "factorial": "(%s)!", "log": r"\plainlog(%s)",
    "log10": r"\log_{10}(%s)", "log2": r"\log_{2}(%s)",
}  # fmt: skip
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan arccot ln log lg exp max min gcd lcm det sqrt".split()
)
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega".split()
)
_PLAIN = {name: rf"\{name} " for name in (*_FUNCTIONS, *_GREEK, "pi")} | {
    "oo": r"\infty ", "inf": r"\infty ", "infinity": r"\infty ", "asin": r"\arcsin ", "acos": r"\arccos ",
    "atan": r"\arctan ", "percent": r"\%", "pct": r"\%", "percentage": r"\%", "and": r"\land ", "or": r"\lor ",
}  # fmt: skip


def clean(text: str, is_word: Callable[[str], bool]) -> str:
    r"""The answer without layout: no math delimiters, sizes or thin spaces; words in \text{}, plain names as LaTeX.

    `is_word` says which runs of plain letters are words, as in "180 miles", rather than products of variables.
    """
    text = "".join(_SIGNS.get(c) or (c if c.isascii() else _greek(c)) for c in _RAISED.sub(_exponent, text)).strip()
    for _ in range(MAX_DEPTH):
        inner, wrapped = _DELIMITED.match(text), _WRAPPED.match(text)
        if inner and "$" not in inner[1].replace(r"\$", ""):
            text = inner[1].strip()
        elif wrapped and wrapped.end() - 1 + _closed(text[wrapped.end() - 1 :]) == len(text.rstrip(". ")):
            text = text.rstrip(". ")[wrapped.end() : -1].strip()
    money = re.match(r"-?\s*\\\$", text) or (re.match(r"-?\s*\$", text) and text.count("$") == 1)
    text = re.sub(r"\\?\$|(?<!\\)\\[()\[\]]", "", text)
    text = _SPACED_GROUPS.sub(lambda m: re.sub(r"\D", "", m[0]), _JOINED.sub("", text))
    text = re.sub(r"(?<![A-Za-z])([ap])\.\s?m(?![A-Za-z])\.?", r"\\text{\1m}", text) if r"\text{" not in text else text
    text = (
        _SPACES.sub(" ", _NOTHING.sub("", text))
        .replace("...", r"\ldots ")
        .replace(r"\degree", r"^{\circ}")
        .replace("{,}", ",")
    )
    if not re.search(r"[(\[]|\\\{|\\lbrace|^\{", text):
        text = _GROUPED.sub(lambda m: re.sub(r"\D", "", m[0]), text)
    text = re.sub(r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r"\\overline{\1\2\3}", text)
    for _ in range(3):  # \text{\textbf{12}}
        text = _TEXT.sub(_unwrapped, text)
    text = _plain(text, is_word)
    text = re.sub(r"[\s.,;]+([\s}]*)$", r"\1", text)
    return " ".join((text + (r"\text{dollar}" if money else "")).split())


def _greek(sign: str) -> str:
    name = unicodedata.name(sign, "")
    match = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (FINAL )?([A-Z]+)", name)
    if match is None:
        return sign
    letter = match[3].replace("LAMDA", "LAMBDA").lower()
    return rf"\{letter if match[1] == 'SMALL' else letter.title()} "


def _exponent(match: re.Match[str]) -> str:
    return "^{" + unicodedata.normalize("NFKC", match[0]).replace("−", "-") + "}"


def _unwrapped(match: re.Match[str]) -> str:
    r"""Of a text macro the words stay in \text{}; numbers, signs, constants, functions and single letters do not."""
    before = match.string[: match.start()].rstrip()
    measures = bool(re.search(r"[\d)}/]$", before))

    def word(found: re.Match[str]) -> str:
        words = " ".join(found[0].replace(".", "").split())
        if (words in _PLAIN and not (measures and words == "min")) or (
            len(words) == 1 and not (measures and words in "mshglL")
        ):
            return " " + _PLAIN.get(words, words)
        pieces = re.split(r"(?:^| )(and|or)(?: |$)", words)
        return "".join(_PLAIN.get(piece) or rf"\text{{{piece}}}" for piece in pieces if piece)

    return _WORDS.sub(word, match[1])


def _plain(text: str, is_word: Callable[[str], bool]) -> str:
    r"""Names in plain letters as LaTeX (`sqrt(2)/2`, `2*pi`, `Rational(1, 2)`) and plain words as \text{}."""
    text = re.sub(r"(?<![A-Za-z\\])E(?=\s*\*)|(?<=\*)\s*E(?![A-Za-z])", "e", text).replace(r"\lg", r"\log_{10}")
    text = _SPEED.sub(r"\\text{\1/\2}", text.replace("**", "^"))
    text = re.sub(r"^(-?[\d./]+) ([mshgL])$", r"\1\\text{\2}", text.strip())
    out: list[str] = []
    at = 0
    while found := _NAME.search(text, at):
        name, after = found[0], text[found.end() :].lstrip()
        inside = text.rfind(r"\text{", 0, found.start()) > text.rfind("}", 0, found.start())
        out.append(text[at : found.start()])
        at = found.end()
        if inside:
            out.append(name)
        elif name in _CALLS and after.startswith("(") and (length := _closed(after)):
            arguments = [_plain(part, is_word) for part in _split_text(after[1 : length - 1])]
            at = len(text) - len(after) + length
            out.append(_called(name, arguments))
        elif name == "Matrix" and (rows := re.match(r"\(\[(.*?)\]\)", after, re.DOTALL)):
            at = len(text) - len(after) + rows.end()
            out.append(_matrix(rows[1]))
        elif name in _PLAIN and not (name in ("min", "gcd", "max") and not after.startswith("(")):
            out.append(_PLAIN[name])
        else:
            measures = re.search(r"[\d)}%]\s*/?\s*$", text[: found.start()]) or (
                out[-1:] == [" "] and "text" in out[-2]
            )
            out.append(rf"\text{{{name}}}" if measures and is_word(name) else name)
    return "".join(out) + text[at:]


def _called(name: str, arguments: list[str]) -> str:
    if name == "log" and len(arguments) == 2:
        return r"\log_{%s}(%s)" % (arguments[1], arguments[0])
    pattern = _CALLS[name]
    return pattern % tuple(arguments) if pattern.count("%s") == len(arguments) else f"{name}({','.join(arguments)})"


def _matrix(rows: str) -> str:
    cells = re.findall(r"\[([^\[\]]*)\]", rows) or rows.split(",")
    return r"\begin{pmatrix}" + r"\\".join(row.replace(",", "&") for row in cells) + r"\end{pmatrix}"


def _closed(text: str) -> int:
    """The length of the bracketed start of `text`, 0 if the bracket never closes."""
    level = 0
    for position, char in enumerate(text):
        level += (char in "([{") - (char in ")]}")
        if level == 0:
            return position + 1
    return 0


def _split_text(text: str) -> list[str]:
    parts, level = [""], 0
    for char in text:
        level += (char in "([{") - (char in ")]}")
        if char == "," and level == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def tokens(text: str) -> Tokens | None:
    r"""A cleaned text as tokens in one spelling, or None where its brackets make no sense.

    Arguments always stand in braces ("\frac12" is `\frac{1}{2}`), other braces become round brackets, numbers lose
    leading zeros and a mixed number is a sum. A name with a mark or several letters is one `\mathit{}`.
    """
    rest = deque(_SPELLINGS.get(token, token) for token in _TOKEN.findall(text))
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
            inside = "".join(_argument(rest, token)).replace("\\", "")
            out.append(
                rf"\mathit{{{token[1:]}{inside}}}" if inside.isalnum() and not inside.isdigit() else "\\overline"
            )
            out += [] if out[-1] != "\\overline" else ["{", inside, "}"]
        elif token == "^" and (marks := _marks(rest)):
            out += marks
        elif token in _ARGUMENTS:
            out.append(token)
            if token == r"\sqrt" and rest and rest[0] == "[":
                rest.popleft()
                out += ["[", *_group(rest, "]"), "]"]
            for _ in range(_ARGUMENTS[token]):
                out += ["{", *_argument(rest, token), "}"]
        elif token.startswith((r"\begin", r"\end")) and re.search("matrix|array", token):
            out.append(token if "vmatrix" in token else token.split("{")[0].strip() + "{pmatrix}")
            if token.startswith(r"\begin") and "array" in token and rest[0] == "{":
                _argument(rest, "array")
        else:
            out.append(_one(token))
    if close is not None:
        raise ValueError(f"no {close}")
    return _mixed(out)


def _marks(rest: deque[str]) -> list[str]:
    r"""`^\circ` and `^{\circ}` as one token."""
    for form in (["\\circ"], ["{", "\\circ", "}"]):
        if list(rest)[: len(form)] == form:
            for _ in form:
                rest.popleft()
            return [r"^{\circ}"]
    return []


def _one(token: str) -> str:
    if token[0].isdigit() or (token[0] == "." and len(token) > 1):
        whole, point, decimals = token.partition(".")
        return (whole.lstrip("0") or "0") + point + decimals
    return "=" if token == "==" else _SPELLINGS.get(token, {"<=": r"\le", ">=": r"\ge", "!=": r"\ne"}.get(token, token))


def _braced(inside: list[str], whole: bool) -> list[str]:
    for command, new in ((r"\over", r"\frac"), (r"\choose", r"\binom")):
        if inside.count(command) == 1:
            at = inside.index(command)
            return [new, "{", *inside[:at], "}", "{", *inside[at + 1 :], "}"]
    if whole and _listed(["", *inside, ""]):
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
    r"""2\frac{1}{3} is a sum, in brackets; 2\frac{x}{3} and 2\frac{4}{3} are products."""
    for at in range(len(out) - 7, -1, -1):
        whole, frac, _, top, _, _, bottom, end = out[at : at + 8] if len(out) >= at + 8 else [""] * 8
        if whole.isdigit() and frac == r"\frac" and end == "}" and top.isdigit() and bottom.isdigit():
            if int(top) < int(bottom) and out[at + 3 : at + 6] == [top, "}", "{"]:
                out[at : at + 8] = ["(", whole, "+", *out[at + 1 : at + 8], ")"]
    return out


def split(text: Tokens, separators: set[str]) -> list[Tokens]:
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
