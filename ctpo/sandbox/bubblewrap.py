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


def find_bubblewrap(system: str = "/usr/bin:/usr/local/bin:/bin") -> tuple[str, str]:
    """Path and version of the first bubblewrap on PATH, then in `system`, that is new enough.

    Raises SandboxUnavailable when there is none, naming those that are too old.
    """
    found = {shutil.which("bwrap"), *(shutil.which("bwrap", path=folder) for folder in system.split(":"))}
    too_old = []
    for path in sorted(filter(None, found), key=lambda p: p != shutil.which("bwrap")):
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
        numbers = re.search(r"(\d+)\.(\d+)\.(\d+)", said.stdout)
        if numbers and tuple(map(int, numbers.groups())) >= OLDEST:
            return path, numbers[0]
        too_old.append(f"{path} ({said.stdout.strip() or 'not bubblewrap'})")
    if not too_old:
        raise SandboxUnavailable(f"sandbox: bubblewrap is not installed: {INSTALL_HINT}")
    oldest = ".".join(map(str, OLDEST))
    raise SandboxUnavailable(
        f"sandbox: it needs bubblewrap {oldest} or newer, not {', '.join(too_old)}: {INSTALL_HINT}; "
        "where that is older still, build it (github.com/containers/bubblewrap) and put it on PATH"
    )


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
