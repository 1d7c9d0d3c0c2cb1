"""Locks that the kernel lets go of when their process ends, however it ends."""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import FileLock, Timeout

#: File systems without locks (some Lustre mounts): work goes on unguarded there.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def acquire(path: Path, patience_s: float, mode: int = 0o644) -> FileLock | None:
    """The lock of the file `path`, held until its `release()`; None if another process keeps it for `patience_s`.

    Args:
        path: the lock file, made with the rights `mode`.
        patience_s: seconds to wait; -1 waits without end.

    Raises:
        OSError: the file cannot be made.
    """
    lock = FileLock(path, timeout=patience_s, mode=mode, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(poll_interval=0.05)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return lock
