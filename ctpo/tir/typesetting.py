r"""The layout of an answer taken away: delimiters, sizes, spaces and fonts; plain and SymPy notation as LaTeX.

Everything here is pure, needs no SymPy and is linear in the length of the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_MAX_WRAPPERS = 24
_SIGNS = {
    "−": "-", "–": "-", "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∞": r"\infty ", "°": r"^{\circ}",
    "∪": r"\cup ", "∩": r"\cap ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp ",
    "≈": r"\approx ",
    "∅": r"\emptyset ", "∈": r"\in ", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "…": r"\ldots ", "¢": r"\text{cent}",
    "⌊": r"\lfloor ",
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
    r"(?<!\\)\\[,;:> \n]|~|\\(?:q?quad|thinspace|enspace|space|hfill|par)(?![a-zA-Z])"
    r"|\\hspace\*?\s*\{[^{}]*\}"
)
_GROUPED = re.compile(r"(?<![\w.,\\])\d{1,3}(?:([,'_])\d{3})(?:\1\d{3})*(?![\d,'_])")
_SPACED_GROUPS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:\\[, ]| )\d{3})+(?!\d)")
_TEXT = re.compile(r"\\(?:text[a-z]*|emph|[mh]box|mathrm|operatorname\*?|mathop)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z][\w'.-]*(?:\s+[A-Za-z][\w'.-]*)*")
_SPEED = re.compile(r"(?<=[\d)}])\s*(k?m)\s*/\s*(s|h|hr)(?![A-Za-z])")
_DELIMITED = re.compile(r"^(?:\$\$?|\\\(|\\\[)(.*?)(?:\$\$?|\\\)|\\\])$", re.DOTALL)
_WRAPPED = re.compile(r"\\(?:boxed|fbox|math(?:bf|it|sf|rm)|boldsymbol|bm|displaystyle)\s*\{")
_NAME = re.compile(r"(?<![A-Za-z\\])(?:log(?:10|2)(?=\()|[A-Za-z]{2,}(?![A-Za-z]))")
_CURRENCY_NAMES = {"€": "euro", r"\euro": "euro", "£": "pound", r"\pounds": "pound"}
_CURRENCIES = re.compile(r"€|£|\\(?:euro|pounds)(?![A-Za-z])")
# 0.1(6), 0.1666... and 0.1212...: a digit written three times or a block written twice goes on.
_RECURRING = re.compile(r"(\.\d{0,12}?)(?:\((\d{1,30})\)|(?:(\d)\3\3+|(\d{2,8})\4+)\s*\\ldots)")
# Plain and SymPy notation. `log` of SymPy is natural, so `log(` has its own token until `equal` has tried both.
_CALLS = {
    "sqrt": r"\sqrt{%s}", "cbrt": r"\sqrt[3]{%s}", "Rational": r"\frac{%s}{%s}", "Fraction": r"\frac{%s}{%s}",
    "Eq": "%s=%s", "Intervalopen": "(%s,%s)", "IntervalLopen": "(%s,%s]", "IntervalRopen": "[%s,%s)",
    "binomial": r"\binom{%s}{%s}",
    "comb": r"\binom{%s}{%s}", "exp": "e^{%s}", "Abs": "|%s|", "abs": "|%s|", "floor": r"\lfloor %s\rfloor ",
    "ceiling": r"\lceil %s\rceil ", "ceil": r"\lceil %s\rceil ", "factorial": "(%s)!", "log": r"\plainlog(%s)",
    "log10": r"\log_{10}(%s)", "log2": r"\log_{2}(%s)", "Interval": "[%s,%s]", "FiniteSet": "", "Union": "",
}  # fmt: skip
_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan arccot ln log lg exp max min gcd lcm det sqrt",
    )
)

_GREEK = re.findall(
    r"\w+",
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega",
)

_PLAIN = {name: rf"\{name} " for name in (*_FUNCTIONS, *_GREEK, "pi")} | {
    "oo": r"\infty ", "inf": r"\infty ", "infinity": r"\infty ", "asin": r"\arcsin ", "acos": r"\arccos ",
    "atan": r"\arctan ", "percent": r"\%", "pct": r"\%", "percentage": r"\%", "and": r"\land ", "or": r"\lor ",
    "EmptySet": r"\emptyset ",
}  # fmt: skip


def clean(text: str, is_word: Callable[[str], bool]) -> str:
    r"""The answer without layout: no math delimiters, sizes or thin spaces; words in \text{}, plain names as LaTeX.

    `is_word` says which runs of plain letters are words, as in "180 miles", rather than products of variables.
    """
    text = "".join(_SIGNS.get(c) or (c if c.isascii() else _greek(c)) for c in _RAISED.sub(_exponent, text)).strip()
    for _ in range(_MAX_WRAPPERS):
        inner, wrapped = _DELIMITED.match(text), _WRAPPED.match(text)
        if inner and "$" not in inner[1].replace(r"\$", ""):
            text = inner[1].strip()
        elif wrapped and wrapped.end() - 1 + _closed(text[wrapped.end() - 1 :]) == len(text.rstrip(". ")):
            text = text.rstrip(". ")[wrapped.end() : -1].strip()
    money = re.match(r"-?\s*\\\$", text) or (re.match(r"-?\s*\$", text) and text.count("$") == 1)
    currency = _CURRENCIES.search(text)
    text = re.sub(r"\\?\$|(?<!\\)\\[()\[\]]", "", _CURRENCIES.sub("", text))
    text = _SPACED_GROUPS.sub(lambda m: re.sub(r"\D", "", m[0]), _JOINED.sub("", text))
    text = re.sub(r"(?<![A-Za-z])([ap])\.\s?m(?![A-Za-z])\.?", r"\\text{\1m}", text) if r"\text{" not in text else text
    text = (
        _SPACES.sub(" ", _NOTHING.sub("", text))
        .replace("...", r"\ldots ")
        .replace(r"\degree", r"^{\circ}")
        .replace("{,}", ",")
        .replace("per cent", "percent")
        .replace("+/-", r"\pm ")
        .replace("Interval.", "Interval")
    )
    text = re.sub(r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup ", text)
    text = _RECURRING.sub(lambda m: rf"{m[1]}\overline{{{m[2] or m[3] or m[4]}}}", text)
    if not re.search(r"[(\[]|\\\{|\\lbrace|^\{", text):
        text = _GROUPED.sub(lambda m: re.sub(r"\D", "", m[0]), text)
    text = re.sub(r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?", r"\\overline{\1\2\3}", text)
    text = re.sub(r"\^\s*\{?\s*\\text\{(?:st|nd|rd|th)\}\s*\}?", "", text)
    for _ in range(3):  # \text{\textbf{12}}
        text = _TEXT.sub(_unwrapped, text)
    text = _plain(text, is_word)
    text = re.sub(r"[\s.,;]+([\s}]*)$", r"\1", text)
    unit = _CURRENCY_NAMES[currency[0].strip()] if currency else "dollar" if money else ""
    return " ".join((text + (rf"\text{{{unit}}}" if unit else "")).split())


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
        if words in ("max", "min") and not measures:
            return words  # of a subscript, else a function by its bracket
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
    text = re.sub(r"^\s*(\[\[.*\]\])\s*$", r"Matrix(\1)", text)
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
        elif name in ("Matrix", "array") and (rows := re.match(r"\(\[(.*?)\]\)", after, re.DOTALL)):
            at = len(text) - len(after) + rows.end()
            out.append(_matrix(rows[1]))
        elif name in _PLAIN and not (name in ("min", "gcd", "max") and not after.startswith("(")):
            out.append(_PLAIN[name])
        else:
            measures = re.search(r"[\d)}%]\s*/?\s*$", text[: found.start()]) or (
                out[-1:] == [" "] and "text" in out[-2]
            )
            counted = len(name) > 4 and text[: found.start()].endswith(" ")  # "5 apples", no product of variables
            out.append(rf"\text{{{name}}}" if measures and (counted or is_word(name)) else name)
    return "".join(out) + text[at:]


def _called(name: str, arguments: list[str]) -> str:
    if name == "log" and len(arguments) == 2:
        return rf"\log_{{{arguments[1]}}}({arguments[0]})"
    if name == "FiniteSet":
        return r"\{" + ",".join(arguments) + r"\}"
    if name == "Union":
        return r"\cup ".join(arguments)
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
