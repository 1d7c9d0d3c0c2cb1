"""The parts that can be proved without a whole sandbox: filter, library closure, choice of cgroup."""

from __future__ import annotations

import itertools
import json
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyseccomp
import pytest

from ctpo.sandbox import Limits, SandboxUnavailable, cgroups, client, results
from ctpo.sandbox.elf import dependencies
from ctpo.sandbox.probes import BREACH
from ctpo.sandbox.protocol import Answer, Request
from ctpo.sandbox.runtime import PACKAGES, build_layout, find_packages
from ctpo.sandbox.seccomp import ALLOWED, IDLE, REFUSED, filter_program

pytestmark = pytest.mark.slow

UNDER_THE_FILTER = """
import ctypes, errno, json, os, socket, sys
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
program = bytes.fromhex(sys.argv[1])
class Filter(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("at", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Filter(len(program) // 8, program)), 0, 0) == 0
def attempt(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *(list(arguments) + [0] * (6 - len(arguments))))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "done"
print(json.dumps({name: attempt(number, *arguments) for name, number, *arguments in json.loads(sys.argv[2])}))
"""


def _under_the_filter(calls: list[list[object]]) -> dict[str, str]:
    arguments = [filter_program().hex(), json.dumps(calls)]
    said = subprocess.run(
        [sys.executable, "-c", UNDER_THE_FILTER, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(said.stdout)


def test_the_filter_looks_at_arguments() -> None:
    number = partial(pyseccomp.resolve_syscall, pyseccomp.Arch.NATIVE)
    expected: dict[str, tuple[str, list[int]]] = {
        "getpid": ("done", [number("getpid")]),
        "fork": ("EINVAL", [number("clone"), 0x8000 | 0x10000]),  # let through: a thread that shares no memory
        "new user namespace": ("ENOSYS", [number("clone"), 0x10000000]),
        "new network namespace": ("ENOSYS", [number("clone"), 0x40000000 | 17]),
        "clone3": ("ENOSYS", [number("clone3")]),
        "tipc pair": ("ENOSYS", [number("socketpair"), 30, 1]),
        "unix pair": ("EFAULT", [number("socketpair"), 1, 1]),  # let through; there is no room for it at address 0
        "unix pair, close on exec": ("EFAULT", [number("socketpair"), 1, 5 | 0o2000000]),
        "unix datagram pair": ("ENOSYS", [number("socketpair"), 1, 2]),
        "unix raw pair": ("ENOSYS", [number("socketpair"), 1, 3 | 0o2000000]),
        "untie from the parent": ("ENOSYS", [number("prctl"), 1]),
        "dump core": ("ENOSYS", [number("prctl"), 4, 1]),
        "dumpable?": ("done", [number("prctl"), 3]),
        "push back input": ("ENOSYS", [number("ioctl"), 0, 0x5412]),
        "clone a file's blocks": ("ENOSYS", [number("ioctl"), 0, 0x40049409]),
        "terminal size": ("EBADF", [number("ioctl"), 99, 0x5413]),
        "flags of a file": ("EBADF", [number("fcntl"), 99, 3]),
        "lock a file": ("ENOLCK", [number("flock"), 0, 5]),
        **{f"lock a record, {c}": ("ENOLCK", [number("fcntl"), 0, c]) for c in (5, 6, 7, 36, 37, 38)},
        "lease": ("ENOSYS", [number("fcntl"), 0, 1024]),
        "watch a folder": ("ENOSYS", [number("fcntl"), 0, 1026]),
        "larger pipe": ("ENOSYS", [number("fcntl"), 0, 1031]),
        "limit of files": ("done", [number("prlimit64"), 0, 7]),
        "limit of cores": ("done", [number("prlimit64"), 0, 4]),
        "another limit of cores": ("ENOSYS", [number("prlimit64"), 0, 4, 1]),
        "signal a descriptor's owner": ("ENOSYS", [number("fcntl"), 0, 8]),
        **{name: ("done", [number(name), 99]) for name in ("fsync", "syncfs", "fadvise64")},
    }
    answers = _under_the_filter([[name, *call] for name, (_, call) in expected.items()])
    assert answers == {name: answer for name, (answer, _) in expected.items()}


def _decision(program: bytes, number: int, arguments: tuple[int, ...]) -> int:
    """What the kernel does with a system call: seccomp's part of classic BPF, see seccomp(2) and bpf(4)."""
    given = struct.pack("<iIQ6Q", number, 0xC000003E, 0, *arguments, *[0] * (6 - len(arguments)))
    at = accumulator = 0
    while True:
        code, if_true, if_false, k = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        if code == 0x06:  # return
            return int(k)
        if code == 0x20:  # load
            accumulator = struct.unpack_from("<I", given, k)[0]
        elif code == 0x54:
            accumulator &= k
        else:
            holds = {0x05: True, 0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}[code]
            at += k if code == 0x05 else if_true if holds else if_false


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86_64")
def test_no_combination_of_arguments_passes_that_the_rules_do_not_name() -> None:
    low = 0xFFFFFFFF
    rules: dict[str, Callable[[int, int, int], bool]] = {
        "clone": lambda a, b, c: not a & 0x7E020000,
        "socketpair": lambda a, b, c: a & low == 1 and b & 15 in (1, 5),
        "fcntl": lambda a, b, c: b & low in (0, 1, 2, 3, 4, 1030, 1032),
        "ioctl": lambda a, b, c: b & low in (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451),
        "prctl": lambda a, b, c: a & low in (3, 15, 16, 21, 23, 39),
        "setrlimit": lambda a, b, c: a & low in {*range(16)} - {4},
        "prlimit64": lambda a, b, c: b & low in {*range(16)} - {4} or c == 0,
    }
    values = (
        *range(8),
        15,
        16,
        17,
        22,
        30,
        36,
        39,
        0x406,
        0x408,
        0x5401,
        0x5412,
        0x20011,
        1 << 30,
        1 << 32,
        (1 << 32) + 4,
    )
    program = filter_program()
    for name, rule in rules.items():
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        for arguments in itertools.product(values, repeat=3):
            assert (_decision(program, number, arguments) == pyseccomp.ALLOW) == rule(*arguments), (name, arguments)


def test_every_listed_name_is_one_of_the_kernels() -> None:
    newer = {"fchmodat2", "epoll_pwait2", "close_range", "faccessat2"}  # than the oldest libseccomp in use
    names = " ".join([*ALLOWED.values(), IDLE, REFUSED]).split()
    assert len(names) == len(set(names))
    assert {n for n in names if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, n) == -1} <= newer


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is an x86_64 affair")
def test_a_call_through_the_x32_door_kills_the_process() -> None:
    with pytest.raises(subprocess.CalledProcessError) as died:
        _under_the_filter([["x32 getpid", 0x40000000 + 39]])
    assert died.value.returncode == -31  # SIGSYS


def test_the_filter_is_for_known_machines_only() -> None:
    assert filter_program("aarch64") != filter_program("x86_64")
    with pytest.raises(SandboxUnavailable, match="riscv64"):
        filter_program("riscv64")


def test_elf_dependencies_are_those_that_ldd_finds() -> None:
    interpreter = Path(sys.executable).resolve()
    loader, libraries = dependencies(interpreter)
    listed = subprocess.run(["ldd", str(interpreter)], capture_output=True, text=True, check=True).stdout
    assert loader is not None
    assert loader in listed
    assert libraries
    assert all(name in listed for name in libraries)


def test_what_is_not_elf_has_no_dependencies(tmp_path: Path) -> None:
    file = tmp_path / "script.so"
    for content in (b"", b"INPUT(-lc)", b"\x7fELF\x01\x01" + bytes(80)):
        file.write_bytes(content)
        assert dependencies(file) == (None, ())


def test_the_layout_binds_the_interpreter_the_packages_and_single_libraries_only() -> None:
    layout = build_layout(find_packages())
    folders = [place for source, place in layout.binds if os.path.isdir(source)]
    allowed = {f"/packages/{name}{tail}" for name in PACKAGES for tail in ("", ".libs")}
    assert set(folders) - allowed == {f"/usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"}
    assert all(os.path.exists(source) for source, _ in layout.binds)
    files = {place for source, place in layout.binds if not os.path.isdir(source)}
    assert not any("ssl" in place or "crypto" in place or "sqlite" in place for place in files)


def _tree(root: Path, own: str, kind: str, mount: Path) -> Path:
    (root / "self").mkdir(parents=True)
    (root / "self/mounts").write_text(f"{kind} {mount} {kind} rw 0 0\n")
    (root / "self/cgroup").write_text(f"0::{own}\n")
    return root


def test_version_2_groups_go_below_the_nearest_ancestor_that_passes_both_controllers_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree as systemd and Slurm lay it out; ordinary files: only the choice is tested."""
    mount = tmp_path / "cgroup"
    job = mount / "system.slice/slurmstepd.scope/job_1/step_0/user/task_0"
    job.mkdir(parents=True)
    for folder in (job, *job.parents):
        if folder == mount or mount in folder.parents:
            passes = "cpu memory pids" if folder.name in ("cgroup", "system.slice", "job_1") else "cpu"
            (folder / "cgroup.subtree_control").write_text(passes if folder != job else "")
    monkeypatch.setattr(cgroups, "_works", lambda _: True)
    proc = _tree(tmp_path / "proc", f"/{job.relative_to(mount)}", "cgroup2", mount)
    home = cgroups.find_home(proc)
    nearest = mount / "system.slice/slurmstepd.scope/job_1"
    assert home == cgroups.CgroupHome(2, nearest, nearest, nearest)


def test_version_2_limits_are_written_to_the_files_of_version_2(tmp_path: Path) -> None:
    group = cgroups.make(cgroups.CgroupHome(2, tmp_path, tmp_path), "0", Limits(memory_mb=64, processes=8))
    assert (group.memory / "memory.max").read_text() == str(64 << 20)
    assert (group.memory / "pids.max").read_text() == "12"
    group.set_limits(Limits(memory_mb=128, processes=8))
    assert (group.memory / "memory.max").read_text().endswith(str(128 << 20))
    (group.memory / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n")
    assert group.out_of_memory_kills() == 2


def test_no_cgroup_hierarchy_means_no_home(tmp_path: Path) -> None:
    assert cgroups.find_home(_tree(tmp_path / "proc", "/", "tmpfs", tmp_path)) is None


def test_sweeping_removes_the_groups_of_dead_processes_only(tmp_path: Path) -> None:
    home = cgroups.CgroupHome(2, tmp_path, tmp_path)
    alive = cgroups.make(home, "0", Limits()).memory
    dead = tmp_path / "ctpo-sandbox-4194304-1-0"
    reused = tmp_path / f"ctpo-sandbox-{os.getpid()}-1-0"
    other = tmp_path / "somebody-elses"
    for folder in (dead, reused, other):
        folder.mkdir()
    cgroups.sweep(home)
    assert {p for p in tmp_path.iterdir() if p.is_dir()} == {alive, other}


def test_a_request_arrives_as_it_was_sent() -> None:
    request = Request("print('π')\n\nx".encode(), Limits(wall_s=2.5, memory_mb=64), echo=False)
    packed = request.pack()
    assert int.from_bytes(packed[:8], "little") == len(packed) - 8
    assert Request.unpack(packed[8:]) == request


def test_an_order_carries_the_limits_beyond_what_is_inherited() -> None:
    order = Request(b"1\n2", Limits(cpu_s=1.5, memory_mb=64, processes=4, file_mb=2, files=99)).order(100, 200)
    assert order[8:] == b"2 164 584 4 2 99 1\n1\n2"


def test_an_answer_that_is_not_whole_counts_as_none() -> None:
    answer = Answer("killed", 0.25, b"out", b"err", -9, b"KeyError: 1")
    raw = answer.pack()
    assert Answer.unpack(raw) == answer
    assert [Answer.unpack(raw[:n]) for n in range(len(raw))] == [None] * len(raw)


@pytest.mark.parametrize(
    ("switch", "value", "remedy"),
    [
        ("unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("max_user_namespaces", "0", "user.max_user_namespaces=15000"),
        ("apparmor_restrict_unprivileged_userns", "1", "AppArmor profile for bwrap"),
    ],
)
def test_the_advice_names_the_switch_that_blocks(
    switch: str, value: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self: value if self.name == switch else read(self))
    assert remedy in results.advice("bwrap: No permissions to create new namespace")


ORDINARY_USER = """
import ctypes, os, sys
keep, uid = sys.argv[1].split(":"), 1_000_100_000
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target, kind, flags):
    if libc.mount(source.encode(), target.encode(), kind, ctypes.c_ulong(flags), None):
        raise OSError(ctypes.get_errno(), f"mount {source} {target}")
