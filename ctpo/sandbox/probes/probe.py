"""A hostile program with what must be true of its result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ctpo.sandbox.limits import Limits
from ctpo.sandbox.results import ExecutionResult, Reason

BREACH = "BREACH"
PROBE_LIMITS = Limits(wall_s=30.0, cpu_s=10.0, memory_mb=256, output_bytes=4096, processes=16, file_mb=8, files=256)
_UNTIL_TIMEOUT_S = 1.0

AFTER = "import os, sys\nprint(6 * 7, os.listdir('/tmp'), len(os.environ) < 6, 'left' in sys.modules, len('abc'))"
AFTER_SAYS = "42 [] True False 3\n"


@dataclass(frozen=True)
class Probe:
    """`code` must end for one of `reasons`, print `expect`, and never print BREACH.

    A program prints BREACH as soon as it gets anywhere it must not. `warm_only`: about what bubblewrap cannot bound.
    """

    name: str
    code: str
    reasons: tuple[Reason, ...] = ("ok",)
    expect: str = ""
    warm_only: bool = False

    @property
    def limits(self) -> Limits:
        """Short where the program is to run into its time limit; else long enough for any busy machine."""
        if "timeout" not in self.reasons:
            return PROBE_LIMITS
        return replace(PROBE_LIMITS, wall_s=_UNTIL_TIMEOUT_S, cpu_s=_UNTIL_TIMEOUT_S)

    def failure(self, result: ExecutionResult) -> str:
        """What went wrong, in one line; empty if contained."""
        if BREACH in result.stdout:
            return "got out: " + result.stdout.strip().replace("\n", "; ")[:200]
        if result.reason not in self.reasons or self.expect not in result.stdout:
            return f"ended with {result.reason!r}: {(result.stdout + result.stderr).strip()[-200:]!r}"
        return ""


def aftermath(after: ExecutionResult) -> str:
    """What is wrong with `AFTER`, the next call; empty if it is as good as ever."""
    if (after.stdout, after.stderr, after.reason) == (AFTER_SAYS, "", "ok"):
        return ""
    return f"the next call failed: {after.reason} {(after.stdout + after.stderr).strip()[-200:]!r}"
