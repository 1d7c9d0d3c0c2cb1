"""The warm parent: an interpreter inside the tree that has imported the packages and forks each call.

Runs as the text of `python -c`, after `inside`, whose functions it uses. It has no capability, no environment
but three harmless names, and two descriptors: its control socket and the host's /proc as a path, which every
child closes before a line of the caller's code runs. A child is made by one clone(2): it is the first
process of a new pid namespace, in new user, mount, ipc and uts namespaces and in its parent's network namespace,
which has no device; and it is a child of the *worker*, which watches, kills and reaps it; the parent only forks.
What a child does to its memory is its own copy of it.

Arguments: machine column of the call number, the system call filter in hex, the modules to import.
"""

# isort: off
import atexit, linecache, opcode, resource, traceback  # noqa: E401, F401  what `inside` would import in every child

# isort: on
import contextlib
import ctypes
import errno
import gc
import os
import socket
import sys
from types import ModuleType

from ctpo.sandbox import inside

CONTROL, PROC = 3, 4
READY = b"ready"
_CLONE_NR = (56, 220)
# User, mount, pid, ipc, uts; not net: the parent's own has no device, and the filter allows connected pairs alone.
# A network namespace is a fifth of all that a short call costs.
_NEW = 0x10000000 | 0x20000 | 0x20000000 | 0x8000000 | 0x4000000
_CLONE_PARENT, _CHILD_CLEARTID, _CHILD_SETTID, _SIGCHLD = 0x8000, 0x200000, 0x1000000, 17
_NOSUID_NODEV = 2 | 4
_PDEATHSIG, _SET_DUMPABLE, _SECCOMP, _CAPBSET_DROP, _NO_NEW_PRIVS, _GET_TID_ADDRESS = 1, 4, 22, 24, 38, 40
_USER = 1000

# Keeps the interpreter lock over the call: a child must not have to take it from a parent that is not there.
_libc = ctypes.PyDLL(None, use_errno=True)


