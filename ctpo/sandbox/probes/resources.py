"""Programs that take all there is: processes, memory, files, time, output."""

from __future__ import annotations

from ctpo.sandbox.probes.probe import Probe

_COUNTED_BOMB = """
import os, time
children = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(60)
        children += 1
    except OSError:
        break
print("BREACH" if children > 16 else "bounded", children)
"""
_CLONE_BOMB = """
import ctypes, os
c = ctypes.CDLL(None)
number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
made = 0
for i in range(200):
    pid = c.syscall(number, 17, 0, 0, 0, 0)  # clone without the C library
    if pid == 0:
        c.pause(); os._exit(0)
    made += pid > 0
print("BREACH" if made > 16 else "bounded", made)
"""
_MANY = """
import os, time
for i in range(12):
    if os.fork() == 0:
        x = bytearray(64 << 20)
        for j in range(0, len(x), 4096): x[j] = 1
        time.sleep(60)
os.wait()  # until the first is killed
"""
_SCRATCH = """
n = 0
try:
    for i in range(100):
        with open(f"/tmp/{i}", "wb") as f: n += f.write(bytes(1 << 20))
except OSError as e:
    print(e)
print("BREACH" if n > 8 << 20 else "bounded")
"""
_INODES = """
n = 0
try:
    while True:
        open(f"/tmp/{n}", "w").close(); n += 1
except OSError as e:
    print("BREACH" if n > 256 else "bounded", e)
"""
_DIRECTORIES = """
import os
n = 0
try:
    while True:
        os.mkdir("d"); os.chdir("d"); n += 1
except OSError as e:
    print("BREACH" if n > 256 else "bounded", e)
"""
_THREADS = """
import threading, time
n = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); n += 1
except RuntimeError:
    print("BREACH" if n > 16 else "bounded")
"""
_PIPES = """
import fcntl, os
n = 0
try:
    while True:
        os.pipe(); n += 2
except OSError as e:
    print("BREACH" if n > 256 else e)
"""
_DEAF = """
import signal, time
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
time.sleep(100)
"""
_BACKGROUND = """
import os, time
for i in range(8):
    if os.fork() == 0:
        while True: pass
time.sleep(100)
"""
_SYMPY = "from sympy import *\nx = symbols('x')\nwhile True: integrate(sin(x**3) * exp(x**2) / log(x + 2), x)"

RESOURCES = (
    Probe("fork bomb", _COUNTED_BOMB, expect="bounded"),
    Probe(
        "fork bomb that never stops",
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
        ("timeout", "memory"),  # on a busy machine its processes may meet the memory limit first
    ),
    Probe("clone bomb behind the C library", _CLONE_BOMB, expect="bounded"),
    Probe("thread bomb", _THREADS, expect="bounded"),
    Probe(
        "shell bomb",
        "import subprocess\ntry: subprocess.run(['sh', '-c', ':(){ :|:& };:']); print('BREACH')\n"
        "except OSError as e: print(e)",
        expect="No such file",
    ),
    Probe("spawn bomb", "import os\nos.posix_spawn('/bin/sh', ['sh'], {})", ("error",)),
    Probe("memory bomb", "x = []\nwhile True: x.append(bytearray(b'x' * (16 << 20)))", ("memory",)),
    Probe("memory of many processes", _MANY, ("memory",)),
    Probe(
        "shared anonymous memory",
        "import mmap\nm = mmap.mmap(-1, 700 << 20)\nfor j in range(0, len(m), 4096): m[j] = 1\nprint('BREACH')",
        ("memory",),
    ),
    Probe("memory-backed file", "import os\nos.memfd_create('x'); print('BREACH')", ("error",)),
    Probe("shared-memory file system", _SCRATCH.replace("/tmp/", "/dev/shm/"), expect="bounded"),
    Probe("memory of one allocation", "x = bytearray(10**12); print('BREACH')", ("memory",)),
    Probe("numpy allocation", "import numpy\nx = numpy.ones(10**10); print('BREACH')", ("memory", "error")),
    Probe("locked memory", "import ctypes\nprint('BREACH' if ctypes.CDLL(None).mlockall(3) == 0 else 'refused')"),
    Probe("file bomb", "open('/tmp/x', 'wb').write(bytes(64 << 20))\nprint('BREACH')", ("error",)),
    Probe("scratch filled by many files", _SCRATCH, expect="bounded"),
    Probe(
        "sparse file",
        "f = open('/tmp/x', 'wb'); f.seek(10 << 30); f.write(b'x'); f.flush(); print('BREACH')",
        ("error",),
    ),
    Probe("inodes", _INODES, expect="bounded", warm_only=True),
    Probe("deep directories", _DIRECTORIES, expect="bounded", warm_only=True),
    Probe("descriptors", _PIPES, expect="Too many open files"),
    Probe("endless output", "while True: print('x' * 1000)", ("output",)),
    Probe("megabytes to stderr", "import sys\nwhile True: sys.stderr.write('x' * 4096)", ("output",)),
    Probe("binary output", "import os, sys\nwhile True: sys.stdout.buffer.write(os.urandom(4096))", ("output",)),
    Probe(
        "NUL, ANSI and half a surrogate", "import os\nos.write(1, b'\\x00\\x1b[2J\\xed\\xa0\\x80 done')", expect="done"
    ),
    Probe("endless loop", "while True: pass", ("timeout",)),
    Probe("sleep", "import time; time.sleep(100)", ("timeout",)),
    Probe("sleep that ignores every signal", _DEAF, ("timeout",)),
    Probe("busy children", _BACKGROUND, ("timeout",)),
    Probe(
        "output after closing the standard streams",
        "import os, time\nos.close(1); os.close(2)\ntime.sleep(100)",
        ("timeout",),
    ),
    Probe("huge integer", "10 ** 10 ** 9", ("timeout", "memory")),
    Probe("regular expression that explodes", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')", ("timeout",)),
    Probe("busy C code", "sum(range(10**12))", ("timeout",)),
    Probe("sympy that never ends", _SYMPY, ("timeout",)),
    Probe("endless recursion", "def f(): f()\nf()", ("error",)),
    Probe("crash in C", "import ctypes; ctypes.string_at(0)", ("killed",)),
    Probe("abort", "import os; os.abort()", ("killed",)),
)
