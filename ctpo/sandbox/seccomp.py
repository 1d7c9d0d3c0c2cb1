"""The system calls that a program may make: a list of the allowed ones, compiled to BPF by libseccomp.

A call that is not listed answers ENOSYS, as if the kernel were older, and the C library and Python fall back to a
listed one where they have another way. `REFUSED` answers EPERM, which tells a program that it may not, rather than
that it cannot. A condition on arguments looks at the low 32 bits, as the kernel does.
"""

from __future__ import annotations

import errno
import os
import platform
from typing import TYPE_CHECKING

from ctpo.sandbox.results import SandboxUnavailable

if TYPE_CHECKING:
    import pyseccomp

#: Allowed whatever their arguments are, by the reason why a scientific Python program needs them.
ALLOWED: dict[str, str] = {
    "files: scratch is a file system of the call's own, all others are mounted read-only": (
        "open openat creat close close_range read write readv writev pread64 pwrite64 preadv pwritev lseek stat lstat "
        "fstat newfstatat statx access faccessat faccessat2 getdents getdents64 getcwd chdir fchdir mkdir mkdirat "
        "rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat readlink readlinkat chmod "
        "fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask truncate ftruncate fallocate utime utimes "
        "utimensat futimesat mknod mknodat statfs fstatfs getxattr lgetxattr fgetxattr listxattr llistxattr "
        "flistxattr sendfile copy_file_range dup dup2 dup3"
    ),
    "memory, which the limits count": "mmap munmap mprotect mremap madvise brk",
    "threads and the scheduler's answers about oneself": (
        "gettid set_tid_address set_robust_list get_robust_list rseq sched_yield sched_getaffinity sched_getparam "
        "sched_getscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval getcpu"
    ),
    "clocks and sleep": (
        "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getitimer setitimer alarm "
        "timerfd_create timerfd_settime timerfd_gettime"
    ),
    "signals within the pid namespace": (
        "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pause kill "
        "tkill tgkill signalfd signalfd4 restart_syscall"
    ),
    "processes; not setsid, as the scheduler shares a processor out by session": (
        "fork vfork execve exit exit_group wait4 waitid getpid getppid getpgrp getpgid setpgid getsid getrlimit "
        "getrusage getpriority setpriority"
    ),
    "waiting for several descriptors": (
        "pipe pipe2 poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait "
        "epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2"
    ),
    "connected pairs of sockets, as asyncio and multiprocessing make them": (
        "sendto recvfrom sendmsg recvmsg shutdown getsockopt getsockname getpeername"
    ),
    "the identity, which the kernel lets nobody change here, and the machine": (
        "getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid "
        "setresgid capget uname sysinfo getrandom arch_prctl"
    ),
}
#: They succeed and do nothing: scratch is memory, and a flush of a shared file would be one of the host's disk.
IDLE = "fsync fdatasync msync sync syncfs sync_file_range fadvise64"
#: What a program is told that it may not do.
REFUSED = "socket bind connect listen accept accept4 setsid setxattr lsetxattr fsetxattr"

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_AF_UNIX, _SOCK_TYPE, _SOCK_STREAM, _SOCK_SEQPACKET = 1, 0xF, 1, 5
_DUPFD, _GETFD, _SETFD, _GETFL, _SETFL, _DUPFD_CLOEXEC, _GETPIPE_SZ = 0, 1, 2, 3, 4, 1030, 1032
_LOCK_COMMANDS = (5, 6, 7, 36, 37, 38)  # F_GETLK, SETLK, SETLKW, and the three of open files
_TCGETS, _TIOCGWINSZ, _FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX = 0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451
_LIMIT_CORE = 4
_GET_DUMPABLE, _SET_NAME, _GET_NAME, _GET_SECCOMP, _CAPBSET_READ, _GET_NO_NEW_PRIVS = 3, 15, 16, 21, 23, 39


def machines() -> dict[str, int]:
    """libseccomp's number of each machine for which calls can be made (`warm_inside` knows their clone(2))."""
    import pyseccomp

    return {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}


