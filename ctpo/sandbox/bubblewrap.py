"""The bubblewrap command line that isolates one call (see bwrap(1))."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from importlib.resources import files

from ctpo.sandbox.limits import Limits
from ctpo.sandbox.results import SandboxUnavailable
from ctpo.sandbox.runtime import DEVICES, PYTHON, SCRATCH, Layout

INSTALL_HINT = "apt-get install bubblewrap (Debian, Ubuntu) or dnf install bubblewrap (Fedora, RHEL)"
OLDEST = (0, 8, 0)  # the first with --disable-userns
STDIN, STDOUT, STDERR, STARTED, SECCOMP = range(5)  # descriptors that bubblewrap is started with


def find_bubblewrap() -> tuple[str, str]:
    """Path and version of bubblewrap; raises SandboxUnavailable when there is none or it is too old."""
    path = shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin") or shutil.which("bwrap")
    if path is None:
        raise SandboxUnavailable(f"sandbox: bubblewrap is not installed: {INSTALL_HINT}")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    numbers = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    version = tuple(map(int, numbers.groups())) if numbers else ()
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise SandboxUnavailable(
            f"sandbox: {path} is {said.strip() or 'no bubblewrap'}; needs {oldest} or newer: {INSTALL_HINT}"
        )
    return path, ".".join(map(str, version))


def layout_arguments(layout: Layout) -> list[str]:
    """Arguments that build the tree from its parts."""
    arguments: list[str] = ["--perms", "0755", "--dir", "/usr", "--perms", "0755", "--dir", "/usr/lib"]
    for target, link in layout.links:
        arguments += ["--symlink", target, link]
    for source, place in layout.binds:
        arguments += ["--ro-bind", source, place]
    for place in layout.empty:
        arguments += ["--tmpfs", place, "--remount-ro", place]
    return arguments


def staged_arguments(root: str) -> list[str]:
    """Arguments that take the whole tree from a directory where it was already put together."""
    return ["--ro-bind", root, "/"]


def command(bwrap: str, tree: list[str], limits: Limits) -> list[str]:
    """The whole command line; expects code on STDIN, the filter on SECCOMP, and STARTED open for writing."""
    devices = [argument for device in DEVICES for argument in ("--dev-bind", device, device)]
    return [
        bwrap,
        *(
            "--unshare-user",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ),
        *("--disable-userns", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--seccomp", str(SECCOMP)),
        *tree,
        *devices,
        *("--size", str(limits.file_mb << 20), "--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", SCRATCH),
        "--",
        *(
            PYTHON,
            "-I",
            "-S",
            "-B",
            "-X",
            "utf8",
            "-c",
            files("ctpo.sandbox").joinpath("inside.py").read_text(),
        ),
        *(str(math.ceil(limits.cpu_s)), str(limits.memory_mb), str(limits.processes), str(limits.file_mb)),
    ]
