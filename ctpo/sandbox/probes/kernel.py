"""Programs that knock at the kernel: each call must be refused."""

from __future__ import annotations

from ctpo.sandbox.probes.probe import Probe
from ctpo.sandbox.seccomp import allowed_numbers

_UNLISTED = """
import ctypes, errno
c = ctypes.CDLL(None, use_errno=True)
allowed = {allowed!r} | {{335, 336}}  # uretprobe and uprobe pass by every filter, and kill who calls them
for number in range(600):
    if number not in allowed:
        ctypes.set_errno(0)
        result = c.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
        if result != -1 or ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM, errno.ENOLCK): print("BREACH", number)
print("refused", 600 - len(allowed))
"""
_ROADS = """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
machine = os.uname().machine
for flag in (0x20000, 0x10000000, 0x40000000, 0x20000000, 0x8000000, 0x4000000, 0x2000000):
    pid = c.syscall(56 if machine == "x86_64" else 220, flag | 17, 0, 0, 0, 0)
    if pid == 0: os._exit(0)
    if pid > 0: print("BREACH clone", hex(flag))
arguments = (ctypes.c_uint64 * 11)(0x10000000, *[0] * 3, 17)
if c.syscall(435, arguments, 88) >= 0: print("BREACH clone3")
print("refused")
"""
_X32 = "import ctypes\nprint('BREACH' if ctypes.CDLL(None).syscall(0x40000000 + 39) >= 0 else 'refused')"
_SWITCHES = """
import glob
for p in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/oom_score_adj", "/proc/self/uid_map",
          "/proc/sys/user/max_user_namespaces", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/cgroup.procs"):
    try: open(p, "w").write("0"); print("BREACH", p)
    except OSError: pass
print("no switch", glob.glob("/proc/*"), glob.glob("/sys/*"))
"""
_FILTER_OFF = """
import ctypes
c = ctypes.CDLL(None, use_errno=True)
print(c.prctl(22, 0, 0, 0, 0), c.prctl(38, 0, 0, 0, 0))
print("BREACH" if c.prctl(21, 0, 0, 0, 0) != 2 or c.prctl(39, 0, 0, 0, 0) != 1 else "still on")
"""
_CORE = """
import resource, subprocess
# A handler that is a pipe is spared at a limit of 1 alone, and in a warm call because the process is not dumpable.
for limit in ((0, 0), (0, 1)):
    try: resource.setrlimit(resource.RLIMIT_CORE, limit); print("BREACH", limit)
    except (OSError, ValueError): pass
child = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
print(subprocess.run(["/usr/bin/python3", "-I", "-S", "-c", child], capture_output=True, text=True).stdout)
"""


KERNEL = (
    Probe("every call that is not on the list", _UNLISTED.format(allowed=allowed_numbers()), expect="refused"),
    Probe("new namespaces by every road", _ROADS, expect="refused"),
    Probe("calls of another architecture", _X32, ("killed", "ok")),
    Probe("core_pattern, sysrq and other switches", _SWITCHES, expect="no switch [] []"),
    Probe("a core file, or the host's handler of crashes", _CORE, expect="(1, 1)"),
    Probe("the filter itself", _FILTER_OFF, expect="still on"),
)
