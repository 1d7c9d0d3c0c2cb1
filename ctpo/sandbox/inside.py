"""Runs inside the sandbox: sets the process's limits, runs the code that comes over the channel.

Given to the interpreter as text, so that no file of this project is visible inside; it must not import
anything that is not already in a bare interpreter, because every millisecond here is paid per call. Nothing
here protects anything, save that the limits are set before the first line of the caller's code.

The channel is one end of a socket pair: in comes a request (see `protocol.pack_order`); out goes one byte
when isolation and interpreter are up. The channel is closed before the caller's code begins, which can so
forge nothing; the end is told by the exit status: 0, the code's own, 1 for an exception, or `OUT_OF_MEMORY`.
"""

import builtins
import posix
import sys
from types import CodeType, TracebackType

OUT_OF_MEMORY = 250
CHANNEL = 3
_PyCF_ONLY_AST = 0x400
_NAME = "<code>"


class Order:
    """A request as it comes over the channel; integers in this order, a newline, the code."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.code = raw.partition(b"\n")
        numbers = [int(number) for number in head.split()]
        self.cpu_s, self.data_mb, self.address_mb, self.processes, self.file_mb, self.inodes = numbers[:6]
        self.echo = bool(numbers[6])


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
        (resource.RLIMIT_NPROC, order.processes),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 128),
    ):
        present = resource.getrlimit(which)[1]
        value = value if present == resource.RLIM_INFINITY else min(value, present)
        resource.setrlimit(which, (value, value))


def _compiled(source: str, echo: bool) -> list[CodeType]:
    """The code; a last bare expression apart, to be echoed as in a notebook (`;` silences it)."""
    import _ast

    tree = compile(source, _NAME, "exec", _PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(tree, _ast.Module)
    last = []
    if echo and tree.body and isinstance(tree.body[-1], _ast.Expr) and not source.rstrip().endswith(";"):
        last = [compile(_ast.Interactive(body=[tree.body.pop()]), _NAME, "single", dont_inherit=True)]
    return [compile(tree, _NAME, "exec", dont_inherit=True), *last]


def rehearse() -> None:
    """What every program needs and an interpreter makes at its first use: done in a parent, its children have it."""
    exec(_compiled("1;", True)[0], {})


def _show(error: BaseException, frames: TracebackType | None, source: str) -> None:
    import linecache
    import traceback

    linecache.cache[_NAME] = (len(source), None, [f"{line}\n" for line in source.split("\n")], _NAME)
    traceback.print_exception(type(error), error, frames)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _finish() -> None:
    """What interpreter shutdown would do for the program: join its threads, call its exit hooks, flush."""
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    import atexit

    atexit._run_exitfuncs()
    _flush()


def _run(source: str, echo: bool, names: dict[str, object]) -> int:
    try:
        parts = _compiled(source, echo)
    except BaseException as error:
        _show(error, None, source)
        return 1
    try:
        for part in parts:
            exec(part, names)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return (leaving.code or 0) & 255
        print(leaving.code, file=sys.stderr)
        return 1
    except BaseException as error:
        status = OUT_OF_MEMORY if isinstance(error, MemoryError) else 1
        frames = error.__traceback__.tb_next if error.__traceback__ else None
        try:
            _show(error, frames, source)
        except BaseException:
            posix.write(2, type(error).__name__.encode())
        return status
    return 0


def _guarded(step: object, status: int) -> int:
    try:
        step()  # type: ignore[operator]
    except BaseException:
        return status or 1
    return status


def run(order: Order) -> None:
    """Run the code and end the process."""
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    sys.argv = [""]
    for name in ("exit", "quit"):
        setattr(builtins, name, sys.exit)
    posix.write(CHANNEL, b"R")
    posix.close(CHANNEL)
    status = _run(order.code.decode("utf-8", "replace"), order.echo, main.__dict__)
    posix._exit(_guarded(_finish, status))


def cold() -> None:
    """Entry point of a bare interpreter that bubblewrap has isolated."""
    sys.path = [p for p in sys.path if not p.endswith(".zip")] + ["/packages"]
    order = read_order()
    assert order is not None
    limit(order)
    posix.closerange(CHANNEL + 1, 256)
    run(order)
