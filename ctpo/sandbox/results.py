"""What a tool call gives back, and the two ways in which the sandbox itself can fail."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Reason = Literal["ok", "error", "timeout", "memory", "output", "killed"]


class SandboxUnavailable(RuntimeError):
    """Isolation cannot be had on this host; the message says what is missing and what to install or allow."""


@dataclass(frozen=True)
class ExecutionResult:
    """Outcome of one call.

    stdout, stderr: text, cut in the middle to the call's `output_bytes`.
    reason: `ok`; `error` (exception or non-zero exit, traceback in stderr); `timeout` (wall or CPU limit);
        `memory`; `output` (wrote more than the limit); `killed` (died of a signal, e.g. a crash in C code).
    duration_s: wall seconds from the start of the isolated process to the death of its last descendant.
    status: the exit status, negative for a signal; of no meaning where a limit ended the call.
    error: type, message and notes of the uncaught exception as Python writes them; empty without one.
    """

    stdout: str
    stderr: str
    reason: Reason
    duration_s: float
    status: int = 0
    error: str = ""


def cut_middle(raw: bytes, max_bytes: int) -> str:
    """Decode `raw` as UTF-8 (a bad byte becomes U+FFFD) and keep at most about `max_bytes` bytes of it.

    Longer output keeps its beginning and its end, cut between characters, with a marker that says how many
    bytes are gone.
    """
    if len(raw) <= max_bytes:
        return raw.decode("utf-8", "replace")
    head = raw[: max_bytes // 2]
    tail = raw[len(raw) - (max_bytes - len(head)) :]
    # At most three bytes at either edge belong to a character that the cut went through.
    head = head[: len(head) - _torn_end(head)]
    tail = tail[_torn_start(tail) :]
    gone = len(raw) - len(head) - len(tail)
    return f"{head.decode('utf-8', 'replace')}\n[... {gone} bytes cut ...]\n{tail.decode('utf-8', 'replace')}"


def _torn_start(part: bytes) -> int:
    """Number of leading continuation bytes (at most 3): the rest of a character that began before."""
    count = 0
    while count < min(3, len(part)) and part[count] & 0xC0 == 0x80:
        count += 1
    return count


def _torn_end(part: bytes) -> int:
    """Number of trailing bytes of a character that has not ended yet (0 to 3)."""
    for back in range(1, min(3, len(part)) + 1):
        byte = part[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back if length > back else 0
    return 0


def advice(complaint: str) -> str:
    """A complaint of the kernel with what to allow, from the host's own switches where they say so."""
    switches = {
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
        "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=15000"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "an AppArmor profile for bwrap, or sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
    for path, (blocking, remedy) in switches.items():
        with contextlib.suppress(OSError):
            if Path(path).read_text().strip() == blocking:
                return f"sandbox: calls cannot be isolated ({complaint}); allow it: {remedy}"
    inside = "; start the container with user namespaces allowed" if os.path.exists("/.dockerenv") else ""
    return (
        f"sandbox: calls cannot be isolated ({complaint}); the host must allow user namespaces "
        f"(sysctl user.max_user_namespaces, also of the namespaces around this one){inside}"
    )