def allowed_numbers() -> set[int]:
    """Numbers, on this machine, of the calls that may do something with some arguments."""
    import pyseccomp

    conditional = "clone socketpair fcntl ioctl prctl setrlimit prlimit64 futex"
    names = " ".join([*ALLOWED.values(), IDLE, conditional]).split()
    return {number for name in names if (number := pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)) >= 0}


def filter_program(machine: str | None = None) -> bytes:
    """BPF program for `machine` (default: this one): an array of `struct sock_filter`, 8 bytes each.

    Other architectures' calls (32-bit, x32) kill the process. Raises SandboxUnavailable without libseccomp and on an
    architecture other than x86_64 and aarch64.
    """
    try:
        import pyseccomp
    except RuntimeError as error:
        raise SandboxUnavailable(
            f"sandbox: {error}: apt-get install libseccomp2 (Debian, Ubuntu) or dnf install libseccomp (Fedora, RHEL)"
        ) from error
    machine = machine or platform.machine()
    if machine not in machines():
        raise SandboxUnavailable(f"sandbox: no system-call filter for {machine}; it needs x86_64 or aarch64 Linux")
    program = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    program.remove_arch(pyseccomp.Arch.NATIVE)
    program.add_arch(machines()[machine])
    program.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree: the kernel tries a new filter on every number
    _add_rules(program)
    target = os.memfd_create("filter")
    with open(target, "rb") as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


def _add_rules(program: pyseccomp.SyscallFilter) -> None:
    """One condition a rule where that is enough: libseccomp 2.5 can mix up rules that share the first of two."""
    from pyseccomp import ALLOW, EQ, ERRNO, MASKED_EQ, Arch, Arg, resolve_syscall

    def where(argument: int, value: int, mask: int = 0xFFFFFFFF) -> Arg:
        return Arg(argument, MASKED_EQ, mask, value)

    for names, action in (
        *((names, ALLOW) for names in ALLOWED.values()),
        (IDLE, ERRNO(0)),
        (REFUSED, ERRNO(errno.EPERM)),
        ("flock", ERRNO(errno.ENOLCK)),  # a lock on a file that all calls share would be seen by the others
    ):
        for name in names.split():
            if resolve_syscall(Arch.NATIVE, name) != -1:  # newer than the installed libseccomp: not on the list
                program.add_rule(action, name)
    rule = program.add_rule
    rule(ALLOW, "clone", where(0, 0, _NEW_NAMESPACES))
    # A datagram socket can leave its peer, and then send to whoever shares the network namespace.
    for kind in (_SOCK_STREAM, _SOCK_SEQPACKET):
        rule(ALLOW, "socketpair", where(0, _AF_UNIX), where(1, kind, _SOCK_TYPE))
    for command in (_DUPFD, _GETFD, _SETFD, _GETFL, _SETFL, _DUPFD_CLOEXEC, _GETPIPE_SZ):
        rule(ALLOW, "fcntl", where(1, command))
    for command in _LOCK_COMMANDS:
        rule(ERRNO(errno.ENOLCK), "fcntl", where(1, command))
    for request in (_TCGETS, _TIOCGWINSZ, _FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX):
        rule(ALLOW, "ioctl", where(1, request))
    for option in (_GET_DUMPABLE, _SET_NAME, _GET_NAME, _GET_SECCOMP, _CAPBSET_READ, _GET_NO_NEW_PRIVS):
        rule(ALLOW, "prctl", where(0, option))
    # The limit on core files stays: at 0, a handler of the host's that is a pipe would read a crashed program's memory.
    for limit in set(range(16)) - {_LIMIT_CORE}:
        rule(ALLOW, "setrlimit", where(0, limit))
        rule(ALLOW, "prlimit64", where(1, limit))
    rule(ALLOW, "prlimit64", Arg(2, EQ, 0))  # a question
    rule(ALLOW, "futex")
