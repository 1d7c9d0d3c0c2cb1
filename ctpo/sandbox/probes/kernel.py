"""Programs that knock at the kernel: each call must be refused."""

from __future__ import annotations

from ctpo.sandbox.probes.probe import Probe
from ctpo.sandbox.seccomp import DENIED

_CALL = """
import ctypes, errno, os
c = ctypes.CDLL(None, use_errno=True)
at = {{"x86_64": 0, "aarch64": 1}}[os.uname().machine]
path = ctypes.create_string_buffer(b"/tmp/x")
for name, numbers, arguments in {calls!r}:
    if numbers[at] is None:
        continue
    given = [path if a == "path" else ctypes.c_long(a) for a in arguments] + [ctypes.c_long(0)] * (6 - len(arguments))
    if c.syscall(ctypes.c_long(numbers[at]), *given) >= 0:
        print("BREACH", name)
    else:
        print(name, errno.errorcode[ctypes.get_errno()])
"""
_GROUPS: dict[str, dict[str, tuple[int | str, ...]]] = {
    "mounts and roots": {
        "mount": ("path", "path", "path", 0, 0),
        "umount2": ("path", 2),
        "pivot_root": ("path", "path"),
        "chroot": ("path",),
        "open_tree": (-100, "path", 1),
        "move_mount": (-100, "path", -100, "path", 0),
        "fsopen": ("path", 0),
        "mount_setattr": (-100, "path", 0, 0, 0),
    },
    "namespaces": {"unshare": (0x10000000,), "setns": (0, 0)},
    "tracing and other memory": {
        "ptrace": (0,),
        "process_vm_readv": (1, 0, 0, 0, 0, 0),
        "process_vm_writev": (1, 0, 0, 0, 0, 0),
        "pidfd_getfd": (0, 0, 0),
        "kcmp": (1, 1, 0, 0, 0),
    },
    "keys": {"keyctl": (0, -1, 1), "add_key": ("path", "path", 0, 0, -1), "request_key": ("path", "path", 0, 0)},
    "kernel programs": {"bpf": (0, 0, 0), "perf_event_open": (0, 0, -1, -1, 0)},
    "asynchronous rings": {
        "io_uring_setup": (1, "path"),
        "io_uring_enter": (0, 0, 0, 0),
        "io_uring_register": (0, 0, 0, 0),
    },
    "page fault handling": {"userfaultfd": (0,), "memfd_secret": (0,), "memfd_create": ("path", 0)},
    "shared memory and queues": {"shmget": (0, 4096, 0o1600), "semget": (0, 1, 0o1600), "msgget": (0, 0o1600)},
    "modules and kernels": {
        "init_module": ("path", 6, "path"),
        "finit_module": (0, "path", 0),
        "delete_module": ("path", 0),
        "kexec_load": (0, 0, 0, 0),
        "reboot": (0xFEE1DEAD - (1 << 32), 672274793, 0, 0),
    },
    "clock, log and host name": {
        "settimeofday": ("path", 0),
        "clock_settime": (0, "path"),
        "adjtimex": ("path",),
        "syslog": (3, "path", 6),
        "sethostname": ("path", 6),
        "acct": ("path",),
        "swapon": ("path", 0),
    },
    "handles and watches": {
        "name_to_handle_at": (-100, "path", "path", "path", 0),
        "open_by_handle_at": (-100, "path", 0),
        "fanotify_init": (0, 0),
        "personality": (0x40000,),
    },
}
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


def _probe(name: str, calls: dict[str, tuple[int | str, ...]]) -> Probe:
    return Probe(name, _CALL.format(calls=[(call, DENIED[call], given) for call, given in calls.items()]), expect="E")


KERNEL = (
    *(_probe(name, calls) for name, calls in _GROUPS.items()),
    Probe("new namespaces by every road", _ROADS, expect="refused"),
    Probe("calls of another architecture", _X32, ("killed", "ok")),
    Probe("core_pattern, sysrq and other switches", _SWITCHES, expect="no switch [] []"),
    Probe("the filter itself", _FILTER_OFF, expect="still on"),
)
