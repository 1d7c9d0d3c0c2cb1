"""The system-call filter of the sandbox, as a classic BPF program built here (no libseccomp needed).

A deny-list, because numpy, scipy and the C library may use any of the ordinary calls and a missing one
shows as a wrong answer of the tool. Denied is what reaches beyond one's own process, memory and files, or
opens large, rarely used parts of the kernel. See seccomp(2) and `struct seccomp_data` in <linux/seccomp.h>.
"""

from __future__ import annotations

import errno
import platform
import struct

from ctpo.sandbox.results import SandboxUnavailable

# name -> (x86_64 number, aarch64 number); None where the architecture has no such call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes' memory and descriptors
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # the network, of which a namespace confines the most, but not AF_VSOCK and AF_ALG; `socketpair` needs none
    "socket": (41, 198),
    "bind": (49, 200),
    "connect": (42, 203),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # memory that no file-size or scratch limit counts
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "remap_file_pages": (216, 234),
    # mounts, namespaces, roots
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    # kernel programs, tracing, keys, asynchronous rings, page-fault handling
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "lookup_dcookie": (212, 18),
    # the machine itself
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "personality": (135, 92),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "nfsservctl": (180, 42),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
}
_CLONE, _CLONE3, _SOCKETPAIR, _IOCTL, _PRCTL = (56, 220), (435, 435), (53, 199), (16, 29), (157, 167)
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_AF_UNIX, _SOCK_TYPE, _SOCK_STREAM, _SOCK_SEQPACKET = 1, 0xF, 1, 5
_PR_SET_PDEATHSIG = 1
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing into somebody's terminal

_LOAD, _AND, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24  # offsets; both architectures are little-endian


def _deny(code: int) -> bytes:
    return _op(_RETURN, 0x00050000 | code)


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, k)


def _decide(blocks: dict[int, list[bytes]]) -> list[bytes]:
    """The block of the call's number runs, and must return; any other call is allowed.

    A binary search: the kernel tries a new filter on every number there is, which for a list costs each call of
    ours a tenth of a millisecond.
    """
    numbers = sorted(blocks)
    if len(numbers) > 3:
        middle = len(numbers) // 2
        lower, upper = ({n: blocks[n] for n in part} for part in (numbers[:middle], numbers[middle:]))
        below = _decide(lower)
        return [_op(_JUMP_GE, numbers[middle], len(below), 0), *below, *_decide(upper)]
    program = []
    for number in numbers:
        program += [_op(_JUMP_EQ, number, 0, len(blocks[number])), *blocks[number]]
    return [*program, _op(_RETURN, _ALLOW)]


def filter_program(machine: str | None = None) -> bytes:
    """BPF program for `machine` (default: this one): an array of `struct sock_filter`, 8 bytes each.

    Other architectures' calls (32-bit, x32) kill the process; denied calls fail with EPERM; `clone3` with
    ENOSYS, so that the C library falls back to `clone`, whose flags a filter can read; pairs of sockets with
    EAFNOSUPPORT unless they are of AF_UNIX and stay connected for good (a datagram socket can leave its peer, and
    then send to whoever shares the network namespace). Nobody unties himself from his parent's death. Raises
    SandboxUnavailable on an architecture other than x86_64 and aarch64.
    """
    machine = machine or platform.machine()
    if machine not in _AUDIT_ARCH:
        raise SandboxUnavailable(f"sandbox: no system-call filter for {machine}; it needs x86_64 or aarch64 Linux")
    column = list(_AUDIT_ARCH).index(machine)
    program = [
        _op(_LOAD, _ARCH),
        _op(_JUMP_EQ, _AUDIT_ARCH[machine], 1, 0),
        _op(_RETURN, _KILL),
        _op(_LOAD, _NR),
    ]
    if machine == "x86_64":
        program += [_op(_JUMP_GE, 0x40000000, 0, 1), _op(_RETURN, _KILL)]
    blocks = {
        number: [_deny(errno.EPERM)]
        for number in (numbers[column] for numbers in DENIED.values())
        if number is not None
    }
    blocks[_CLONE3[column]] = [_deny(errno.ENOSYS)]
    namespaces = [
        _op(_LOAD, _ARG0),
        _op(_JUMP_SET, _NEW_NAMESPACES, 0, 1),
        _deny(errno.EPERM),
        _op(_RETURN, _ALLOW),
    ]
    pair = [
        _op(_LOAD, _ARG0),
        _op(_JUMP_EQ, _AF_UNIX, 0, 4),
        _op(_LOAD, _ARG1),
        _op(_AND, _SOCK_TYPE),
        _op(_JUMP_EQ, _SOCK_STREAM, 2, 0),
        _op(_JUMP_EQ, _SOCK_SEQPACKET, 1, 0),
        _deny(errno.EAFNOSUPPORT),
        _op(_RETURN, _ALLOW),
    ]
    tie = [_op(_LOAD, _ARG0), _op(_JUMP_EQ, _PR_SET_PDEATHSIG, 0, 1), _deny(errno.EPERM), _op(_RETURN, _ALLOW)]
    terminal = [
        _op(_LOAD, _ARG1),
        _op(_JUMP_EQ, _TERMINAL_INPUT[0], 1, 0),
        _op(_JUMP_EQ, _TERMINAL_INPUT[1], 0, 1),
        _deny(errno.EPERM),
        _op(_RETURN, _ALLOW),
    ]
    blocks |= {_CLONE[column]: namespaces, _SOCKETPAIR[column]: pair}
    blocks |= {_IOCTL[column]: terminal, _PRCTL[column]: tie}
    return b"".join([*program, *_decide(blocks)])
