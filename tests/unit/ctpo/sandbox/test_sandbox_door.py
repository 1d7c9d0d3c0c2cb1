"""The server's socket: neither a malformed nor a slow request kills a worker or holds up the next caller."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict

import pytest
from watching import workers

from ctpo.sandbox import Limits, SandboxServer
from ctpo.sandbox.protocol import MAX_CODE_BYTES, Request

pytestmark = pytest.mark.slow


def _framed(head: bytes, code: bytes = b"print(1)") -> bytes:
    return (len(head) + 1 + len(code)).to_bytes(8, "little") + head + b"\n" + code


def _limits(**changed: object) -> bytes:
    return json.dumps({"limits": asdict(Limits()) | changed, "echo": True}).encode()


NONSENSE = {
    "deep list": _framed(b"[" * 4000),
    "deep object": _framed(b'{"limits":' * 400),
    "deep list in a long head": _framed(b"[" * 500_000),
    "long number": _framed(_limits().replace(b"5.0", b"9" * 3000, 1)),
    "longer number": _framed(_limits().replace(b"5.0", b"9" * 4000 + b"." + b"9" * 4000, 1)),
    "for ever": _framed(_limits(wall_s=1e8)),
    "infinite": _framed(_limits(wall_s=float("inf"))),
    "no number": _framed(_limits(cpu_s=float("nan"))),
    "many processes": _framed(_limits(processes=10**9)),
    "much output": _framed(_limits(output_bytes=1 << 62)),
    "text": _framed(_limits(files="many")),
    "unknown limit": _framed(_limits(rights="all")),
    "no limits": _framed(b'{"echo": true}'),
    "list": _framed(b"[]"),
    "null": _framed(b"null"),
    "no head": _framed(b""),
    "bytes": _framed(b"\xff\xfe\x00"),
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "no length": b"\x01\x00",
    "no body": (100).to_bytes(8, "little"),
    "zero": bytes(8),
    "huge length": (1 << 63).to_bytes(8, "little") + b"x" * 100,
    "longer than a program may be": (MAX_CODE_BYTES + 5000).to_bytes(8, "little") + bytes(MAX_CODE_BYTES + 5000),
}


@pytest.fixture(scope="module")
def door() -> Iterator[SandboxServer]:
    server = SandboxServer(1, modules="")
    server.ready()
    yield server
    server.close()


def _connect(door: SandboxServer) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(f"\0{door.address}")
    return connection


def _seconds_of_a_call(door: SandboxServer) -> float:
    begun = time.monotonic()
    with _connect(door) as caller:
        caller.sendall(Request(b"print(6 * 7)", Limits(wall_s=30.0)).pack())
        said = b"".join(iter(lambda: caller.recv(4096), b""))
    assert b"42\n" in said
    return time.monotonic() - begun


@pytest.mark.parametrize("sent", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_hung_up_on_and_kills_no_worker(sent: bytes, door: SandboxServer) -> None:
    _seconds_of_a_call(door)
    before = workers(door.process.pid)
    with _connect(door) as caller, contextlib.suppress(ConnectionError):
        caller.sendall(sent)
        caller.shutdown(socket.SHUT_WR)
        assert caller.recv(100) == b""
    _seconds_of_a_call(door)
    assert workers(door.process.pid) == before


def test_a_request_that_comes_byte_by_byte_is_answered_and_holds_nobody_up(door: SandboxServer) -> None:
    _seconds_of_a_call(door)
    request = Request(b"'slow'", Limits(wall_s=30.0)).pack()
    silent = [_connect(door) for _ in range(20)]
    with _connect(door) as slow:
        for byte in request[:-1]:
            slow.send(bytes([byte]))
            time.sleep(0.01)
        assert _seconds_of_a_call(door) < 3.0  # 20 silent callers, one in the middle of its request
        slow.send(request[-1:])
        assert b"'slow'\n" in b"".join(iter(lambda: slow.recv(4096), b""))
    for caller in silent:
        assert caller.recv(1) == b"", "a request must arrive within ten seconds"
        caller.close()


def test_more_callers_than_a_worker_waits_for_cost_no_call(door: SandboxServer) -> None:
    crowd = [_connect(door) for _ in range(100)]
    for caller in crowd:
        caller.send(b"\x10")
    assert _seconds_of_a_call(door) < 20.0
    for caller in crowd:
        caller.close()
    assert _seconds_of_a_call(door) < 20.0