assert libc.unshare(0x20000) == 0
mount("none", "/", None, 0x44000)
# An empty, readable folder over each ancestor that the user may not enter, what to keep goes below.
held = {path: os.open(path, os.O_PATH) for path in keep}
for path in keep:
    parts = path.split("/")
    for depth in range(2, len(parts)):
        folder = "/".join(parts[:depth])
        if os.path.exists(folder) and not os.stat(folder).st_mode & 1:
            mount("none", folder, b"tmpfs", 0)
            os.chmod(folder, 0o755)
    if not os.path.exists(path):
        os.makedirs(path)
        mount(f"/proc/self/fd/{held[path]}", path, None, 4096)
os.setgroups([]); os.setgid(uid); os.setuid(uid)
os.chdir("/")
environment = {"PYTHONPATH": keep[-1], "PYTHONDONTWRITEBYTECODE": "1"}
os.execve(sys.argv[2], sys.argv[2:], environment)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="already an ordinary user: every other test covers it")
def test_the_doctor_finds_every_probe_contained_as_an_ordinary_user_too() -> None:
    repository = str(Path(client.__file__).resolve().parents[2])
    doctor = [sys.executable, "-m", "ctpo.sandbox", "doctor", "--calls", "5"]
    keep = [sys.base_prefix, sys.prefix, repository]
    said = subprocess.run(
        [sys.executable, "-c", ORDINARY_USER, ":".join(keep), *doctor],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert "as uid 1000100000" in said.stdout
    assert BREACH not in said.stdout
    assert said.stdout.splitlines()[-1].startswith("OK: ")
