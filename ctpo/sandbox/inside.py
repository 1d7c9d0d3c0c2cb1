"""Runs inside the sandbox: sets the process's limits, runs the code that comes over the channel as `python` would.

Given to the interpreter as text, so that no file of this project is visible inside. It imports little that a bare
interpreter has not imported, because a cold call pays for every millisecond. Nothing here protects anything, except
that the limits are set before the first line of the caller's code.

The channel is one end of a socket pair. A request comes in (see `Request.order`); one byte goes out when isolation and
interpreter are up. The channel is closed before the caller's code begins, which therefore cannot forge anything.
The exit status tells how the program ended, and stderr has the uncaught exception (see `uncaught`).

The first process of a pid namespace ignores its own fatal signals. A program that may send itself any therefore runs in
a second process: the first waits, and sends wait status and CPU milliseconds (4 bytes each) over
the channel.
"""

import builtins
import io
import posix
import sys
from _weakref import ref
from types import CodeType, ModuleType

from ctpo.sandbox import uncaught

CHANNEL = 3
_SIGNAL_WORDS = (b"kill", b"signal", b"abort", b"alarm", b"itimer", b"ctypes")
_CPUS = 4  # what `os.cpu_count` says: pools of this size fit into the limit on processes, whatever the host has
_PyCF_ONLY_AST = 0x400
_NAME = "<code>"


