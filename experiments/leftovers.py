"""Ends what a run leaves behind, however the run itself ended: ``python -I -S leftovers.py FOLDER``.

This is a process of its own, because a run that got `kill -9` cannot clean up, and Ray's helpers would live on for
minutes. It waits for the end of its input, which comes with the end of its parent. It needs only Python itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

#: How long processes have to end by themselves: Ray's own, once their head is gone.
PATIENCE_S = 5.0
POLL_S = 0.2


def users(folder: str) -> list[int]:
    """Processes that have `folder` as their TMPDIR, or a file of it open.

    Ray's processes overwrite their environment with a title, but they keep logs open there. A Ray worker that is just
    starting has neither; it gives up within a minute.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in (os.getpid(), os.getppid()):
            continue
        with contextlib.suppress(OSError):
            if f"TMPDIR={folder}".encode() in (entry / "environ").read_bytes().split(b"\0") or any(
                os.readlink(link).startswith(f"{folder}/") for link in (entry / "fd").iterdir()
            ):
                found.append(int(entry.name))
    return found


def clean(folder: str) -> None:
    """End the processes that use `folder`, then remove it."""
    end = time.monotonic() + PATIENCE_S
    while (left := users(folder)) and time.monotonic() < end + PATIENCE_S:
        if time.monotonic() > end:
            for process in left:
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    clean(sys.argv[1])


if __name__ == "__main__":
    main()
