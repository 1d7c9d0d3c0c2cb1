"""What a caller and a worker say to each other over the socket pair of one call. Integers are little-endian.

Request: length (8 bytes), code. Answer: reason (16 bytes, zero-padded), duration in seconds (float64),
length of stdout, length of stderr (8 bytes each), stdout, stderr; then the worker closes its end.
"""

from __future__ import annotations

import socket
import struct

UNAVAILABLE = "unavailable"  # the isolation could not be set up; stderr says why
MAX_CODE_BYTES = 1 << 20

_REQUEST = struct.Struct("<Q")
_ANSWER = struct.Struct("<16sdQQ")


def pack_request(code: bytes) -> bytes:
    return _REQUEST.pack(len(code)) + code


def read_request(caller: socket.socket) -> bytes | None:
    """The code, or None when the caller has gone or sends nonsense. Blocks."""
    size = _read_exactly(caller, _REQUEST.size)
    if size is None:
        return None
    (length,) = _REQUEST.unpack(size)
    return _read_exactly(caller, length) if length <= MAX_CODE_BYTES else None


def _read_exactly(source: socket.socket, count: int) -> bytes | None:
    got = bytearray()
    while len(got) < count:
        try:
            part = source.recv(min(count - len(got), 1 << 20))
        except ConnectionResetError:
            return None
        if not part:
            return None
        got += part
    return bytes(got)


def pack_result(reason: str, duration_s: float, stdout: bytes, stderr: bytes) -> bytes:
    return _ANSWER.pack(reason.encode(), duration_s, len(stdout), len(stderr)) + stdout + stderr


def unpack_result(answer: bytes) -> tuple[str, float, bytes, bytes] | None:
    """Reason, seconds, stdout, stderr; None when the answer is not whole (the worker died)."""
    if len(answer) < _ANSWER.size:
        return None
    reason, duration, out, err = _ANSWER.unpack_from(answer)
    body = answer[_ANSWER.size :]
    if len(body) != out + err:
        return None
    return reason.rstrip(b"\0").decode(), duration, body[:out], body[out:]
