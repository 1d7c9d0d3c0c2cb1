"""The few Linux calls that Python does not offer: namespaces, mounts, another uid, ties between processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from pathlib import Path

from ctpo.sandbox.results import SandboxUnavailable
from ctpo.sandbox.runtime import DEVICES, SCRATCH, Layout

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x40000000,
)
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MNT_DETACH = 2
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = (
    1,
    2,
    4,
    32,
    4096,
    16384,
    1 << 18,
)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_SIGKILL = 9

# Above every range in the table of https://systemd.io/UIDS-GIDS, below the reserved 2**31.
_FIRST_UID, _MOST_PIDS = 1_879_048_192, 1 << 22

# Where the tree may be put together: a mount there, in a private namespace, hides what the folder holds.
_STAGES = ("/mnt", "/media", "/srv", "/opt", "/tmp", "/var/tmp")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, doing: str) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{doing}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    made = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode(),
    )
    _check(made, f"mount {source} on {target}")


def adopt_orphans() -> None:
    """Descendants whose parent dies become this process's children, so that none is ever lost sight of."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with(parent: int) -> None:
    """This process is killed when `parent`, its parent, dies. A change of uid clears it."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def unprivileged_uid(pid: int) -> int:
    """A uid that belongs to no account, its own for every live process `pid` where the id space allows.

    0, to stay, where root is the only user of a namespace that an ordinary user has made (`unshare -Ur`): it may no
    more than that user. Raises SandboxUnavailable where root is the only user and is root outside too.
    """
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    first, outside, count = max(ranges, key=lambda known: known[2])
    if first + count >= _FIRST_UID + _MOST_PIDS:
        return _FIRST_UID + pid % _MOST_PIDS
    if count > 1:
        return first + count - 1 - pid % (count // 2)
    if outside:
        return 0
    raise SandboxUnavailable(
        "sandbox: root here is the only user there is and cannot drop its rights: run as an ordinary user"
    )


def give_up_root() -> None:
    """Become an unprivileged user for good, if this is root. Children may still set their own OOM score.

    A worker does so before its first call and runs one call at a time: whatever the kernel counts per user is counted
    per call. Raises SandboxUnavailable.
    """
    uid = unprivileged_uid(os.getpid()) if os.geteuid() == 0 else 0
    if not uid:
        return
    # The kernel must never pick the supervisor when a call fills the group's memory.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise SandboxUnavailable(
            f"sandbox: root may not become another user here ({error}): give the container CAP_SETUID and CAP_SETGID, "
            "or run as an ordinary user"
        ) from error
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def stage(layout: Layout) -> str:
    """Put the tree together in a new mount namespace of this process alone; returns its root directory.

    Needs all capabilities over the user namespace. As root it is what lets an unprivileged uid see an
    interpreter that lives below, say, a private home directory, and nothing else from there. The mounts vanish
    with the last process of the namespace. Raises OSError, or SandboxUnavailable if there is no place for it.
    """
    sources = [os.path.realpath(source) for source, _ in layout.binds]
    free = [s for s in _STAGES if os.path.isdir(s) and not any(source.startswith(f"{s}/") for source in sources)]
    if not free:
        raise SandboxUnavailable(
            f"sandbox: it needs one folder of {', '.join(_STAGES)} that the environment is not below"
        )
    root = free[0]
    _check(_libc.unshare(_CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("sandbox", root, "tmpfs", _MS_NOSUID, "mode=0755,size=1m")
    _fill(root, layout)
    _mount("none", root, None, _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    return root


def enter_user_namespace(inside_uid: int) -> None:
    """The calling process becomes `inside_uid` of a new user namespace, with all capabilities over it."""
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inside_uid} {uid} 1"),
        ("gid_map", f"{inside_uid} {gid} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text)


def leave_the_host() -> None:
    """New and empty network, ipc and host name; needs capabilities over the user namespace."""
    _check(_libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS), "unshare(CLONE_NEWNET)")
    _check(_libc.sethostname(b"sandbox", 7), "sethostname")


def change_root(root: str) -> None:
    """`root` becomes `/` of a new mount namespace, and what was there before is out of reach."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount(root, root, None, _MS_BIND | _MS_REC)
    os.chdir(root)
    _check(_libc.syscall(_PIVOT_ROOT[platform.machine()], b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")


def no_new_privileges() -> None:
    """No program that this process executes gives it rights that it does not have."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")


def _fill(root: str, layout: Layout) -> None:
    for place in ("/usr/lib", "/usr/bin", "/packages", "/dev", SCRATCH):
        os.makedirs(root + place, exist_ok=True)
    for target, link in layout.links:
        os.symlink(target, root + link)
    for source, place in layout.binds:
        target = root + place
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(source):
            os.mkdir(target)
        else:
            Path(target).touch()
        _mount_readonly(source, target, _MS_NODEV)
    for place in layout.empty:
        _mount("sandbox", root + place, "tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "mode=0755,size=4k")
    for device in DEVICES:
        Path(root + device).touch()
        _mount_readonly(device, root + device)  # it can be written to, but its times cannot be set


def _mount_readonly(source: str, target: str, flags: int = 0) -> None:
    _mount(source, target, None, _MS_BIND)
    kept = os.statvfs(target).f_flag & os.ST_NOEXEC  # which a user namespace may not take off what the host has mounted
    _mount("none", target, None, kept | flags | _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID)
