"""Small hostile programs, each with what must be true of its result: the fast part of the attack suite.

A program prints BREACH as soon as it gets anywhere it must not.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctpo.sandbox.limits import Limits
from ctpo.sandbox.results import ExecutionResult, Reason

BREACH = "BREACH"
PROBE_LIMITS = Limits(wall_s=3.0, cpu_s=1.0, memory_mb=256, output_bytes=4096, processes=16, file_mb=8)


@dataclass(frozen=True)
class Probe:
    """`code` must end for one of `reasons`, print `expect`, and never print BREACH."""

    name: str
    code: str
    reasons: tuple[Reason, ...] = ("ok",)
    expect: str = ""

    def failure(self, result: ExecutionResult) -> str:
        """What went wrong, in one line; empty if contained."""
        if BREACH in result.stdout:
            return "got out: " + result.stdout.strip().replace("\n", "; ")[:200]
        if result.reason not in self.reasons or self.expect not in result.stdout:
            return f"ended with {result.reason!r}: {(result.stdout + result.stderr).strip()[-200:]!r}"
        return ""


_NETWORK = """
import socket
for family, address in ((socket.AF_INET, ("127.0.0.1", 22)), (socket.AF_INET, ("169.254.169.254", 80)),
                        (socket.AF_INET6, ("::1", 22)), (getattr(socket, "AF_VSOCK", 40), (2, 1))):
    try:
        s = socket.socket(family); s.settimeout(1); s.connect(address); print("BREACH", address)
    except OSError as e:
        print(e)
"""
_FILES = """
import os
for p in ("/etc/passwd", "/etc/shadow", "/proc/1/environ", "/proc/self/root/etc/passwd", "/home", "/opt",
          "/sys", "/var", "/run"):
    try:
        os.stat(p); print("BREACH", p)
    except OSError:
        pass
print("names:", sorted(os.listdir("/")))
"""
_WRITES = """
for p in ("/x", "/usr/x", "/usr/lib/x", "/packages/x", "/packages/sympy/x", "/dev/x",
          "/proc/sys/kernel/core_pattern"):
    try:
        open(p, "w"); print("BREACH", p)
    except OSError:
        pass
open("/tmp/x", "w").write("scratch"); print(open("/tmp/x").read())
"""
_KERNEL = """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
calls = dict(unshare=(0x10000000,), setns=(0, 0), ptrace=(16, os.getppid(), 0, 0), setuid=(0,),
             mount=(b"none", b"/tmp", b"tmpfs", 0, 0), chroot=(b"/tmp",), memfd_create=(b"x", 0),
             shmget=(0, 4096, 0o1600), klogctl=(3, 0, 0))
for name, arguments in calls.items():
    if getattr(c, name)(*arguments) >= 0:
        print("BREACH", name)
print("setuid 0, namespaces, mounts, ptrace: refused")
"""
_BOMB = """
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

PROBES = (
    Probe("environment", "import os\nfor k in os.environ: print(k)\nprint(len(os.environ) < 6)", expect="True"),
    Probe("network", _NETWORK),
    Probe("host files", _FILES, expect="names: ['dev', 'lib', 'lib64', 'packages', 'tmp', 'usr']"),
    Probe("writes", _WRITES, expect="scratch"),
    Probe("kernel calls", _KERNEL, expect="refused"),
    Probe(
        "descriptors",
        "import os\nfor i in range(3, 256):\n  try: os.fstat(i); print('BREACH', i)\n  except OSError: pass",
    ),
    Probe("fork bomb", _BOMB, expect="bounded"),
    Probe("memory bomb", "x = []\nwhile True: x.append(bytearray(b'x' * (16 << 20)))", ("memory",)),
    Probe("file bomb", "open('/tmp/x', 'wb').write(bytes(64 << 20))\nprint('BREACH')", ("error",)),
    Probe("endless output", "while True: print('x' * 1000)", ("output",)),
    Probe("endless loop", "while True: pass", ("timeout",)),
    Probe("exception", "1/0", ("error",)),
    Probe(
        "packages",
        "import sympy, numpy\n(sympy.sqrt(8), int(numpy.arange(4).sum()))",
        expect="(2*sqrt(2), 6)",
    ),
)
