"""What a run is started in: its environment, a short folder for sockets, and an end for all that it starts."""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ctpo.training.platforms import environment
from experiments import leftovers

#: Bytes of a folder in which a run can make its own. A socket's path has at most 107; the rest is `/ctpo-12345678` and
#: Ray's `/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1`.
LONGEST_FOLDER = 107 - 14 - 68
#: Open files, and processes with their threads, that a run is given where it may have as many.
ENOUGH = 65536
FALLBACKS = ("/tmp", "/var/tmp", "/dev/shm")


def folder_for_sockets(variables: Mapping[str, str]) -> str | None:
    """`TMPDIR` if a run can use it, else the first fallback that it can; None if there is none."""
    for folder in (variables.get("TMPDIR") or "", *FALLBACKS):
        folder = folder.rstrip("/")
        if folder.startswith("/") and len(os.fsencode(folder)) <= LONGEST_FOLDER and _takes_files(folder):
            return folder
    return None


def _takes_files(folder: str) -> bool:
    """Tried, because rights do not tell: root has them all, and /proc takes nothing."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix="ctpo-", dir=folder))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def of_a_run(device: str, variables: Mapping[str, str]) -> Iterator[str]:
    """Within it, this process has the environment of a run; behind it, nothing that was started in it is left.

    Yields:
        The run's own temporary folder, short enough for every socket, removed in the end.

    Args:
        device: `trainer.device`.
        variables: of this run alone.
    """
    before = dict(os.environ)
    folder = tempfile.mkdtemp(prefix="ctpo-", dir=folder_for_sockets(before))
    # Not a thread or a hook: after `kill -9` of this process it is the only one that still can.
    cleaner = subprocess.Popen(
        [sys.executable, "-I", "-S", leftovers.__file__, folder],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    kept = environment.inherited(before, device, _addresses())
    if left_out := sorted(name for name in before if name not in kept):
        print(f"not passed on to the run: {', '.join(left_out)}")
    try:
        os.environ.clear()
        os.environ.update(kept)
        os.environ.update({**_home(folder), "TMPDIR": folder, **variables})
        tempfile.tempdir = None
        _raise_limits()
        yield folder
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = None
        assert cleaner.stdin is not None
        cleaner.stdin.close()
        cleaner.wait()


def ray_settings(given: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Arguments of `ray.init` that make a cluster of this run's own, unless `given` names the one of its job.

    Ray puts the interpreter's path into a shell's command line unquoted.
    """
    runtime = {**given.get("runtime_env", {}), "py_executable": shlex.quote(sys.executable)}
    own = {} if given.get("address") else {"address": "local", "_temp_dir": folder}
    return {**given, **own, "runtime_env": runtime}


def _home(folder: str) -> dict[str, str]:
    """Libraries keep caches and settings below HOME; where it cannot be written to, below `folder`."""
    home = Path(os.path.expanduser("~"))
    if _takes_files(str(home)):
        return {"HOME": str(home)}
    hub = os.environ.get("HF_HOME") or home / ".cache" / "huggingface"
    return {"HOME": folder, **({"HF_HOME": str(hub)} if Path(hub).is_dir() else {})}


def _raise_limits() -> None:
    """To what this user may have: Ray opens hundreds of files and threads in each of its processes."""
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
        soft, hard = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
            resource.setrlimit(limit, (max(soft, wanted), hard))


def _addresses() -> tuple[str, ...]:
    """Name and address of this machine; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("10.255.255.255", 1))
        return socket.gethostname(), str(probe.getsockname()[0])
    return (socket.gethostname(),)
