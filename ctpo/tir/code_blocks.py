r"""What one assistant turn says: a tool call, a final answer, or neither. `docs/turns.md` has the rules as a table.

Everything here is pure and linear in the length of the text, because the text is whatever a model happened to sample.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

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

_STRING_OR_COMMENT = re.compile(r""""{3}|'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|["']|#""")
_LITERALS = re.compile(r"""(\"{3}|'{3})[\s\S]*?(?:\1|\Z)|"[^"\r\n]*"|'[^'\r\n]*'|#[^\r\n]*""")
_SHOWN = re.compile(r"`[^`\r\n]+`|^(?: {4}|\t)[^\r\n]*", re.MULTILINE)  # code spans and indented code
_TOOL_OUTPUT = re.compile(r"<tool_response>[\s\S]*?(?:</tool_response>|\Z)")

# Matched from the first backslash of a run on, so that a million of them are read once.
_BOX = r"(?P<backslashes>(?<!\\)\\+)(?:boxed|fbox|framebox(?:\[[^\[\]{}\\\r\n]{0,40}\]){0,2})"
# Without braces TeX takes the next token; here a whole number, a letter that begins no word, or a simple command.
_BARE = (
    r"[-+]?(?:\d+(?:,\d+)*(?:\.\d+)?(?:/\d+)?(?:\\?%)?|[A-Za-z](?![ \t]+[A-Za-z])"
    r"|\\(?:[dt]?frac|sqrt|text(?:bf)?|pi|infty|emptyset)(?![A-Za-z])(?:\{[^{}\\]{1,100}\}|\d){0,3})"
    r"(?![\w{^!+*/=(-]|\\[A-Za-z])"
)
_BRACES = re.compile(rf"{_BOX}(?:\s*(?P<open>\{{)|[ \t]*(?P<bare>{_BARE}))|\\.|[{{}}]", re.DOTALL)

_DRESSING = re.compile(
    r"\\(?:text|math)[a-z]*(?![a-zA-Z])|\\(?:emph|mbox|hbox|operatorname|boldsymbol|bf|it|displaystyle)(?![a-zA-Z])"
    r"|\\(?:q?quad|hspace\*?\{[^{}]*\}|[hv]?phantom\{[^{}]*\}|underline)(?![a-zA-Z])|\\(?:[ ,;:!()]|\Z)"
    r"|\*\*|[\s$~]|(?<!\\)[{}]"
)
_GAP = r"(?:\.|…|⋯|\?|\\?_|□|\\[a-z]?dots[a-z]?(?![a-zA-Z])|\\(?:square|Box)(?![a-zA-Z])|,)"
_NOTHING = re.compile(rf"(?:\\?[A-Za-z]\w?=)?(?:{_GAP}*|[\[(<]{_GAP}+[\])>])")
# A box holds a placeholder if all of its words are of these, and at least one is of the last group.
_PLACEHOLDER_WORDS = re.compile(
    r"(?=.*\b(?:ans|answers?|result|solution|placeholder|tbd)\b)(?:(?:an?|be|correct|desired|enter|exact|expression|final|goes"
    r"|here|in|insert|integer|is|my|number|numeric|numerical|of|our|place|problem|put|question|required|that|the|this|to|value"
    r"|write|your|ans|answers?|result|solution|placeholder|tbd) )+"
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
    call = next((block for block in _blocks(turn_text) if block.is_call), None)
    if call is not None and final_answer(turn_text[call.end :]) is None:
        return Turn(code=call.code, answer=None)
    return Turn(code=None, answer=final_answer(turn_text))


def final_answer(model_text: str) -> str | None:
    r"""The content of the last box outside code that is balanced and no placeholder, or None.

    Of nested boxes the inner one counts. `\{` and `\}` are LaTeX's literal braces and take no part in the balance.
    """
    prose = _prose(model_text)
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
    """The text without code and tool output: what can hold an answer."""
    kept, position = [], 0
    for block in _blocks(text):
        kept.append(_SHOWN.sub(_without_literals, text[position : block.start]))
        if _PROSE.match(block.info):
            kept.append(text[block.start : block.end])
        elif not block.info:
            kept.append(_LITERALS.sub(" ", text[block.start : block.end]))
        position = block.end
    kept.append(_SHOWN.sub(_without_literals, text[position:]))
    return _TOOL_OUTPUT.sub("\n", "\n".join(kept))


def _without_literals(shown: re.Match[str]) -> str:
    return _LITERALS.sub(" ", shown.group())


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
    _least_indent: int | None = None
    _quote: str = ""

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

    def take(self, line: str) -> bool:
        """Add a line of the text; True if it closes the block."""
        if self.quotes:
            line = re.sub(rf"^(?:[ \t]*> ?){{1,{self.quotes}}}", "", line)
        head = line.rstrip(" \t").rstrip(self.fence[0])
        fenced = len(line.rstrip(" \t")) - len(head) >= len(self.fence)
        indent = len(line) - len(line.lstrip(" \t"))
        if fenced and not head.strip(" \t"):
            if indent <= max(self.indent, self._least_indent or 0) + 3:
                return True
        elif fenced and self.fence[0] * 3 not in head and not self._string_open_after(head):
            self.lines.append(head)
            return True
        self.lines.append(line)
        if line.strip():
            self._least_indent = indent if self._least_indent is None else min(indent, self._least_indent)
        open_string = self._string_open_after(line)
        self._quote = open_string if len(open_string) == 3 else ""
        return False

    def _string_open_after(self, line: str) -> str:
        """The quote of the Python string that is still open behind `line`, or nothing."""
        if not self._is_python:
            return ""
        position, quote = 0, self._quote
        while True:
            if quote:
                end = line.find(quote, position)
                if end < 0:
                    return quote
                position = end + 3
            token = _STRING_OR_COMMENT.search(line, position)
            if token is None or token.group() == "#":
                return ""
            if len(token.group()) == 1:
                return token.group()
            position, quote = token.end(), token.group() if token.group() in ('"""', "'''") else ""


def _blocks(text: str) -> Iterator[_Block]:
    """Fenced blocks in order; one that is never closed runs to the end of the text."""
    block: _Block | None = None
    for match in _LINE.finditer(text):
        line = match.group().rstrip("\r\n")
        if block is None:
            block = _opening(line, match.start())
            continue
        if block.take(line):
            block.closed, block.end = True, match.end()
            yield block
            block = None
            continue
        # An unlabelled fence before a labelled one of its kind is a stray: Markdown could not show it either.
        inner = None if block.info else _opening(line, match.start())
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
    prefix = next(_CONTAINER.finditer(line)).group()  # it matches an empty one, too
    match = _FENCE.match(line, len(prefix))
    if match is None or (match["fence"][0] == "`" and "`" in match["info"]):
        match = _FENCE_BEHIND_TEXT.search(line)
    if match is None:
        return None
    indent = len(prefix.rpartition(">")[2].removeprefix(" ") if ">" in prefix else prefix)
    at_margin = match.start() == 0
    return _Block(
        match["fence"], match["info"].strip(), prefix.count(">"), indent, at_margin, offset + match.start("fence")
    )