class Order:
    """A request as it comes over the channel; integers in this order, a newline, the code."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.code = raw.partition(b"\n")
        numbers = [int(number) for number in head.split()]
        self.cpu_s, self.data_mb, self.address_mb, self.processes, self.file_mb, self.inodes = numbers[:6]
        self.echo, self.apart = bool(numbers[6]), any(word in self.code for word in _SIGNAL_WORDS)


def read_order() -> Order | None:
    """The next request; None when the supervisor is gone."""
    size = _read_exactly(8)
    return Order(_read_exactly(int.from_bytes(size, "little"))) if size else None


def _read_exactly(count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = posix.read(CHANNEL, count - len(got))
        if not part:
            return b""
        got += part
    return got


def limit(order: Order) -> None:
    import resource

    mib = 1 << 20
    for which, value in (
        # Soft and hard are the same: the first process of a namespace does not die of SIGXCPU.
        (resource.RLIMIT_CPU, order.cpu_s),
        # Private memory; and address space, which shared mappings count in too.
        (resource.RLIMIT_DATA, order.data_mb * mib),
        (resource.RLIMIT_AS, order.address_mb * mib),
        (resource.RLIMIT_FSIZE, order.file_mb * mib),
        (resource.RLIMIT_NPROC, order.processes + order.apart),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 128),
    ):
        present = resource.getrlimit(which)[1]
        value = value if present == resource.RLIM_INFINITY else min(value, present)
        resource.setrlimit(which, (value, value))


class _Unbuffered(io.FileIO):
    """A standard output or error: what is written has left the process, however the process ends."""

    raw = property(lambda self: self)  # in plain Python there is a buffer around it

    def seekable(self) -> bool:
        return False  # also while a pipe has yet to take the place of the warm parent's /dev/null

    def write(self, data: object) -> int:
        if not isinstance(data, bytes):
            return super().write(data) or 0  # type: ignore[arg-type]
        view, written = memoryview(data), 0
        while written < len(view):
            count = write_holding_the_lock(self.fileno(), view[written:])
            written += super().write(view[written:]) or 0 if count < 0 else count
        return written


def write_holding_the_lock(fd: int, data: memoryview) -> int:
    """write(2); negative to have Python's own. A warm parent has a better one, which keeps a thread's line whole."""
    return -1


def become_main() -> None:
    """Give the interpreter the streams and built-ins of `python program.py | cat`, and integers of any length."""
    import os
    import warnings  # noqa: F401  the interpreter alone shows no source line with a warning

    for fd, name in ((1, "stdout"), (2, "stderr")):
        raw = _Unbuffered(fd, "wb", closefd=False)
        raw.name = f"<{name}>"
        errors = getattr(sys, name).errors
        stream = io.TextIOWrapper(raw, "utf-8", errors, "\n", write_through=True)
        stream.mode = "w"  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    import site

    site.setquit()
    site.setcopyright()
    site.sethelper()
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    os.cpu_count = lambda: min(_CPUS, posix.cpu_count() or 1)


def _compiled(source: str, echo: bool) -> list[CodeType]:
    """The code; a last bare expression apart, to be echoed as in a notebook (a `;` behind it silences it)."""
    import _ast

    tree = compile(source, _NAME, "exec", _PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(tree, _ast.Module)
    last = []
    if echo and tree.body and isinstance(tree.body[-1], _ast.Expr) and not _silenced(source, tree.body[-1]):
        last = [compile(_ast.Interactive(body=[tree.body.pop()]), _NAME, "single", dont_inherit=True)]
    return [compile(tree, _NAME, "exec", dont_inherit=True), *last]


def _silenced(source: str, last: object) -> bool:
    """Whether a semicolon follows the last statement: nothing else but blanks and comments can."""
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")[last.end_lineno - 1 :]  # type: ignore[attr-defined]
    rest = "\n".join(lines).encode()[last.end_col_offset :]  # type: ignore[attr-defined]
    return rest.lstrip(b" \t\f\n\\").startswith(b";")


def rehearse() -> None:
    """What every program needs and an interpreter makes at its first use: done in a parent, its children have it."""
    exec(_compiled("1;", True)[0], {})


def _finish(left: "ref[ModuleType]") -> bool:
    """What interpreter shutdown does for a program: join threads, call exit hooks, flush, delete what is left.

    `left`: refers weakly to the program's module. False if a stream could not be flushed.
    """
    import atexit
    import gc

    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    flushed = [_flushed(getattr(sys, name, None)) for name in ("stdout", "stderr")]
    sys.modules.pop("__main__", None)
    # A full collection also empties lists of free objects, which are pages of the warm parent's to copy.
    gc.collect(2 if gc.get_objects(2) else 1)
    main = left()
    for name in sorted(vars(main), key=lambda name: not name.startswith("_")) if main else ():
        if name != "__builtins__":
            setattr(main, name, None)
    return all(flushed)


def _flushed(stream: object) -> bool:
    """Flush a standard stream, which the program may have replaced by anything or closed."""
    try:
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()  # type: ignore[attr-defined]
        return True
    except BaseException as error:
        posix.write(2, f"Exception ignored in: {stream!r}\n{uncaught.own_words(error)}\n".encode("utf-8", "replace"))
        return False


def _execute(source: str, echo: bool) -> int:
    """Run the program; its exit status."""
    names = vars(sys.modules["__main__"])
    compiled = False
    try:
        parts = _compiled(source, echo)
        compiled = True
        for part in parts:
            exec(part, names)
    except SystemExit as leaving:
        if leaving.code is None:
            return 0
        if isinstance(leaving.code, int):
            return leaving.code & 255 if -(1 << 63) <= leaving.code < 1 << 63 else 255
        print(leaving.code, file=sys.stderr)
        return 1
    except BaseException as error:
        if isinstance(error, SyntaxError) and not compiled and error.text is None and error.lineno:
            error.text = source.split("\n")[error.lineno - 1]  # unknown to a compiler that was given a tree
        # Without the frame of this function: only the program's own are shown.
        uncaught.show(error, error.__traceback__.tb_next if compiled and error.__traceback__ else None)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _step_aside() -> None:
    """Go on in a second process; this one only waits for it, as the first of a namespace that heeds no signal."""
    import _signal

    child = posix.fork()
    if child == 0:
        return
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    ended = 0
    while ended != child:
        ended, status, used = posix.wait4(-1, 0)
    milliseconds = round(1000 * (used.ru_utime + used.ru_stime))
    posix.write(CHANNEL, status.to_bytes(4, "little") + milliseconds.to_bytes(4, "little"))
    posix._exit(0)


def run(order: Order) -> None:
    """Run the code and end the process."""
    main = sys.modules["__main__"] = type(sys)("__main__")
    left = ref(main)
    main.__dict__.update(__builtins__=builtins, __annotations__={}, __file__=_NAME)
    sys.argv = ["-c"]
    sys.path.insert(0, "")
    posix.write(CHANNEL, b"R")
    if order.apart:
        _step_aside()
    posix.close(CHANNEL)
    uncaught.program = posix.getpid()
    source = order.code.decode("utf-8", "replace").removeprefix("\ufeff")
    import linecache

    linecache.cache[_NAME] = (len(source), None, [f"{line}\n" for line in source.split("\n")], _NAME)
    del main
    status = 0
    try:
        status = _execute(source, order.echo)
        flushed = _finish(left)
        status = status or (0 if flushed else 120)
    except BaseException as error:
        uncaught.show(error, error.__traceback__)
        status = status or 1
    posix._exit(status)


def cold() -> Order:
    """What a bare interpreter that bubblewrap has isolated is to run."""
    sys.path = [p for p in sys.path if not p.endswith(".zip")] + ["/packages"]
    order = read_order()
    assert order is not None
    order.apart = True  # bubblewrap does not tell an exit status from a signal
    limit(order)
    posix.closerange(CHANNEL + 1, 256)
    become_main()
    return order
