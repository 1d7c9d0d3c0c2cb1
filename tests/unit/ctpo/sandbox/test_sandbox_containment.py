"""Hostile programs: each is contained, ends for the stated reason, and the next call is as good as ever.

A program prints BREACH as soon as it gets anywhere it must not.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctpo.sandbox.probes import PROBES, Probe

SECRET = "top-secret-of-another-run"

RESOURCES = (
    Probe(
        "fork bomb that never stops",
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
        ("timeout", "memory"),  # on a busy machine its processes may meet the memory limit first
    ),
    Probe(
        "thread bomb",
        "import threading, time\nn = 0\ntry:\n"
        "  while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); n += 1\n"
        "except RuntimeError: print('BREACH' if n > 16 else 'bounded')",
        expect="bounded",
    ),
    Probe(
        "program started by exec",
        "import os, sys\ntry: os.execv('/bin/sh', ['sh', '-c', 'echo BREACH'])\nexcept OSError as e: print(e)",
        expect="No such file",
    ),
    Probe(
        "memory of many processes",
        "import os, time\nfor i in range(12):\n  if os.fork() == 0:\n    x = bytearray(64 << 20)\n"
        "    for j in range(0, len(x), 4096): x[j] = 1\n    time.sleep(60)\n"
        "time.sleep(60)\nprint('BREACH')",
        ("memory",),
    ),
    Probe(
        "shared anonymous memory",
        "import mmap\nm = mmap.mmap(-1, 700 << 20)\nfor j in range(0, len(m), 4096): m[j] = 1\nprint('BREACH')",
        ("memory",),
    ),
    Probe(
        "memory-backed file",
        "import os\ntry: os.memfd_create('x'); print('BREACH')\nexcept OSError as e: print(e)",
    ),
    Probe(
        "scratch filled by many files",
        "n = 0\ntry:\n  for i in range(100):\n"
        "    with open(f'/tmp/{i}', 'wb') as f: n += f.write(bytes(1 << 20))\n"
        "except OSError as e: print(e)\nprint('BREACH' if n > 8 << 20 else 'bounded')",
        expect="bounded",
    ),
    Probe(
        "shared-memory file system",
        "try: open('/dev/shm/x', 'w'); print('BREACH')\nexcept OSError as e: print(e)",
    ),
    Probe(
        "sparse file",
        "try:\n  f = open('/tmp/x', 'wb'); f.seek(10 << 30); f.write(b'x'); f.flush(); print('BREACH')\n"
        "except OSError as e: print(e)",
        expect="File too large",
    ),
    Probe(
        "inodes",
        "n = 0\nwhile True:\n  open(f'/tmp/{n}', 'w').close(); n += 1",
        ("timeout", "memory", "error"),
    ),
    Probe("deep directories", "import os\nfor i in range(9999):\n  os.mkdir('d'); os.chdir('d')\nprint('deep')"),
    Probe(
        "descriptors",
        "import os\nn = 0\ntry:\n  while True: os.pipe(); n += 2\n"
        "except OSError as e: print('BREACH' if n > 256 else e)",
        expect="Too many open files",
    ),
    Probe("sleep", "import time; time.sleep(100)", ("timeout",)),
    Probe(
        "sleep that ignores every signal",
        "import signal, time\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\n"
        "time.sleep(100)",
        ("timeout",),
    ),
    Probe(
        "loop that ignores the signal of the CPU limit",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        ("timeout",),
    ),
    Probe("huge integer", "10 ** 10 ** 9", ("timeout", "memory")),
    Probe("regular expression that explodes", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')", ("timeout",)),
    Probe("C stack overflow", "import ctypes; ctypes.string_at(0)", ("killed",)),
    Probe("endless recursion", "def f(): f()\nf()", ("error",)),
    Probe("megabytes to stderr", "import sys\nwhile True: sys.stderr.write('x' * 4096)", ("output",)),
    Probe(
        "output after closing the standard streams",
        "import os, time\nos.close(1); os.close(2)\ntime.sleep(100)",
        ("timeout",),
    ),
)

ESCAPES = (
    Probe(
        "kill everything",
        "import os, signal\nfor pid in (os.getppid(), 1):\n  try: os.kill(pid, 9)\n  except OSError: pass\n"
        "print('still here')",
        ("ok", "killed"),
    ),
    Probe(
        "kill all but oneself",
        "import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\nprint('still here')",
        ("ok", "killed"),
    ),
    Probe(
        "daemon",
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
        "    for i in (0, 1, 2): os.close(i)\n"
        "    time.sleep(777)\n  os._exit(0)\nprint('left')",
        expect="left",
    ),
    Probe(
        "daemon that keeps the streams open",
        "import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(777)\nprint('left')",
        expect="left",
    ),
    Probe(
        "symbolic links",
        "import os\n"
        "for i, p in enumerate(('/etc/shadow', '/proc/1/root/etc/passwd',"
        " '../../../../etc/passwd', '/home')):\n"
        "  os.symlink(p, f's{i}')\n  try: os.stat(f's{i}'); print('BREACH', p)\n  except OSError: pass",
    ),
    Probe(
        "hard links to the read-only tree",
        "import os\ntry: os.link('/usr/bin/python3', '/tmp/p'); print('BREACH')\nexcept OSError as e: print(e)",
    ),
    Probe(
        "device nodes",
        "import os, stat\nfor kind in (stat.S_IFCHR, stat.S_IFBLK):\n"
        "  try: os.mknod('/tmp/d', kind | 0o666, os.makedev(8, 0)); print('BREACH')\n  except OSError: pass",
    ),
    Probe(
        "capabilities and user ids",
        "import os, ctypes\nprint(os.getresuid(), os.getgroups())\n"
        "for f in (os.setuid, os.setgid):\n  try: f(0); print('BREACH')\n  except OSError: pass\n"
        "c = ctypes.CDLL(None)\n"
        "print('BREACH' if any(c.prctl(23, i, 0, 0, 0) == 1 for i in range(41)) else 'no capability')\n"
        "print('no new privileges', c.prctl(39, 0, 0, 0, 0), 'filter', c.prctl(21, 0, 0, 0, 0))",
        expect="no new privileges 1 filter 2",
    ),
    Probe(
        "new namespaces by every road",
        "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\n"
        "for flag in (0x20000, 0x10000000, 0x40000000, 0x20000000):\n"
        "  if c.unshare(flag) == 0: print('BREACH unshare', hex(flag))\n"
        "  pid = c.syscall(56 if os.uname().machine == 'x86_64' else 220, flag | 17, 0, 0, 0, 0)\n"
        "  if pid == 0: os._exit(0)\n"
        "  if pid > 0: print('BREACH clone', hex(flag))\n",
    ),
    Probe(
        "raw, packet and netlink sockets",
        "import socket\nfor f, t in ((2, 3), (17, 3), (16, 3), (38, 5), (40, 1), (10, 2)):\n"
        "  try: socket.socket(f, t); print('BREACH', f)\n  except OSError: pass",
    ),
    Probe(
        "name of the host",
        f"import os\nprint('BREACH' if os.uname().nodename == {os.uname().nodename!r} else 'hidden')",
    ),
    Probe(
        "forged answers on every descriptor",
        "import os, struct\nanswer = struct.pack('<16sdQQ', b'ok', 0.0, 6, 0) + b'forged'\n"
        "for fd in range(3, 256):\n  try: os.write(fd, answer); print('BREACH', fd)\n  except OSError: pass",
    ),
    Probe(
        "terminal input",
        "import fcntl\ntry: fcntl.ioctl(0, 0x5412, b'x'); print('BREACH')\nexcept OSError as e: print(e)",
        expect="not permitted",
    ),
    Probe("exit without ado", "import os\nprint('hi', flush=True); os._exit(7)", ("error",), "hi"),
    Probe(
        "poisoned interpreter",
        "import builtins, sys, atexit\nbuiltins.print = None\nsys.path[:] = []\nsys.modules['math'] = None\n"
        "atexit.register(lambda: 1 / 0)",
        ("ok", "error"),
    ),
)


@pytest.mark.parametrize("probe", [*PROBES, *RESOURCES, *ESCAPES], ids=lambda p: p.name)
def test_a_hostile_program_is_contained_and_the_next_call_works(probe: Probe, run) -> None:
    result = run(probe.code)
    assert probe.failure(result) == ""
    assert result.duration_s < 10.0, "killed long after its limit"
    after = run("import os, math\n(6 * 7, os.listdir('/tmp'))")
    assert (after.stdout, after.stderr, after.reason) == ("(42, [])\n", "", "ok")


def test_no_program_reads_a_file_or_the_environment_of_its_host(run, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "secret.txt"
    file.write_text(SECRET)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    code = f"""
