"""An HTTP front that answers as SandboxFusion's `/run_code` does, so that either side can be swapped.

`POST /run_code` with JSON `{"code": ..., "language": "python", "run_timeout": 10, "compile_timeout": 10,
"memory_limit_MB": -1}`; the answer has `status` (`Success`, `Failed`, `SandboxError`), `message`, `compile_result`
(null: Python is not compiled) and `run_result`: `status` (`Finished`, `Error`, `TimeLimitExceeded`),
`execution_time`, `return_code`, `stdout`, `stderr`. As there, nothing is echoed. Loopback only: whoever can connect
can run code.
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import replace
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctpo.sandbox.client import SandboxClient
from ctpo.sandbox.limits import Limits
from ctpo.sandbox.protocol import MAX_CODE_BYTES
from ctpo.sandbox.results import ExecutionResult, SandboxUnavailable

_LONGEST_S = 600.0
_ARRIVAL_S = 10.0  # a request's head, and then its body, must arrive within


class Asked(BaseModel):
    """The body of a request, in SandboxFusion's names; names that are not here have no effect."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    code: str = Field(max_length=MAX_CODE_BYTES)
    language: Literal["python", "python3", "py"] = "python"
    run_timeout: float | None = Field(default=None, ge=0, le=_LONGEST_S)
    memory_limit_MB: int = -1
    stdin: Literal["", None] = None
    files: dict[str, None] | None = Field(default=None, max_length=0)

    def limits(self, defaults: Limits) -> Limits:
        """Raises ValueError naming a limit that is out of its bounds."""
        wall_s = self.run_timeout or defaults.wall_s
        memory_mb = defaults.memory_mb if self.memory_limit_MB in (-1, 0) else self.memory_limit_MB
        return replace(defaults, wall_s=wall_s, cpu_s=wall_s, memory_mb=memory_mb)


def application(client: SandboxClient) -> web.Application:
    """The front for `client`, whose limits hold where a request gives none."""

    async def run_code(request: web.Request) -> web.Response:
        try:
            asked = Asked.model_validate_json(await asyncio.wait_for(request.read(), _ARRIVAL_S))
            limits = asked.limits(client.limits)
        except asyncio.TimeoutError:
            return _refusal(f"the body did not arrive within {_ARRIVAL_S:.0f} s", 408)
        except ValueError as error:
            return _refusal(_first(error) if isinstance(error, ValidationError) else str(error), 400)
        try:
            result = await client.run(asked.code, limits=limits, echo=False)
        except SandboxUnavailable as error:
            return _refusal(str(error), 200)
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
    web.run_app(
        app,
        host=host,
        port=port,
        print=lambda text: print(text.splitlines()[0], flush=True),
        handler_cancellation=True,  # whose client hangs up is cancelled, and with it the call
        keepalive_timeout=_ARRIVAL_S,  # also of a connection whose first request does not arrive
    )


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _first(error: ValidationError) -> str:
    """The first complaint: field, value, and what to give."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "body"
    return f"{field}={first['input']!r:.60}: {first['msg']}"


def _refusal(message: str, status: int) -> web.Response:
    return web.json_response(_answer("SandboxError", message, None), status=status)


def _run_result(result: ExecutionResult) -> dict[str, Any]:
    ended = {"ok": "Finished", "error": "Finished", "timeout": "TimeLimitExceeded"}.get(result.reason, "Error")
    return {
        "status": ended,
        "execution_time": result.duration_s,
        "return_code": result.status if result.reason in ("ok", "error", "killed") else None,
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
