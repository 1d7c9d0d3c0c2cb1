"""An HTTP front that answers as SandboxFusion's `/run_code` does, so that either side can be swapped.

`POST /run_code` with JSON `{"code": ..., "language": "python", "run_timeout": 10, "compile_timeout": 10,
"memory_limit_MB": -1}`; the answer has `status` (`Success`, `Failed`, `SandboxError`), `message`, `compile_result`
(null: Python is not compiled) and `run_result`: `status` (`Finished`, `Error`, `TimeLimitExceeded`),
`execution_time`, `return_code`, `stdout`, `stderr`. As there, nothing is echoed. Loopback only: whoever can connect
can run code.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from typing import Any

from aiohttp import web

from ctpo.sandbox.client import SandboxClient
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.protocol import MAX_CODE_BYTES
from ctpo.sandbox.results import ExecutionResult, SandboxUnavailable

LANGUAGES = ("python", "python3", "py")
_LONGEST_S = 600.0
_RETURN_CODES = {"ok": 0, "error": 1}


def application(client: SandboxClient) -> web.Application:
    """The front for `client`, whose limits hold where a request gives none."""

    async def run_code(request: web.Request) -> web.Response:
        try:
            asked = json.loads(await request.read())
            code, limits = _understood(asked, client.limits)
        except ValueError as error:
            return web.json_response(_answer("SandboxError", str(error), None), status=400)
        try:
            result = await client.run(code, limits=limits, echo=False)
        except SandboxUnavailable as error:
            return web.json_response(_answer("SandboxError", str(error), None))
        return web.json_response(_answer("Success" if result.reason == "ok" else "Failed", "", _run_result(result)))

    app = web.Application(client_max_size=4 * MAX_CODE_BYTES)
    app.router.add_post("/run_code", run_code)
    return app


def serve(client: SandboxClient, host: str, port: int) -> None:
    """Serve until interrupted. Raises ValueError for an address that is not loopback, OSError for a port in use."""
    if not _loopback(host):
        raise ValueError(
            f"--host {host}: the front runs code for whoever connects, give a loopback address (127.0.0.1)"
        )

    async def closing(app: web.Application) -> None:
        await client.close()

    app = application(client)
    app.on_cleanup.append(closing)
    web.run_app(app, host=host, port=port, print=lambda text: print(text.splitlines()[0], flush=True))


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _understood(asked: Any, defaults: Limits) -> tuple[str, Limits]:
    """Raises ValueError naming the field, its value and the fix."""
    if not isinstance(asked, dict) or not isinstance(asked.get("code"), str):
        raise ValueError("code: give a JSON object with the program as a string")
    language = asked.get("language", "python")
    if language not in LANGUAGES:
        raise ValueError(f"language={language!r}: give {', '.join(LANGUAGES)}")
    if asked.get("files") or asked.get("stdin"):
        raise ValueError("files, stdin: programs get no input here, leave them empty")
    wall = asked.get("run_timeout") or defaults.wall_s
    if not isinstance(wall, int | float) or not 0 < wall <= _LONGEST_S:
        raise ValueError(f"run_timeout={wall!r}: give seconds, at most {_LONGEST_S:.0f}")
    memory = asked.get("memory_limit_MB") or -1
    memory_mb = defaults.memory_mb if memory == -1 else memory
    return asked["code"], replace(defaults, wall_s=float(wall), cpu_s=float(wall), memory_mb=memory_mb)


def _run_result(result: ExecutionResult) -> dict[str, Any]:
    ended = {"ok": "Finished", "error": "Finished", "timeout": "TimeLimitExceeded"}.get(result.reason, "Error")
    return {
        "status": ended,
        "execution_time": result.duration_s,
        "return_code": _RETURN_CODES.get(result.reason),
        "stdout": result.stdout,
        "stderr": result.stderr if result.stderr or result.reason == "ok" else f"ended: {result.reason}",
    }


def _answer(status: str, message: str, run_result: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "status": status,
        "message": message,
        "compile_result": None,
        "run_result": run_result,
        "executor_pod_name": None,
        "files": {},
    }
