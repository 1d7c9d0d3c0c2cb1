"""Programs that look for a way out: files, secrets, network, other processes, the supervisor."""

from __future__ import annotations

import os

from ctpo.sandbox.probes.probe import Probe
from ctpo.sandbox.protocol import Answer

_NETWORK = """
import socket
for family, address in ((socket.AF_INET, ("127.0.0.1", 22)), (socket.AF_INET, ("169.254.169.254", 80)),
                        (socket.AF_INET6, ("::1", 22)), (getattr(socket, "AF_VSOCK", 40), (2, 1))):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            s = socket.socket(family, kind); s.settimeout(1); s.connect(address); print("BREACH", address)
        except OSError as e:
            print(e)
"""
_RAW = """
import socket
for f, t in ((2, 3), (17, 3), (16, 3), (38, 5), (40, 1), (10, 2), (31, 3), (29, 3)):
    try: socket.socket(f, t); print("BREACH", f)
    except OSError: pass
"""
_UNIX = """
import socket
for address in ("\\0ctpo-sandbox", "/run/dbus/system_bus_socket", "/var/run/docker.sock", "\\0/tmp/.X11-unix/X0"):
    try: s = socket.socket(socket.AF_UNIX); s.connect(address); print("BREACH", address)
    except OSError as e: print(e)
"""
_SOCKETS = """
import socket
# The calls of one warm parent share its network: nobody may make a socket there, of any family, type or protocol.
for family in range(48):
    for kind in (1, 2, 3, 4, 5, 6, 10):
        try: socket.socket(family, kind); print("BREACH", family, kind)
        except PermissionError: pass
        # A pair must stay one: a datagram socket can leave its peer, take a name and hear from others.
        if family != socket.AF_UNIX or kind not in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            try: socket.socketpair(family, kind); print("BREACH pair", family, kind)
            except OSError: pass
a, b = socket.socketpair()
for attempt in (lambda: a.bind("\\0name"), lambda: a.connect("\\0name"), lambda: a.listen()):
    try: attempt(); print("BREACH")
    except PermissionError: pass
print("refused")
"""
_UNTIE = """
import ctypes
print("refused" if ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == -1 else "BREACH")
"""
_FILES = """
import os
for p in ("/etc/passwd", "/etc/shadow", "/proc/1/environ", "/proc/self/root/etc/passwd", "/proc/1/root", "/home",
          "/opt", "/sys", "/var", "/run", "/root", "/mnt", "/proc", "/boot", "/dev/sda", "/dev/mem", "/dev/kmsg"):
    try:
        os.stat(p); print("BREACH", p)
    except OSError:
        pass
print("names:", sorted(os.listdir("/")))
"""
_WRITES = """
import os
for p in ("/x", "/usr/x", "/usr/lib/x", "/packages/x", "/packages/sympy/x", "/packages/sympy/__init__.py", "/dev/x",
          "/usr/bin/python3", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"):
    try:
        os.close(os.open(p, os.O_WRONLY | os.O_CREAT)); print("BREACH", p)
    except OSError:
        pass
for change in (lambda: os.chmod("/packages/sympy", 0o777), lambda: os.rename("/packages/sympy", "/packages/s"),
               lambda: os.utime("/usr/bin/python3"), lambda: os.truncate("/packages/sympy/__init__.py", 0)):
    try:
        change(); print("BREACH")
    except OSError:
        pass
open("/tmp/x", "w").write("scratch"); print(open("/tmp/x").read())
"""
_LINKS = """
import os
for i, p in enumerate(("/etc/shadow", "/proc/1/root/etc/passwd", "../../../../etc/passwd", "/home", "/proc/self/fd/9")):
    os.symlink(p, f"s{i}")
    try: os.stat(f"s{i}"); print("BREACH", p)
    except OSError: pass
"""
_PASSING = """
import array, os, socket
a, b = socket.socketpair()
root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [root]))])
_, ancillary, _, _ = b.recvmsg(1, 64)
fd = array.array("i", ancillary[0][2])[0]
for p in ("../etc/passwd", "../../proc", "etc"):
    try: os.stat(p, dir_fd=fd); print("BREACH", p)
    except OSError: pass
print("passed to oneself only")
"""
_DESCRIPTORS = """
import os
for i in range(3, 4096):
    try: os.fstat(i); print("BREACH", i)
    except OSError: pass
print([os.readlink(f"/proc/self/fd/{i}") for i in range(3)] if os.path.exists("/proc") else "three")
"""
_FORGED = f"""
import os
answer = {Answer("ok", stdout=b"forged").pack()!r}
for fd in range(3, 256):
    try: os.write(fd, answer); print("BREACH", fd)
    except OSError: pass
os.write(1, answer); os.write(2, answer)
os._exit(3)
"""
_IDENTITY = """
import os, ctypes
print(os.getresuid(), os.getgroups())
for f in (os.setuid, os.setgid):
    try: f(0); print("BREACH")
    except OSError: pass
c = ctypes.CDLL(None)
print("BREACH" if any(c.prctl(23, i, 0, 0, 0) == 1 for i in range(41)) else "no capability")
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
c.capget(header, data)
print("BREACH" if any(data) else "none in any set")
print("no new privileges", c.prctl(39, 0, 0, 0, 0), "filter", c.prctl(21, 0, 0, 0, 0))
"""
_RAISE_LIMITS = """
import resource
for name in ("CPU", "DATA", "AS", "FSIZE", "NPROC", "NOFILE", "CORE", "MEMLOCK"):
    try: resource.setrlimit(getattr(resource, "RLIMIT_" + name), (-1, -1)); print("BREACH", name)
    except (OSError, ValueError): pass
"""
_DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for i in (0, 1, 2): os.close(i)
        time.sleep(777)
    os._exit(0)
