"""Locks that the kernel lets go of when their process ends, however it ends."""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import FileLock, Timeout

#: File systems without locks (some Lustre mounts): work goes on unguarded there.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def acquire(path: Path, patience_s: float) -> FileLock | None:
    """Holds the lock file `path` until `release()` of what is returned; None if another process has it for that long.

    Raises:
        OSError: the file cannot be made.
    """
    lock = FileLock(path, timeout=patience_s, mode=0o644, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(poll_interval=0.05)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return lock
