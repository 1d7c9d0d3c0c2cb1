r"""What one assistant turn says: a tool call, a final answer, or neither. `docs/turns.md` has the rules as a table.

Everything here is pure and linear in the length of the text, because the text is whatever a model happened to sample.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_CONTAINER = re.compile(r"[ \t]*(?:(?:>|(?:[-+*]|\d{1,9}[.)])(?=[ \t]))[ \t]*)*")  # list items and block quotes
_FENCE = re.compile(r"(?P<fence>`{3,}|~{3,})(?P<info>.*)")
# Behind text only a fence with a bare label opens: nothing else tells it from a code span or from prose about fences.
_FENCE_BEHIND_TEXT = re.compile(
    r"(?P<fence>(?<!`)`{3,}|(?<!~)~{3,})(?P<info>\{?\.?[A-Za-z][A-Za-z0-9_+#.-]*(?:[ \t]+[\w-]+=[^\s`~]*)*\}?)[ \t]*\Z"
)
_PYTHON = re.compile(r"\{?\s*\.?py(?:thon)?(?:3(?:\.\d+)?)?(?![\w.+#-])", re.IGNORECASE)
_PROSE = re.compile(
    r"\{?\s*\.?(?:text|txt|plain|plaintext|latex|tex|math|katex|markdown|md|answer)(?![\w.+#-])", re.IGNORECASE
)

_NO_WORD = re.compile(r"[^\w`~]*")
_TRIPLE_QUOTES = ('"""', "'''")
_STRING_OR_COMMENT = r""""{3}|'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|["']|#"""
# The marks of "it's", f'(x) and 5" open no string, and the sign of #1 and \# opens no comment.
_LITERALS = re.compile(
    r"""(\"{3}|'{3})[\s\S]*?(?:\1|\Z)|(?<!\d)"[^"\r\n]*"|(?<![\w)\]}'])(?:[bfru]{1,2}(?='[\w\\{$]))?'[^'\r\n]*'"""
    r"""|(?<![\w\\])#(?!\d)[^\r\n]*"""
)
_SHOWN = re.compile(r"`[^`\r\n]+`|^(?: {4}|\t)[^\r\n]*", re.MULTILINE)  # code spans and indented code
_TOOL_OUTPUT = re.compile(r"(?<![\"'`])<tool_response>[\s\S]*?(?:</tool_response>|\Z)")
_THOUGHT = re.compile(r"[\s\S]*(?<![\"'`])</think>(?![\"'`\\])")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")

# Matched from the first backslash of a run on, so that a million of them are read once.
_BOX = r"(?P<backslashes>(?<!\\)\\+)(?:boxed|fbox|framebox(?:\[[^\[\]{}\\\r\n]{0,40}\]){0,2})"
# Without braces TeX takes the next token; here a whole number, a letter that begins no word, or a simple command.
_BARE = (
    r"[-+]?(?:\d+(?:,\d+)*(?:\.\d+)?(?:/\d+)?(?:\\?%)?|[A-Za-z](?![ \t]+[A-Za-z]|[ \t]*=)"
    r"|\\(?:[dt]?frac|sqrt|text(?:bf)?|pi|infty|emptyset)(?![A-Za-z])(?:\{[^{}\\]{1,100}\}|\d){0,3})"
    r"(?![\w{^!+*/=(-]|\\[A-Za-z])"
)
_BRACES = re.compile(rf"{_BOX}(?:\s*(?P<open>\{{)|[ \t]*(?P<bare>{_BARE}))|\\.|[{{}}]", re.DOTALL)

_DRESSING = re.compile(
    r"\\(?:text|math)[a-z]*(?![a-zA-Z])|\\(?:emph|mbox|hbox|operatorname|boldsymbol|bf|it|displaystyle)(?![a-zA-Z])"
    r"|\\(?:q?quad(?![a-zA-Z])|hspace\*?\{[^{}]*\}|[hv]?phantom\{[^{}]*\}|rule\{[^{}]*\}\{[^{}]*\})"
    r"|\\(?:underline|left|right|[dt]?frac)(?![a-zA-Z])|\\(?:[ ,;:!()]|\Z)|\*\*|[\s$~]|(?<!\\)[{}]"
)
_GAP = r"(?:\.|…|⋯|\?|\\?_|□|\\[a-z]?dots[a-z]?(?![a-zA-Z])|\\(?:square|Box|cdot)(?![a-zA-Z])|,|#\d|%s)"
_NOTHING = re.compile(rf"(?:[^=]{{1,40}}=)?(?:{_GAP}*|(?:\\{{|[\[(<]){_GAP}+(?:\\}}|[\])>]))")
# A box holds a placeholder if all of its words are of these, and at least one is of the first group.
_NAMES_OF_AN_ANSWER = (
    "答案|ans|answers?|calculated|computed|determined|expression|number|output|placeholder|results?|solution|tbd|value"
)
_PLACEHOLDER_WORDS = re.compile(
    rf"(?=.*\b(?:{_NAMES_OF_AN_ANSWER})\b)(?:(?:{_NAMES_OF_AN_ANSWER}|an?|be|by|code|correct|desired|enter|exact|final|from|goes"
    r"|here|in|insert|integer|is|my|numeric|numerical|of|our|place|problem|program|python|put|question|required|that|the|this|to"
    r"|write|your) )+"
)


