"""Runs inside the sandbox: an uncaught exception is written to stderr as Python shows it, and once more as a record.

The worker takes the record out of stderr again. It holds the exception's own type and message, which nobody can find in
stderr for certain: messages have several lines, and other text may follow.
"""

import io
import posix
import sys
from types import TracebackType

RECORD = b"\0error\0%d%s\0"  # 1 where memory could not be had, else 0; type and message
OUR_OWN = "<sandbox>"  # file name of this project's code inside
_MOST_CHARS = 4000
program = 0  # the process that runs the program; the children that it forks leave no record


def own_words(error: BaseException) -> str:
    """Type, message and notes of the exception itself; a group's with those of its members."""
    import traceback

    said = "".join(traceback.format_exception_only(type(error), error)).strip()
    for inner in getattr(error, "exceptions", ()) if type(error).__name__.endswith("ExceptionGroup") else ():
        said += "\n  " + own_words(inner).replace("\n", "\n  ")
    return said


def _as_python_shows(error: BaseException) -> str:
    """The display of the interpreter itself, which finds no source lines of a program that is no file."""
    shown, sys.stderr = sys.stderr, io.StringIO()
    try:
        sys.__excepthook__(type(error), error, None)
        return sys.stderr.getvalue()
    finally:
        sys.stderr = shown


def _suggestion(error: BaseException) -> str:
    """The "Did you mean" that the interpreter's display appends, and `traceback` only from Python 3.12 on."""
    if sys.version_info >= (3, 12) or not isinstance(error, (NameError, AttributeError)):
        return ""
    _, mark, meant = _as_python_shows(error).rstrip("\n").rpartition(". Did you mean: ")
    return mark + meant if meant and "\n" not in meant and mark not in str(error) else ""


def _memory_ran_out(error: BaseException, frames: TracebackType | None) -> bool:
    """Whether an allocation failed; a program may raise the same exception by itself."""
    import opcode

    while frames and frames.tb_next:
        frames = frames.tb_next
    if not (frames and isinstance(error, MemoryError)):
        return False
    return frames.tb_frame.f_code.co_code[frames.tb_lasti] != opcode.opmap["RAISE_VARARGS"]


def _leave_out_our_own(frames: TracebackType | None) -> None:
    """Cut a traceback where it enters the `write` of a standard stream, which is C code in plain Python."""
    while frames and frames.tb_next:
        if frames.tb_next.tb_frame.f_code.co_filename == OUR_OWN:
            frames.tb_next = None
        frames = frames.tb_next


def _record(message: str, ran_out: bool) -> None:
    if posix.getpid() == program:  # not a child that the program forked
        posix.write(2, RECORD % (ran_out, message.encode("utf-8", "replace").replace(b"\0", b"?")))


def _show_in_full(error: BaseException, frames: TracebackType | None) -> None:
    import traceback

    _leave_out_our_own(frames)
    error = error.with_traceback(frames)
    ran_out, said, extra = _memory_ran_out(error, frames), own_words(error), _suggestion(error)
    message = said.replace(str(error), str(error) + extra, 1) if extra else said
    if len(message) > _MOST_CHARS:
        half = _MOST_CHARS // 2
        message = f"{message[:half]} ... {message[-half:]}"
    _record(message, ran_out)
    if sys.excepthook is not sys.__excepthook__:
        sys.excepthook(type(error), error, frames)
        return
    if isinstance(error, SyntaxError) and frames is None:
        text = _as_python_shows(error)
    else:
        text = "".join(traceback.format_exception(type(error), error, frames))
    print(text.replace(str(error), str(error) + extra) if extra else text, end="", file=sys.stderr)


def show(error: BaseException, frames: TracebackType | None) -> None:
    """Report an uncaught exception of the program to the worker, and show it as Python does."""
    try:
        _show_in_full(error, frames)
    except BaseException:
        name = type(error).__name__
        _record(name, isinstance(error, MemoryError))
        posix.write(2, name.encode("utf-8", "replace") + b"\n")
