r"""The words around a trajectory: system prompts and what the model is shown of an execution.

The two belong together: a prompt promises exactly what `observation` and the sandbox deliver. Each call
runs in a fresh process. Printed text comes back, as does the value of a last bare expression. Text on stderr follows
as far as there is room. A failure shows the uncaught exception. Long text loses its middle.
"""

from __future__ import annotations

import re
import signal
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
    "middle. A program that fails returns what it printed so far and its error. "
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
_LEAST_BESIDE = 32  # characters of stderr that are worth showing behind printed text
# Chat markup printed by a program would otherwise be tokenised as real turn boundaries.
_MARKUP = re.compile(r"<(?=\|[^|<>\s]{1,32}\|>|/?(?:tool_response|tool_call|think)>)")


def observation(result: ExecutionResult, max_chars: int) -> str:
    """The text of the tool message for one execution: at most `max_chars` characters, never empty.

    Printed text first; then text on stderr, if nothing but it tells of a failure or there is room for it; then the
    uncaught exception or what stopped the program. That ending survives the cut, the middle of the output does not.

    Raises:
        ValueError: `max_chars` is below 32, too short for any ending.
    """
    if max_chars < 32:
        raise ValueError(f"tir.tool_output_chars={max_chars} is too short for an error message: use 32 or more")
    printed, ending = _shown(result.stdout), _shown(_ending(result))
    if printed and ending:
        ending = _cut(ending, max_chars // 2)
        printed = _cut(printed, max_chars - len(ending) - 1)
    shown = "\n".join(filter(None, (printed, ending)))
    room = max_chars - len(shown) - 1
    beside = _shown(result.stderr) if not result.error else ""
    if beside and room >= min(len(beside), _LEAST_BESIDE):
        shown = "\n".join(filter(None, (printed, _cut(beside, room), ending)))
    return _cut(shown, max_chars) or NO_OUTPUT


def tool_message(text: str) -> dict[str, str]:
    """The chat message that carries an observation."""
    return {"role": "tool", "content": text}


def _ending(result: ExecutionResult) -> str:
    if result.reason == "error":
        return result.error or f"[exit status {result.status}]"
    if result.reason == "killed" and result.status < 0:
        return f"[killed by {_signal_name(-result.status)}]"
    return _ENDINGS.get(result.reason, "")


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"


def _shown(text: str) -> str:
    """Text without chat markup and empty lines around it; empty if there is nothing to see."""
    harmless = _MARKUP.sub("< ", text.encode("utf-8", "replace").decode("utf-8")).strip("\r\n")
    return harmless if harmless.strip() else ""


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    kept = max_chars - len(_CUT)
    head = kept - kept // 3
    return text[:head] + _CUT + text[len(text) - kept // 3 :]
