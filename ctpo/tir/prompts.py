r"""The words around a trajectory: system prompts and what the model is shown of an execution.

The two belong together: a prompt promises exactly what `observation` and the sandbox deliver. Each call
runs in a fresh process; printed text comes back, as does the
value of a last bare expression; a failure shows its last error line; long text loses its middle.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctpo.sandbox import ExecutionResult

_MATH = (
    "You solve mathematics problems by reasoning step by step, and you can run Python while you do.\n"
    "\n"
    "To run code, end your turn with one block of this form:\n"
    "```python\n"
    "print(2 + 2)\n"
    "```\n"
    "The next message then holds what the program printed, and the value of its last line if that "
    "is a bare expression. Print every value you need and keep it short: long output loses its "
    "middle. A program that fails returns what it printed so far and the last line of its error. "
    "Every block runs in a new process without network, files or earlier variables, under limits on "
    "time and memory. The number of turns is limited, so check only what is worth checking.\n"
    "\n"
    "When you are sure, give the final answer on its own in \\boxed{}, in a turn without code. Only "
    "the last \\boxed{} that you write is graded."
)

SYSTEM_PROMPTS = MappingProxyType(
    {
        "math": _MATH,
        "short": "Run a ```python block, then answer in \\boxed{}.",
    }
)

#: Token that ends a turn, in every ChatML model.
END_OF_TURN = "<|im_end|>"

MIN_CHARS = 64
NO_OUTPUT = "[no output]"
UNAVAILABLE = "[tool unavailable, the code was not run]"
_ENDINGS = {
    "timeout": "[stopped: time limit]",
    "memory": "[stopped: memory limit]",
    "output": "[stopped: output limit]",
    "killed": "[stopped: killed]",
}
_CUT = "\n[...]\n"
# Chat markup printed by a program would otherwise be tokenised as real turn boundaries.
_MARKUP = re.compile(r"<(?=\|[^|<>\s]{1,32}\|>|/?(?:tool_response|tool_call|think)>)")


def observation(result: ExecutionResult, max_chars: int) -> str:
    """The text of the tool message for one execution: at most `max_chars` characters, never empty.

    Printed text first; then, if the program failed, the last line of its error, and if it was
    stopped, which limit stopped it. That ending survives the cut, the middle of the output does not.

    Raises:
        ValueError: `max_chars` is below 32, too short for any ending.
    """
    if max_chars < 32:
        raise ValueError(f"tir.tool_output_chars={max_chars} is too short for an error message: use 32 or more")
    printed = _harmless(result.stdout).strip("\r\n")
    ending = _ending(result)
    if not ending:
        return _cut(printed, max_chars) if printed.strip() else NO_OUTPUT
    ending = _cut(ending, max_chars if not printed else max_chars // 2)
    room = max_chars - len(ending) - 1
    return f"{_cut(printed, room)}\n{ending}" if printed.strip() else ending


def tool_message(text: str) -> dict[str, str]:
    """The chat message that carries an observation."""
    return {"role": "tool", "content": text}


def _ending(result: ExecutionResult) -> str:
    if result.reason == "ok":
        return ""
    if result.reason == "error":
        lines = [line for line in _harmless(result.stderr).splitlines() if line.strip()]
        return lines[-1].strip() if lines else "[failed without a message]"
    return _ENDINGS[result.reason]


def _harmless(text: str) -> str:
    return _MARKUP.sub("< ", text.encode("utf-8", "replace").decode("utf-8"))


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    kept = max_chars - len(_CUT)
    head = kept - kept // 3
    return text[:head] + _CUT + text[len(text) - kept // 3 :]
