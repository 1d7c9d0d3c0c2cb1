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


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "code: give a JSON object"),
        ({"language": "python"}, "code: give a JSON object"),
        ({"code": "1", "language": "cpp"}, "language='cpp': give python"),
        ({"code": "1", "run_timeout": -1}, "run_timeout=-1: give seconds"),
        ({"code": "1", "memory_limit_MB": 1}, "memory_mb=1"),
        ({"code": "1", "stdin": "x"}, "stdin: programs get no input"),
    ],
)
def test_a_wrong_request_is_refused_by_field_and_value(url: str, body: Any, message: str) -> None:
    code, said = _post(url, body)
    assert (code, said["status"]) == (400, "SandboxError")
    assert message in said["message"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org"])
def test_it_refuses_to_listen_to_the_world(host: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        serve(SandboxClient(Limits(), 1), host, 8080)
