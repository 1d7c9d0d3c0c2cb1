"""The HTTP front, as SandboxFusion's clients use it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from ctpo.sandbox import Limits, SandboxClient
from ctpo.sandbox.http_front import serve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ctpo.sandbox", "serve", "--port", str(port), "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as front:
        assert front.stdout is not None
        assert f":{port}" in front.stdout.readline()
        yield f"http://127.0.0.1:{port}/run_code"
        front.terminate()
        assert front.wait(60) == 0


def _post(url: str, body: Any) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_program_that_ends_well_is_a_success(url: str) -> None:
    code, said = _post(url, {"code": "print(6 * 7)\n'no echo'", "language": "python", "run_timeout": 30})
    assert (code, said["status"], said["compile_result"]) == (200, "Success", None)
    run = said["run_result"]
    assert (run["status"], run["return_code"], run["stdout"], run["stderr"]) == ("Finished", 0, "42\n", "")
    assert 0 < run["execution_time"] < 30


def test_an_exception_is_a_failure_with_its_traceback(url: str) -> None:
    _, said = _post(url, {"code": "1/0", "run_timeout": 30})
    assert (said["status"], said["run_result"]["status"], said["run_result"]["return_code"]) == (
        "Failed",
        "Finished",
        1,
    )
    assert "ZeroDivisionError" in said["run_result"]["stderr"]


def test_the_run_timeout_holds(url: str) -> None:
    begun = time.monotonic()
    _, said = _post(url, {"code": "while True: pass", "run_timeout": 1, "compile_timeout": 1})
    assert (said["status"], said["run_result"]["status"]) == ("Failed", "TimeLimitExceeded")
    assert time.monotonic() - begun < 20


def test_the_memory_limit_holds(url: str) -> None:
    _, said = _post(url, {"code": "x = bytearray(b'x' * (300 << 20))", "memory_limit_MB": 64, "run_timeout": 30})
    assert (said["status"], said["run_result"]["status"]) == ("Failed", "Error")


def _answer(url: str, sent: bytes, patience_s: float = 120.0) -> bytes:
    """What the front says to `sent`; empty where it hangs up without a word."""
    port = int(url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), patience_s) as connection:
        connection.sendall(sent)
        return connection.recv(65536)


def _request(body: bytes) -> bytes:
    return b"POST /run_code HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "body=[]"),
        (b"null", "body=None"),
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        ('{"code": "1"}'.encode("utf-16"), "Invalid JSON"),
        (b'{"code": "\\ud800"}', "Invalid JSON"),
        pytest.param(b"[" * 100_000, "recursion", id="deep list"),
        pytest.param(b'{"code":' * 100_000, "recursion", id="deep object"),
        (b'{"language": "python"}', "code="),
        (b'{"code": 1}', "code=1"),
        (b'{"code": ["1"]}', "code=['1']"),
        pytest.param(b'{"code": "%s"}' % (b"x" * (1 << 20) + b"y"), "code='xxx", id="long code"),
        (b'{"code": "1", "language": "cpp"}', "language='cpp'"),
        (b'{"code": "1", "language": null}', "language=None"),
        (b'{"code": "1", "run_timeout": -1}', "run_timeout=-1"),
        (b'{"code": "1", "run_timeout": 1e8}', "run_timeout=100000000.0"),
        (b'{"code": "1", "run_timeout": 1e400}', "run_timeout=inf"),
        (b'{"code": "1", "run_timeout": NaN}', "run_timeout=nan"),
        (b'{"code": "1", "run_timeout": "5"}', "run_timeout='5'"),
        (b'{"code": "1", "run_timeout": true}', "run_timeout=True"),
        pytest.param(b'{"code": "1", "run_timeout": %s}' % (b"9" * 4000), "run_timeout=999", id="long number"),
        pytest.param(b'{"code": "1", "memory_limit_MB": %s}' % (b"9" * 9999), "Invalid JSON", id="longer number"),
        (b'{"code": "1", "memory_limit_MB": 1}', "memory_mb=1: give a whole number from 32"),
        (b'{"code": "1", "memory_limit_MB": 1000000000}', "memory_mb=1000000000"),
        (b'{"code": "1", "memory_limit_MB": 64.5}', "memory_limit_MB=64.5"),
        (b'{"code": "1", "stdin": "x"}', "stdin='x'"),
        (b'{"code": "1", "files": {"a": "b"}}', "files.a='b'"),
    ],
)
def test_a_wrong_request_is_refused_by_field_and_value(url: str, body: bytes, message: str) -> None:
    head, _, said = _answer(url, _request(body)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert message in json.loads(said)["message"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /run_code HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST /run_code HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", b"400"),
        (b"POST /run_code HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        pytest.param(b"POST /run_code HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", b"400", id="long head"),
        (b"\x00\xff\r\n\r\n", b"400"),
        pytest.param(_request(b" " * (5 << 20)), b"413", id="long body"),
    ],
)
def test_a_malformed_head_or_a_long_body_is_refused(url: str, sent: bytes, status: bytes) -> None:
    assert _answer(url, sent).split()[1] == status


def test_a_client_that_hangs_up_ends_its_program_and_slow_ones_hold_nobody_up(url: str) -> None:
    port = int(url.split(":")[2].split("/")[0])
    body = json.dumps({"code": "import time\nwhile True: time.sleep(1)", "run_timeout": 600}).encode()
    leaving = socket.create_connection(("127.0.0.1", port))
    leaving.sendall(_request(body))
    slow_head, slow_body, silent = (socket.create_connection(("127.0.0.1", port), 60) for _ in range(3))
    slow_head.sendall(b"POST /run_c")
    slow_body.sendall(b"POST /run_code HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n{")
    time.sleep(1)
    begun = time.monotonic()
    leaving.close()
    assert _post(url, {"code": "print(6 * 7)", "run_timeout": 60})[1]["run_result"]["stdout"] == "42\n"
    assert time.monotonic() - begun < 20
    assert slow_body.recv(100).split()[1] == b"408"
    assert slow_head.recv(100) == silent.recv(100) == b""
    for connection in (slow_head, slow_body, silent):
        connection.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org"])
def test_it_refuses_to_listen_to_the_world(host: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        serve(SandboxClient(Limits(), 1), host, 8080)


@pytest.mark.parametrize("port", ["99999", "0", "-1", "eighty", "80.5"])
def test_a_port_that_is_none_is_one_line(port: str) -> None:
    command = [sys.executable, "-m", "ctpo.sandbox", "serve", f"--port={port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"error: argument --port: {port!r}: give a port from 1 to 65535\n"
