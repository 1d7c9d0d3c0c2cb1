"""Whether the process of a run still lives, asked without touching the lock that it holds."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

LOCK_FILE = ".lock"
_LOCKS = Path("/proc/locks")


def host_of(manifest: dict[str, Any]) -> str | None:
    """The host that a run was last started on."""
    restarts = manifest.get("restarts") or []
    hardware = (restarts[-1] if restarts else manifest).get("hardware") or {}
    return hardware.get("host")


def is_alive(run: Path, manifest: dict[str, Any]) -> bool | None:
    """Whether a process of this host trains into `run`; None where that cannot be told from here.

    A watcher must not take the lock to find out, not for an instant: a run that starts in that instant would
    give up. Linux lists the holders of all locks; it lists none of other hosts.
    """
    if host_of(manifest) != platform.node():
        return None
    try:
        inode = os.stat(run / LOCK_FILE).st_ino
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return None
    return any(" FLOCK " in line and f":{inode} " in line for line in lines)
