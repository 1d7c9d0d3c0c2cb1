"""Runs inside the sandbox, as the text of `python -c`: sets the process's limits, runs the code on stdin.

It must not import anything that is not already in a bare interpreter: every millisecond here is paid per
call. Nothing here protects anything, save that the limits are set before the first line of the caller's
code. Arguments: cpu seconds, memory MiB, processes, file MiB. Exit status: 0, the code's own, 1 for an
exception, or `OUT_OF_MEMORY`. One byte on descriptor 3 tells the supervisor that isolation and interpreter
are up.
"""

import posix
import sys
from types import CodeType, TracebackType

OUT_OF_MEMORY = 250
_STARTED_FD = 3
_PyCF_ONLY_AST = 0x400
_NAME = "<code>"


def _limit(cpu_s: int, memory_mb: int, processes: int, file_mb: int) -> None:
    import resource

    mib = 1 << 20
    wanted = (
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
        # Private memory; and address space, which shared mappings count in too, with room for libraries.
        (resource.RLIMIT_DATA, memory_mb * mib, memory_mb * mib),
        (resource.RLIMIT_AS, (2 * memory_mb + 256) * mib, (2 * memory_mb + 256) * mib),
        (resource.RLIMIT_FSIZE, file_mb * mib, file_mb * mib),
        (resource.RLIMIT_NPROC, processes, processes),
        (resource.RLIMIT_NOFILE, 256, 256),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_SIGPENDING, 128, 128),
    )
    for which, soft, hard in wanted:
        present = resource.getrlimit(which)[1]
        if present != resource.RLIM_INFINITY:
            soft, hard = min(soft, present), min(hard, present)
        resource.setrlimit(which, (soft, hard))


def _read_code() -> str:
    parts = []
    while part := posix.read(0, 1 << 20):
        parts.append(part)
    posix.dup2(posix.open("/dev/null", posix.O_RDONLY), 0)
    return b"".join(parts).decode("utf-8", "replace")


def _compiled(source: str) -> list[CodeType]:
    """The code; a last bare expression apart, to be echoed as in a notebook (`;` silences it)."""
    import _ast

    tree = compile(source, _NAME, "exec", _PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(tree, _ast.Module)
    last = []
    if tree.body and isinstance(tree.body[-1], _ast.Expr) and not source.rstrip().endswith(";"):
        last = [compile(_ast.Interactive(body=[tree.body.pop()]), _NAME, "single", dont_inherit=True)]
    return [compile(tree, _NAME, "exec", dont_inherit=True), *last]


def _show(error: BaseException, frames: TracebackType | None, source: str) -> None:
    import linecache
    import traceback

    linecache.cache[_NAME] = (len(source), None, [f"{line}\n" for line in source.split("\n")], _NAME)
    traceback.print_exception(type(error), error, frames)


def _finish() -> None:
    """What interpreter shutdown would do for the program: join its threads, call its exit hooks, flush."""
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    import atexit

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _run(source: str) -> int:
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    try:
        parts = _compiled(source)
    except BaseException as error:
        _show(error, None, source)
        return 1
    try:
        for part in parts:
            exec(part, main.__dict__)
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


def _main() -> None:
    import builtins

    _limit(*map(int, sys.argv[1:5]))
    sys.argv = [""]
    sys.path = [p for p in sys.path if not p.endswith(".zip")] + ["/packages"]
    for name, value in (("HOME", "/tmp"), ("OPENBLAS_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1")):
        posix.environ[name.encode()] = value.encode()
        posix.putenv(name, value)
    for name in ("exit", "quit"):
        setattr(builtins, name, sys.exit)
    source = _read_code()
    posix.write(_STARTED_FD, b"R")
    posix.closerange(_STARTED_FD, 256)
    status = _run(source)
    try:
        _finish()
    except BaseException:
        status = status or 1
    posix._exit(status)


if __name__ == "__main__":
    _main()