import glob, os
os.symlink({str(file)!r}, "link")
for path in ({str(file)!r}, "link", "/proc/self/root" + {str(file)!r}, *glob.glob("/proc/*/environ")):
    try:
        print(open(path, "rb").read())
    except OSError as e:
        print(e)
print(dict(os.environ))
"""
    result = run(code)
    assert result.reason == "ok"
    assert SECRET not in result.stdout + result.stderr


@pytest.fixture
def listeners() -> Iterator[tuple[int, str, list[str]]]:
    """A TCP port on loopback and an abstract Unix socket of this process, and who connected."""
    visits: list[str] = []
    name = f"ctpo-sandbox-test-{os.getpid()}"
    tcp, local = socket.socket(), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    local.bind("\0" + name)

    def accept(server: socket.socket) -> None:
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return
            visits.append(str(server))

    for server in (tcp, local):
        server.listen()
        threading.Thread(target=accept, args=(server,), daemon=True).start()
    yield tcp.getsockname()[1], name, visits
    for server in (tcp, local):
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_no_program_reaches_a_listener_of_its_host(run, listeners: tuple[int, str, list[str]]) -> None:
    port, name, visits = listeners
    probe = (
        "import socket\nfor f, a in ((2, ('127.0.0.1', {})), (1, '\\0{}')):\n"
        "  try: socket.socket(f).connect(a); print('BREACH')\n  except OSError as e: print(e)"
    )
    # The same program outside does reach both, so the listeners are there to be reached.
    exec(probe.format(port, name), {"print": lambda *_: None})
    _wait_for(lambda: len(visits) == 2)
    result = run(probe.format(port, name))
    assert result.reason == "ok"
    assert "BREACH" not in result.stdout
    time.sleep(0.05)
    assert len(visits) == 2


def test_nothing_a_program_wrote_is_there_for_the_next(run) -> None:
    run("open('/tmp/left', 'w').write('x')\nimport os, sys\nos.environ['LEFT'] = 'x'\nsys.modules['left'] = sys")
    result = run("import os, sys\n(os.listdir('/tmp'), 'LEFT' in os.environ, 'left' in sys.modules)")
    assert result.stdout == "([], False, False)\n"


def test_a_program_that_kills_itself_is_told_from_one_that_was_stopped(run) -> None:
    assert run(f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})").reason == "killed"


def _wait_for(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