@dataclass(frozen=True)
class Turn:
    """One assistant turn, read once: `code` to run, or else the final `answer` (both None: plain text)."""

    code: str | None
    answer: str | None


def parse_turn(turn_text: str) -> Turn:
    """Decide what a complete turn asks for.

    A turn whose text after its first call holds a boxed answer is final: the model has answered without waiting for
    the output, so running the block could not change anything.
    """
    reply = _thought_and_reply(turn_text)[1]
    call = next((block for block in _blocks(reply) if block.is_call), None)
    if call is not None and _last_box(reply[call.end :]) is None:
        return Turn(code=call.code, answer=None)
    return Turn(code=None, answer=final_answer(turn_text))


def final_answer(model_text: str) -> str | None:
    r"""The content of the last box outside code that is balanced and no placeholder, or None.

    A box in a thought counts only if the reply behind it has none. Of nested boxes the inner one counts.
    `\{` and `\}` are LaTeX's literal braces and take no part in the balance.
    """
    thought, reply = _thought_and_reply(model_text)
    return _last_box(reply) or _last_box(thought)


def _thought_and_reply(text: str) -> tuple[str, str]:
    """The text up to the last `</think>` and the text behind it, both without made-up tool output."""
    own = _TOOL_OUTPUT.sub("\n", text)
    thought = _THOUGHT.match(own)
    return (thought.group(), own[thought.end() :]) if thought else ("", own)


def _last_box(text: str) -> str | None:
    prose = _prose(text)
    answer = None
    open_braces: list[tuple[int, re.Match[str] | None]] = []
    last_box = -1  # start of the box that closed last, real or not: a box around it is no answer of its own
    for match in _BRACES.finditer(prose):
        if match["bare"] is not None:
            answer = _content(match["bare"], match) or answer
            last_box = match.start()
        elif match["open"] is not None or match.group() == "{":
            open_braces.append((match.end(), match if match["open"] else None))
        elif match.group() == "}" and open_braces:
            start, box = open_braces.pop()
            if box is not None and start > last_box:
                answer = _content(prose[start : match.start()], box) or answer
                last_box = start
    return answer


def _content(boxed: str, box: re.Match[str]) -> str | None:
    """What stands in a box, or None for a placeholder."""
    content = boxed.strip()
    if len(box["backslashes"]) % 2 == 0:  # all of the model's LaTeX is escaped once too often
        content = content.replace("\\\\", "\\")
    return None if _is_placeholder(content) else content


def _is_placeholder(content: str) -> bool:
    bare = _DRESSING.sub(" ", content)
    if _NOTHING.fullmatch("".join(bare.split())):
        return True
    words = re.findall(r"[^\W\d_]+|\d", bare.lower())
    return _PLACEHOLDER_WORDS.fullmatch("".join(f"{word} " for word in words)) is not None


def _prose(text: str) -> str:
    """The text without code: what can hold an answer."""
    kept, position = [], 0
    for block in _blocks(text):
        kept.append(_SHOWN.sub(lambda shown: _without_boxed_literals(shown.group()), text[position : block.start]))
        if _PROSE.match(block.info):
            kept.append(text[block.start : block.end])
        elif not block.info:
            kept.append(_without_boxed_literals(text[block.start : block.end]))
        position = block.end
    kept.append(_SHOWN.sub(lambda shown: _without_boxed_literals(shown.group()), text[position:]))
    return _INVISIBLE.sub("", "\n".join(kept))


def _without_boxed_literals(shown: str) -> str:
    return _LITERALS.sub(lambda literal: " " if "box" in literal.group() else literal.group(), shown)


