"""What a caller, a worker and the isolated process say to each other. Integers are little-endian.

Caller to worker, over the server's Unix socket, one connection per call: length (8 bytes), a
JSON object with the limits and the switch `echo` on one line, the code. The worker answers one byte when it takes the
call on, so that a caller can tell waiting in line from running; then reason (16 bytes, zero-padded),
duration in seconds (float64), length of stdout, length of stderr (8 bytes each), stdout, stderr.

Worker to isolated process (an *order*): length (8 bytes), a line of integers, the code; see `inside`.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from dataclasses import asdict, dataclass

from ctpo.sandbox.limits import Limits

UNAVAILABLE = "unavailable"  # the isolation could not be set up; stderr says why
TAKEN = b"T"
MAX_CODE_BYTES = 1 << 20
_MAX_HEAD_BYTES = 4096

_LENGTH = struct.Struct("<Q")
ANSWER = struct.Struct("<16sdQQ")


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
        """Raises ValueError, TypeError or KeyError for nonsense."""
        head, _, code = body.partition(b"\n")
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


def read_request(caller: socket.socket) -> Request | None:
    """The next request, or None when the caller has gone or sends nonsense. Blocks."""
    size = _read_exactly(caller, _LENGTH.size)
    if size is None:
        return None
    (length,) = _LENGTH.unpack(size)
    body = _read_exactly(caller, length) if length <= MAX_CODE_BYTES + _MAX_HEAD_BYTES else None
    if body is None:
        return None
    try:
        return Request.unpack(body)
    except (ValueError, TypeError, KeyError):
        return None


def _read_exactly(source: socket.socket, count: int) -> bytes | None:
    got = bytearray()
    while len(got) < count:
        try:
            part = source.recv(min(count - len(got), 1 << 20))
        except OSError:
            return None
        if not part:
            return None
        got += part
    return bytes(got)


def pack_result(reason: str, duration_s: float, stdout: bytes, stderr: bytes) -> bytes:
    return ANSWER.pack(reason.encode(), duration_s, len(stdout), len(stderr)) + stdout + stderr


def unpack_result(answer: bytes) -> tuple[str, float, bytes, bytes] | None:
    """Reason, seconds, stdout, stderr; None when the answer is not whole (the worker died)."""
    if len(answer) < ANSWER.size:
        return None
    reason, duration, out, err = ANSWER.unpack_from(answer)
    body = answer[ANSWER.size :]
    if len(body) != out + err:
        return None
    return reason.rstrip(b"\0").decode(), duration, body[:out], body[out:]
