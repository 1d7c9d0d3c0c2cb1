"""Running a trajectory's code: one pool per node, one client per event loop, and what happens when it fails.

A program that fails is an ordinary observation. A sandbox that fails is not: the model is told that
the tool was unavailable, the error is logged and counted. If the sandbox says that it cannot work at
all, or fails `PATIENCE` times in a row, the error is raised, because training on trajectories
without their tool would be another experiment than the one configured.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from ctpo.sandbox import SandboxClient, SandboxUnavailable, node_server
from ctpo.tir.prompts import UNAVAILABLE, observation

if TYPE_CHECKING:
    from ctpo.sandbox import ExecutionResult
    from ctpo.tir.config import TirConfig

logger = logging.getLogger(__name__)

PATIENCE = 8


class CodeRunner(Protocol):
    """What this module needs of `ctpo.sandbox.SandboxClient`."""

    async def run(self, code: str) -> ExecutionResult:
        """Execute one program."""


@dataclass(frozen=True)
class Observed:
    """What the model is shown of one call; `failed` unless the program ran to its end without an error."""

    text: str
    failed: bool
    unavailable: bool = False


class PythonTool:
    """Executes code for all trajectories of one event loop."""

    def __init__(self, runner: CodeRunner, max_chars: int) -> None:
        self._runner = runner
        self._max_chars = max_chars
        self._failures_in_a_row = 0

    async def observe(self, code: str) -> Observed:
        """Run `code` and put its outcome into words.

        Raises:
            SandboxUnavailable: isolation cannot be had.
            RuntimeError: the sandbox failed `PATIENCE` times in a row.
        """
        try:
            result = await self._runner.run(code)
        except SandboxUnavailable:
            raise
        except Exception as error:
            self._failures_in_a_row += 1
            logger.error("the sandbox failed (%d in a row)", self._failures_in_a_row, exc_info=error)
            if self._failures_in_a_row >= PATIENCE:
                raise RuntimeError(
                    f"the sandbox failed {self._failures_in_a_row} times in a row, last: {error!r}; "
                    "see `python -m ctpo.sandbox doctor`"
                ) from error
            return Observed(UNAVAILABLE[: self._max_chars], failed=True, unavailable=True)
        self._failures_in_a_row = 0
        return Observed(observation(result, self._max_chars), failed=result.reason != "ok")


# A client belongs to the event loop that it was first used in, and must bound the calls of all of that
# loop's trajectories together; verl builds a new agent loop object for each of them.
_tools: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[TirConfig, PythonTool]] = WeakKeyDictionary()


def shared_tool(config: TirConfig) -> PythonTool:
    """The running event loop's tool for this configuration, made at the first request."""
    per_loop = _tools.setdefault(asyncio.get_running_loop(), {})
    if config not in per_loop:
        per_loop[config] = PythonTool(SandboxClient(config.sandbox, config.concurrency), config.tool_output_chars)
    return per_loop[config]


@contextmanager
def tool_server(config: TirConfig) -> Iterator[None]:
    """The pool of this node, for all processes that are started meanwhile; ends with this process at the latest."""
    with node_server(config.concurrency):
        yield
