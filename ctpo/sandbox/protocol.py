"""What a caller, a worker and the isolated process say to each other. Integers are little-endian.

Caller to worker, over the server's Unix socket, one connection per call: length (8 bytes), a
JSON object with the limits and the switch `echo` on one line, the code. The worker answers one byte when it takes the
call on, so that a caller can tell waiting in line from running; then reason (16 bytes, zero-padded),
duration in seconds (float64), exit
status (int32, negative for a signal), three lengths (8 bytes each), stdout, stderr, the uncaught exception.

Worker to isolated process (an *order*): length (8 bytes), a line of integers, the code; see `inside`.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import struct
from dataclasses import asdict, dataclass
from typing import NamedTuple

from ctpo.sandbox.limits import Limits

UNAVAILABLE = "unavailable"  # the isolation could not be set up; stderr says why
TAKEN = b"T"
MAX_CODE_BYTES = 1 << 20
_MAX_HEAD_BYTES = 4096

_LENGTH = struct.Struct("<Q")
ANSWER = struct.Struct("<16sdiQQQ")


@dataclass(frozen=True)
class Request:
    """One program to run. `echo`: show the value of a last bare expression."""

    code: bytes
    limits: Limits
    echo: bool = True

    def pack(self) -> bytes:
        head = json.dumps({"limits": asdict(self.limits), "echo": self.echo})
        body = head.encode() + b"\n" + self.code
        return _LENGTH.pack(len(body)) + body

    @classmethod
    def unpack(cls, body: bytes) -> Request:
        """Raises ValueError, TypeError, KeyError or RecursionError for nonsense."""
        head, _, code = body.partition(b"\n")
        if len(head) > _MAX_HEAD_BYTES:
            raise ValueError("the head is too long")
        said = json.loads(head)
        return cls(code, Limits(**said["limits"]), bool(said["echo"]))

    def order(self, inherited_data_mb: int, inherited_address_mb: int) -> bytes:
        """For the isolated process, which may hold that much before its limits begin to count."""
        limits = self.limits
        numbers = (
            math.ceil(limits.cpu_s),
            inherited_data_mb + limits.memory_mb,
            inherited_address_mb + 2 * limits.memory_mb + 256,
            limits.processes,
            limits.file_mb,
            limits.files,
            self.echo,
        )
        body = " ".join(str(int(number)) for number in numbers).encode() + b"\n" + self.code
        return _LENGTH.pack(len(body)) + body


class Arrival:
    """A request that is on its way. `caller`: its connection, which must not block; `until`: when it must be there."""

    def __init__(self, caller: socket.socket, until: float) -> None:
        self.caller, self.until = caller, until
        self._got = bytearray()

    def ended(self) -> bool:
        """Take what has come; whether no more is to come: it is whole, nonsense, or the caller has gone."""
        with contextlib.suppress(BlockingIOError):
            while (left := self._missing()) > 0:
                part = self.caller.recv(left)
                if not part:
                    return True
                self._got += part
            return True
        return False

    def request(self) -> Request | None:
        """None for nonsense."""
        try:
            return Request.unpack(bytes(self._got[_LENGTH.size :])) if self._missing() == 0 else None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def _missing(self) -> int:
        """Bytes until the end as far as it is known; negative when it is longer than a request may be."""
        if len(self._got) < _LENGTH.size:
            return _LENGTH.size - len(self._got)
        (length,) = _LENGTH.unpack_from(self._got)
        return length + _LENGTH.size - len(self._got) if length <= MAX_CODE_BYTES + _MAX_HEAD_BYTES else -1


class Answer(NamedTuple):
    """How a call ended. `status`: exit status, negative for a signal; `error`: the uncaught exception, if any."""

    reason: str
    duration_s: float = 0.0
    stdout: bytes = b""
    stderr: bytes = b""
    status: int = 0
    error: bytes = b""

    def pack(self) -> bytes:
        texts = (self.stdout, self.stderr, self.error)
        return ANSWER.pack(self.reason.encode(), self.duration_s, self.status, *map(len, texts)) + b"".join(texts)

    @classmethod
    def unpack(cls, raw: bytes) -> Answer | None:
        """None when the answer is not whole (the worker died)."""
        if len(raw) < ANSWER.size:
            return None
        reason, duration, status, *sizes = ANSWER.unpack_from(raw)
        body = raw[ANSWER.size :]
        if len(body) != sum(sizes):
            return None
        out, err = sizes[0], sizes[0] + sizes[1]
        return cls(reason.rstrip(b"\0").decode(), duration, body[:out], body[out:err], status, body[err:])
