r"""What one assistant turn says: a tool call, a final answer, or neither.

A tool call is the first non-blank fenced Python block of a turn (CommonMark fences: three or more
backticks or tildes on a line of their own). The final answer is the last balanced, non-blank
`\boxed{...}` outside Python blocks. Everything here is pure and linear in the length of the text,
because the text is whatever a model happened to sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PYTHON_INFO = frozenset({"python", "python3", "py"})

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>.*?)[ \t\r]*$")
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Turn:
    """One assistant turn, read once: `code` to run, or else the final `answer` (both None: plain text)."""

    code: str | None
    answer: str | None


@dataclass(frozen=True)
class _Block:
    code: str
    start: int
    end: int
    closed: bool


def parse_turn(turn_text: str) -> Turn:
    """Decide what a complete turn asks for.

    A turn whose text after its first block holds a boxed answer is final: the model has answered
    without waiting for the output, so running the block could not change anything.
    """
    call = _first_call(turn_text)
    if call is not None and final_answer(turn_text[call.end :]) is None:
        return Turn(code=call.code, answer=None)
    return Turn(code=None, answer=final_answer(turn_text))


def extract_code(turn_text: str) -> str | None:
    """The first complete, non-blank fenced Python block of a turn, or None."""
    call = _first_call(turn_text)
    return None if call is None else call.code


def final_answer(model_text: str) -> str | None:
    r"""The content of the last balanced, non-blank `\boxed{...}` outside Python blocks, or None.

    Of nested boxes the innermost last one counts. `\{` and `\}` are LaTeX's literal braces and do
    not take part in the balance.
    """
    prose = _without_python_blocks(model_text)
    open_braces: list[tuple[int, bool]] = []
    last_start, last_content = -1, ""
    for match in _BRACES.finditer(prose):
        token = match.group()
        if token == "}":
            if open_braces:
                start, is_box = open_braces.pop()
                content = prose[start : match.start()].strip() if is_box and start > last_start else ""
                if content:
                    last_start, last_content = start, content
        elif token.endswith("{") and token != "\\{":
            open_braces.append((match.end(), token != "{"))
    return last_content or None


def _first_call(text: str) -> _Block | None:
    return next((block for block in _python_blocks(text) if block.closed and block.code.strip()), None)


def _without_python_blocks(text: str) -> str:
    kept, position = [], 0
    for block in _python_blocks(text):
        kept.append(text[position : block.start])
        position = block.end
    return "".join([*kept, text[position:]])


def _python_blocks(text: str) -> Iterator[_Block]:
    """Python blocks in order; one that is never closed runs to the end of the text."""
    opening: re.Match[str] | None = None
    lines: list[str] = []
    start = position = 0
    for line in text.split("\n"):
        next_position = min(position + len(line) + 1, len(text))
        match = _FENCE.match(line)
        if opening is None:
            if match and not (match["fence"][0] == "`" and "`" in match["info"]):
                opening, start, lines = match, position, []
        elif match and _closes(match, opening):
            if _is_python(opening):
                yield _Block("\n".join(lines), start, next_position, closed=True)
            opening = None
        else:
            lines.append(_dedent(line.removesuffix("\r"), opening["indent"]))
        position = next_position
    if opening is not None and _is_python(opening):
        yield _Block("\n".join(lines), start, len(text), closed=False)


def _closes(match: re.Match[str], opening: re.Match[str]) -> bool:
    return not match["info"] and match["fence"].startswith(opening["fence"])


def _is_python(opening: re.Match[str]) -> bool:
    language = opening["info"].split(maxsplit=1)
    return bool(language) and language[0].lower() in PYTHON_INFO


def _dedent(line: str, indent: str) -> str:
    return line.removeprefix(indent) if line.startswith(indent) else line.lstrip(" \t")