@dataclass
class _Block:
    """A fenced block, filled line by line until it closes or the text ends."""

    fence: str
    info: str
    quotes: int
    """Block-quote markers before the fence."""
    indent: int
    """Blanks and list markers before it."""
    at_margin: bool
    start: int
    end: int = -1
    closed: bool = False
    lines: list[str] = field(default_factory=list)
    _string: str = ""

    @property
    def is_call(self) -> bool:
        """Complete Python that is not blank."""
        return self.closed and self._is_python and bool(self.code.strip())

    @property
    def code(self) -> str:
        """The lines without the indentation and the quote markers of what they stand in."""
        if self.at_margin:
            return "\n".join(self.lines)
        return textwrap.dedent("\n".join(re.sub(rf"^[ \t]{{0,{self.indent}}}", "", line) for line in self.lines))

    @property
    def _is_python(self) -> bool:
        return _PYTHON.match(self.info) is not None

    def take(self, line: str, quotes_ahead: Collection[str]) -> tuple[int, int] | None:
        """Add a line of the text; the place of the closing fence in it, or None.

        `quotes_ahead` holds the triple quotes that occur behind the line: only such a string can go on there.
        """
        quoted = re.match(rf"(?:[ \t]*> ?){{1,{self.quotes}}}", line) if self.quotes else None
        skipped = quoted.end() if quoted else 0
        place = (self._closing_python if self._is_python else self._closing)(line, skipped)
        if self._string not in quotes_ahead:
            self._string = ""
        code = line[skipped : place[0] if place else None]
        if place is None or code.strip():
            self.lines.append(code)
        return place

    def _closing(self, line: str, position: int) -> tuple[int, int] | None:
        """A fence that begins the line, unless a label follows it, or the line's only one if it ends the line."""
        place = re.compile(rf"{self.fence[0]}{{{len(self.fence)},}}").search(line, position)
        if place is None:
            return None
        rest = line[place.end() :]
        begins = not line[position : place.start()].strip() and self.fence[0] == "`"
        label = rest[:1] not in (" ", "\t") or "```" in rest or _PYTHON.fullmatch(rest.strip())
        return place.span() if _NO_WORD.fullmatch(rest) or (begins and not label) else None

    def _closing_python(self, line: str, position: int) -> tuple[int, int] | None:
        """A fence outside strings: backticks are no Python. Tildes, and any fence in a comment, must end the line."""
        kind, least = self.fence[0], len(self.fence)
        last, tokens = _python_tokens(kind, least)
        while True:
            if self._string:
                end = line.find(self._string, position)
                if end < 0:
                    return None
                position, self._string = end + 3, ""
            match = tokens.search(line, position)
            if match is None:
                return None
            token, position = match.group(), match.end()
            if token[0] == kind:
                return match.span()
            if token == "#":
                place = last.search(line, position)
                return place.span() if place and kind * 3 not in line[position : place.start()] else None
            if len(token) == 1:  # a string that its line does not end
                return None
            self._string = token if token in _TRIPLE_QUOTES else ""


@lru_cache
def _python_tokens(kind: str, least: int) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A fence that ends its line; and what can end, hide or shift a closing fence in Python."""
    last = rf"(?<!{kind}){kind}{{{least},}}(?=[^\w`~]*\Z)"
    return re.compile(last), re.compile(rf"{f'`{{{least},}}' if kind == '`' else last}|{_STRING_OR_COMMENT}")


def _blocks(text: str) -> Iterator[_Block]:
    """Fenced blocks in order; one that is never closed runs to the end of the text."""
    last_quotes = {quotes: text.rfind(quotes) for quotes in _TRIPLE_QUOTES}
    block: _Block | None = None
    for match in _LINE.finditer(text):
        line, start, end = match.group().rstrip("\r\n"), match.start(), match.end()
        if block is None:
            block = _opening(line, start)
            continue
        place = block.take(line, [quotes for quotes, last in last_quotes.items() if last >= end])
        if place is not None:
            behind = _FENCE_BEHIND_TEXT.search(line, place[0])
            block.closed, block.end = True, start + (behind.start() if behind else place[1])
            yield block
            block = _block(line, behind, start) if behind else None
            continue
        # An unlabelled fence before a labelled one of its kind is a stray: Markdown could not show it either.
        inner = None if block.info else _opening(line, start)
        if inner is not None and inner.info and inner.fence.startswith(block.fence):
            block.end = inner.start
            yield block
            block = inner
    if block is not None:
        block.end = len(text)
        yield block


def _opening(line: str, offset: int) -> _Block | None:
    if "```" not in line and "~~~" not in line:
        return None
    match = _FENCE.match(line, _container(line).end())
    if match is None or (match["fence"][0] == "`" and "`" in match["info"]):
        match = _FENCE_BEHIND_TEXT.search(line)
    return None if match is None else _block(line, match, offset)


def _block(line: str, match: re.Match[str], offset: int) -> _Block:
    prefix = _container(line).group()
    indent = len(prefix.rpartition(">")[2].removeprefix(" ") if ">" in prefix else prefix)
    at_margin = match.start() == 0
    return _Block(
        match["fence"], match["info"].strip(), prefix.count(">"), indent, at_margin, offset + match.start("fence")
    )


def _container(line: str) -> re.Match[str]:
    return next(_CONTAINER.finditer(line))  # it matches an empty one, too
