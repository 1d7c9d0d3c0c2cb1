"""Programs that poison their interpreter: the next call, forked from the same parent, must see none of it."""

from __future__ import annotations

from ctpo.sandbox.probes.probe import Probe

_MEMORY = """
import ctypes, sys
import numpy
for thing in (len, 42, (), "abc", numpy.pi, numpy.__version__, sys.modules):
    ctypes.memset(id(thing) + 16, 0x41, 8)
"""
_NUMPY = """
import numpy, sympy, math
numpy.pi = 3; math.pi = 3
sympy.sqrt = sympy.Symbol = sympy.core.numbers.Integer.__add__ = None
numpy.seterr(all="raise"); numpy.random.seed(0)
print("poisoned")
"""
_MODULES = """
import sys, types
for name in list(sys.modules):
    if name.partition(".")[0] in ("sympy", "numpy", "os", "math", "json"): sys.modules[name] = types.ModuleType(name)
sys.modules["left"] = sys
sys.path[:] = []; sys.meta_path[:] = []; sys.path_hooks[:] = []
"""
_BUILTINS = """
import builtins, sys, os
builtins.print = builtins.len = builtins.open = builtins.__import__ = builtins.compile = builtins.exec = None
sys.stdout = sys.stderr = sys.displayhook = sys.excepthook = None
os.environ["LEFT"] = "x"
"""
_HOOKS = """
import atexit, faulthandler, gc, os, signal, sys, threading
atexit.register(lambda: 1 / 0)
gc.callbacks.append(lambda *_: os._exit(9)); gc.set_debug(gc.DEBUG_SAVEALL); gc.set_threshold(1); gc.unfreeze()
sys.setprofile(lambda *_: None); sys.settrace(lambda *_: None); threading.settrace(lambda *_: None)
sys.addaudithook(lambda *_: None)
os.register_at_fork(before=lambda: os._exit(9), after_in_child=lambda: os._exit(9))
sys.setrecursionlimit(50); sys.setswitchinterval(100)
faulthandler.enable()
"""
_SIGNALS = """
import os, signal
for s in range(1, 65):
    try: signal.signal(s, lambda *_: os._exit(9))
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
signal.set_wakeup_fd(-1)
"""
_CACHE = """
import sympy
from sympy.core.cache import clear_cache
x = sympy.Symbol("x")
sympy.Symbol.__new__ = None
sympy.core.add.Add.flatten = classmethod(lambda cls, seq: ([sympy.Integer(666)], [], None))
"""
_PARENT = """
import gc, socket
found = [o for o in gc.get_objects() if isinstance(o, socket.socket)]
for o in found:
    try: o.send(b"forged"); print("BREACH")
    except OSError: pass
print("nobody listens")
"""
_FRAMES = """
import sys
frame = sys._getframe()
while frame.f_back: frame = frame.f_back
for name in list(frame.f_globals): frame.f_globals[name] = None
"""
_CODE_PAGES = """
import ctypes, mmap
c = ctypes.CDLL(None, use_errno=True)
page = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value & -4096
c.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
if c.mprotect(page, 4096, 7) == 0: ctypes.memset(page, 0xCC, 4096)
ctypes.pythonapi.Py_GetVersion()
"""
_MALLOC = "import ctypes\nc = ctypes.CDLL(None)\nc.free.argtypes = (ctypes.c_void_p,)\nc.free(id(len)); c.free(0x1234)"

_STANDARD_INPUT = """
import fcntl, os
flags = fcntl.fcntl(0, fcntl.F_GETFL)
if flags & os.O_NONBLOCK: print("BREACH: another program's flag")
fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_NONBLOCK)
"""
_LOCKS = """
import fcntl, os
for path in ("/", "/packages", "/packages/sympy/__init__.py", "/usr/bin/python3", "/dev/null"):
    fd = os.open(path, os.O_RDONLY)
    for command in (fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_GETLK, 36, 37, 38, fcntl.F_SETLEASE, fcntl.F_NOTIFY):
        try: fcntl.fcntl(fd, command, bytes(32) if command < 100 else 0); print("BREACH", path, command)
        except OSError: pass
    for operation in (fcntl.LOCK_SH, fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN):
        try: fcntl.flock(fd, operation); print("BREACH", path, operation)
        except OSError: pass
print("none")
"""
_TIMES = """
import os
for path in ("/", "/tmp/..", "/usr/bin/python3", "/packages/sympy", "/dev", "/dev/null", "/dev/zero", "/dev/urandom"):
    before = os.stat(path)
    for change in (lambda: os.utime(path), lambda: os.utime(path, (1, 1)), lambda: os.chmod(path, 0o777),
                   lambda: open(path, "rb").read(9), lambda: open(path, "wb", 0).write(b"x")):
        try: change()
        except OSError: pass
    if os.stat(path) != before: print("BREACH", path)
print("none")
"""

POISON = (
    Probe("locks, leases and watches on files that calls share", _LOCKS, expect="none"),
    Probe("times and modes of files and devices that calls share", _TIMES, expect="none", warm_only=True),
    Probe("flags of standard input", _STANDARD_INPUT),
    Probe("flags of standard input, again", _STANDARD_INPUT),
    Probe("poisoned memory of objects and modules", _MEMORY, ("ok", "error", "killed", "memory")),
    Probe("poisoned packages", _NUMPY, ("ok", "error"), ""),
    Probe("filled and emptied sys.modules", _MODULES, ("ok", "error")),
    Probe("patched builtins", _BUILTINS, ("ok", "error")),
    Probe("hooks at exit, fork, collection and call", _HOOKS, ("ok", "error", "killed")),
    Probe("signal handlers, masks and timers", _SIGNALS, ("ok", "error")),
    Probe("poisoned caches of sympy", _CACHE, ("ok", "error")),
    Probe("sockets of the parent", _PARENT, expect="nobody listens"),
    Probe("frames of the parent", _FRAMES, ("ok", "error")),
    Probe("overwritten machine code", _CODE_PAGES, ("killed", "ok", "error")),
    Probe("broken heap", _MALLOC, ("killed",)),
    Probe(
        "os._exit in a thread", "import os, threading\nthreading.Thread(target=os._exit, args=(5,)).start()", ("error",)
    ),
    Probe(
        "exec of another program",
        "import os\nos.execv('/usr/bin/python3', ['python3', '-I', '-S', '-c', 'print(6 * 7)'])",
        ("ok", "killed", "error"),
    ),
)