print("left")
"""
_NEIGHBOURS = """
import os
seen = []
for pid in range(2, 70000):
    if pid == os.getpid(): continue
    try: os.kill(pid, 0); seen.append(pid)
    except ProcessLookupError: pass
    except PermissionError: print("BREACH", pid)
print("BREACH" if seen else "alone", seen[:5], os.getppid())
"""
_SHARED_MEMORY = """
from multiprocessing import shared_memory
try: shared_memory.SharedMemory("x"); print("BREACH")
except OSError: shared_memory.SharedMemory("x", create=True, size=4096); print("its own")
"""

ESCAPES = (
    Probe("environment", "import os\nfor k in os.environ: print(k)\nprint(len(os.environ) < 6)", expect="True"),
    Probe("tcp, udp, vsock and cloud metadata", _NETWORK),
    Probe("raw, packet, netlink and kernel crypto sockets", _RAW),
    Probe("unix and abstract sockets", _UNIX),
    Probe("a socket of any kind", _SOCKETS, expect="refused"),
    Probe("to outlive the worker", _UNTIE, expect="refused"),
    Probe(
        "interfaces",
        "import socket\ntry: n = socket.if_nameindex()\nexcept OSError: n = []\n"
        "print('BREACH' if [i for i in n if i[1] not in ('lo', 'tunl0', 'sit0')] else 'none')",
        expect="none",
    ),
    Probe("host files", _FILES, expect="names: ['dev', 'lib', 'lib64', 'packages', 'tmp', 'usr']"),
    Probe("writes", _WRITES, expect="scratch"),
    Probe("symbolic links", _LINKS),
    Probe(
        "hard links to the read-only tree",
        "import os\ntry: os.link('/usr/bin/python3', '/tmp/p'); print('BREACH')\nexcept OSError as e: print(e)",
    ),
    Probe("descriptors passed over a socket", _PASSING, expect="oneself"),
    Probe("inherited descriptors", _DESCRIPTORS, expect="three"),
    Probe("forged answers on every descriptor", _FORGED, ("error",)),
    Probe("capabilities and user ids", _IDENTITY, expect="no new privileges 1 filter 2"),
    Probe("raised limits", _RAISE_LIMITS),
    Probe(
        "device nodes",
        "import os, stat\nfor kind in (stat.S_IFCHR, stat.S_IFBLK):\n"
        "  try: os.mknod('/tmp/d', kind | 0o666, os.makedev(8, 0)); print('BREACH')\n  except OSError: pass",
    ),
    Probe(
        "set-user-id file",
        "import os\nopen('/tmp/s', 'wb').write(open('/usr/bin/python3', 'rb').read(4096))\nos.chmod('/tmp/s', 0o6755)\n"
        "print('BREACH' if os.geteuid() == 0 else 'mine alone')",
        expect="mine alone",
    ),
    Probe(
        "kill the process group, pid 1 and all others",
        "import os, time\nfor pid in (-1, 1, os.getppid(), 0):\n  try: os.kill(pid, 9)\n  except OSError: pass\n"
        "time.sleep(0.1); print('still here')",
        ("ok", "killed"),
    ),
    Probe("processes of others", _NEIGHBOURS, expect="alone"),
    Probe("daemon", _DAEMON, expect="left"),
    Probe(
        "daemon that keeps the streams open",
        "import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(777)\nprint('left')",
        expect="left",
    ),
    Probe(
        "name of the host",
        f"import os\nprint('BREACH' if os.uname().nodename == {os.uname().nodename!r} else 'hidden')",
        expect="hidden",
    ),
    Probe(
        "terminal input",
        "import fcntl\ntry: fcntl.ioctl(0, 0x5412, b'x'); print('BREACH')\nexcept OSError as e: print('refused')",
        expect="refused",
    ),
    Probe("shared memory of other programs", _SHARED_MEMORY, expect="its own"),
    Probe("exit without ado", "import os\nprint('hi', flush=True); os._exit(7)", ("error",), "hi"),
    Probe("exception", "1/0", ("error",)),
    Probe("packages", "import sympy, numpy\n(sympy.sqrt(8), int(numpy.arange(4).sum()))", expect="(2*sqrt(2), 6)"),
)