class _Filter(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("at", ctypes.c_char_p))


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _check(result: int, doing: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{doing}: {os.strerror(code)}")
    return result


def _thread_id_address() -> ctypes.c_void_p:
    """Where the C library keeps this thread's id, so that a clone behind its back leaves it right."""
    found = ctypes.c_void_p()
    _check(_libc.prctl(_GET_TID_ADDRESS, ctypes.byref(found), 0, 0, 0), "prctl(PR_GET_TID_ADDRESS)")
    return found


def _clone(column: int, thread_id: ctypes.c_void_p) -> int:
    """fork() into new namespaces, as a sibling; 0 in the child. Raises OSError in the parent."""
    flags = ctypes.c_ulong(_NEW | _CLONE_PARENT | _CHILD_SETTID | _CHILD_CLEARTID | _SIGCHLD)
    last = (thread_id, None) if column == 0 else (None, thread_id)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = _libc.syscall(ctypes.c_long(_CLONE_NR[column]), flags, None, None, *last)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        code = ctypes.get_errno()
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        ctypes.set_errno(code)
    return _check(pid, "clone(2) into new namespaces")


def _write(path: str, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY, dir_fd=PROC)
    os.write(fd, text)
    os.close(fd)


def _isolate(filter_program: _Filter, last_capability: int) -> inside.Order:
    """In the child, with all capabilities over its new namespaces: use them, then lose them for good."""
    _check(_libc.prctl(_PDEATHSIG, 9, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    identity = b"%d %d 1" % (_USER, _USER)
    for path, text in (("self/setgroups", b"deny"), ("self/uid_map", identity), ("self/gid_map", identity)):
        _write(path, text)
    # The filter already denies new namespaces; where /proc/sys is writable, the kernel is told as well.
    with contextlib.suppress(OSError):
        _write("sys/user/max_user_namespaces", b"0")
    order = inside.read_order()
    if order is None:  # the worker died before the tie to it was made
        os._exit(1)
    _write("self/oom_score_adj", b"1000")
    options = f"mode=0755,size={order.file_mb}m,nr_inodes={order.inodes}"
    flags = ctypes.c_ulong(_NOSUID_NODEV)
    _check(_libc.mount(b"scratch", b"/tmp", b"tmpfs", flags, options.encode()), "mount(tmpfs)")
    os.chdir("/tmp")
    # Nothing shared is left: not the process group (kill(0, ...) reaches all of it, in any namespace), not the
    # open file of standard input, whose flags and locks outlive a process.
    os.setsid()
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.closerange(inside.CHANNEL + 1, 256)
    inside.limit(order)
    for capability in range(last_capability + 1):
        _check(_libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0), "prctl(PR_CAPBSET_DROP)")
    none = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(ctypes.byref(_Header(0x20080522, 0)), ctypes.byref(none)), "capset")
    _check(_libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")
    _check(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    _check(_libc.prctl(_SECCOMP, 2, ctypes.byref(filter_program), 0, 0), "prctl(PR_SET_SECCOMP)")
    return order


def _write_holding_the_lock(fd: int, data: memoryview) -> int:
    """write(2) that no other thread gets in between: `print` writes a line and its end apart."""
    return int(_libc.write(fd, bytes(data), ctypes.c_size_t(len(data))))


def _fresh_randomness() -> None:
    """What a new process would draw anew: `random` reseeds itself after a fork, these do not."""
    mtrand = sys.modules.get("numpy.random.mtrand")
    if mtrand:
        mtrand._rand.seed(int.from_bytes(os.urandom(4), "little"))
    sympy_random = sys.modules.get("sympy.core.random")
    if sympy_random:
        sympy_random.seed(None)


def _child(handles: list[int], filter_program: _Filter, last_capability: int) -> inside.Order:
    """`handles`: channel, stdout, stderr; all above the numbers that they are to get."""
    try:
        for fd, target in zip(handles[1:], (1, 2), strict=True):
            os.dup2(fd, target)
        os.dup2(handles[0], inside.CHANNEL)
        order = _isolate(filter_program, last_capability)
        _fresh_randomness()
        gc.enable()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode())
        os._exit(127)
    return order


def _import(names: list[str]) -> None:
    for name in names:
        __import__(name)
    if "sympy" not in sys.modules:
        return
    import sympy

    _use(sympy)


def _use(sympy: ModuleType) -> None:
    """What programs ask of sympy, once: a first use imports more, fills tables and sympy's cache of pure results."""
    x, y = sympy.symbols("x y")
    k, n = sympy.symbols("k n", integer=True, positive=True)
    for polynomial in (2 * x - 3, x**2 - 5 * x + 6, x**2 - 3, x**3 - 6 * x**2 + 11 * x - 6, x**4 - 5 * x**2 + 4):
        str(sympy.solve(polynomial, x))
    sympy.solve([x + y - 3, x - y - 1], [x, y])
    sympy.solve(sympy.Eq(x**2 + 1, 5), x)
    sympy.solveset(x**2 - 4, x, sympy.S.Reals)
    sympy.simplify(sympy.factor(x**2 - 1) / (x - 1) + sympy.sqrt(8))
    sympy.expand((x + y) ** 3)
    sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2)
    sympy.diff(sympy.sin(x) * sympy.exp(x), x)
    sympy.integrate(x**2, (x, 0, 1))
    sympy.limit(sympy.sin(x) / x, x, 0)
    sympy.summation(k, (k, 1, n))
    sympy.Poly(x**3 - 2, x).nroots()
    sympy.N(sympy.pi + sympy.sqrt(2) + sympy.log(2), 20)
    sympy.nsimplify(0.75), sympy.Rational(3, 4) + sympy.binomial(10, 3), sympy.factorial(10)
    sympy.factorint(2024), sympy.divisors(60), sympy.totient(36), sympy.isprime(97), sympy.gcd(12, 18), sympy.lcm(4, 6)
    str(sympy.Matrix([[1, 2], [3, 4]]).inv()), sympy.Matrix([[1, 2], [3, 4]]).det()


def main() -> inside.Order:
    """Import, tell the worker, fork a child for every three descriptors that come; end with the worker.

    Returns in each child, with what it is to run: so few frames of ours are below the program's.
    """
    column, program, names = int(sys.argv[1]), bytes.fromhex(sys.argv[2]), sys.argv[3].split()
    sys.path = [p for p in sys.path if not p.endswith(".zip")] + ["/packages"]
    control = socket.socket(fileno=CONTROL)
    try:
        _import(names)
        inside.become_main()
        inside.write_holding_the_lock = _write_holding_the_lock
        inside.rehearse()
        thread_id = _thread_id_address()
        with open(os.open("sys/kernel/cap_last_cap", os.O_RDONLY, dir_fd=PROC)) as file:
            last_capability = int(file.read())
        task = os.open("self/task", os.O_RDONLY, dir_fd=PROC)
        threads = len(os.listdir(task))
        os.close(task)
        if threads != 1:
            raise OSError(errno.EBUSY, f"the warm parent has {threads} threads, a fork would lose all but one")
    except BaseException as error:
        control.send(b"failed: " + f"{type(error).__name__}: {error}".encode())
        sys.exit()
    filter_program = _Filter(len(program) // 8, program)
    gc.collect()
    gc.disable()
    gc.freeze()  # or the first collection of every child would copy all of these pages
    control.send(READY)
    while True:
        _, handles, _, _ = socket.recv_fds(control, 1, 3)
        if len(handles) != 3:
            sys.exit()
        try:
            answer = b"%d" % _clone(column, thread_id)
        except OSError as error:
            answer = f"{error}".encode()
        if answer == b"0":
            control.detach()  # closed by now, and its number perhaps the program's
            return _child(handles, filter_program, last_capability)
        for fd in handles:
            os.close(fd)
        control.send(answer)
