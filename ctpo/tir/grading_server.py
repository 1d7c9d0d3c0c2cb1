"""The processes behind `ctpo.tir.grading`: one warm parent that forks workers, each with hard limits.

`math-verify` builds SymPy objects out of whatever a model wrote, so a comparison can take for ever, eat all
memory or crash the interpreter. A worker compares one pair after another; before each it sets timers whose
default action is its end, whatever code it is in. Then a new worker is forked from the parent, which has
everything imported and itself compares nothing.

Run as `python -m ctpo.tir.grading_server CONTROL_FD CPU_SECONDS WALL_SECONDS`. The control socket brings one
connection per worker and ends the process when it closes. A connection brings JSON lists `[answer, gold]`, one
per message, and takes back `EQUAL` or `DIFFERENT`, with `RETIRED` behind the last one; `[gold]` asks whether
the text can be read.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from typing import Any, NoReturn

from ctpo.tir.answers import explicit
from ctpo.tir.comparing import equal, readable

READY, EQUAL, DIFFERENT, RETIRED = b"r", b"=", b"!", b"."
MAX_MESSAGE = 1 << 16
MEMORY_BYTES = 1 << 30
COMPARISONS_PER_WORKER = 1000
"""SymPy's caches grow with every expression; a new worker starts with the parent's."""
_DIGITS = 40
_POINTS = ("0.731", "1.917")
# The parser builds its tables as it meets each construct; built here, every worker has them.
_WARM_UP = (
    "\\frac{1}{2}+3",
    "2.5x",
    "x=2y",
    "-2\\sqrt{2}+\\pi",
    "[-2,\\infty)\\cup(2,5]",
    "x^2+2xy-\\frac{x}{2}",
    "2e^{i\\pi/3}",
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
    "2^{10}\\cdot 3!",
    "\\sin 2\\log_2 x",
    "2+3i",
    "\\binom{5}{2}",
    "x\\le 2",
    "|x-2|",
    "\\sqrt[3]{2x}",
    "\\cos 20^\\circ",
)


@functools.cache
def _extraction() -> Any:
    """Units are off: `ctpo.tir.comparing` knows which there are, and c and t are variables here."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig

    rules = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    return LatexExtractionConfig(boxed_match_priority=0, normalization_config=rules)


@functools.lru_cache(maxsize=512)
def _parsed(latex: str) -> Any:
    """The SymPy object that math-verify reads in the text, or None."""
    import sympy
    from math_verify import parse

    # LaTeX alone: the plain-text reading fishes any number out of a text that does not parse.
    found = parse(
        f"\\boxed{{{explicit(latex)}}}",
        [_extraction()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    if not found:
        return None
    units = {symbol: sympy.I for symbol in found[0].free_symbols if symbol.name == "i"}
    return found[0].subs(units) if units else found[0]


def same_value(answer: str, gold: str) -> bool:
    """Whether `math-verify` reads both texts as the same mathematical object (no time limit of its own).

    Where both have values, those decide when they differ: `simplify`, which math-verify tries last, takes most of
    the time there and never finds them equal.
    """
    from math_verify import verify

    ours, theirs = _parsed(answer), _parsed(gold)
    if ours is None or theirs is None:
        return False
    return not _differ_in_value(ours, theirs) and bool(verify(theirs, ours, timeout_seconds=None))


def _differ_in_value(first: Any, second: Any) -> bool:
    """True only if both are numbers (for free variables: at some points) and clearly not the same one."""
    import sympy

    if not (isinstance(first, sympy.Expr) and isinstance(second, sympy.Expr)):
        return False
    names = {symbol.name for symbol in first.free_symbols}
    if names != {symbol.name for symbol in second.free_symbols}:
        return False
    if first.has(sympy.Float) or second.has(sympy.Float):
        return False  # math-verify's rule for rounded decimals
    for shift, point in enumerate(_POINTS if names else ("0",)):
        values = []
        for expression in (first, second):
            ordered = sorted(expression.free_symbols, key=lambda symbol: symbol.name)
            chosen = {symbol: sympy.Rational(point) + n + shift for n, symbol in enumerate(ordered)}
            values.append(sympy.N(expression.doit().subs(chosen), _DIGITS))
        if not all(value.is_number for value in values):
            return False
        if not all(value.is_finite for value in values):
            return values[0] != values[1] or values[0] is sympy.nan
        # Relative: 1/2004! and 2/2004! differ. But a zero in another form comes out as some rounding error.
        scale = 1 if 0 in values else max(abs(values[0]), abs(values[1]))
        if abs(values[0] - values[1]) > sympy.Float("1e-20") * scale:
            return True
    return False


def _serve(connection: socket.socket, cpu_seconds: float, wall_seconds: float) -> NoReturn:
    """Compare what arrives until the connection closes; the timers' signals end the process even inside C code."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        for left in reversed(range(COMPARISONS_PER_WORKER)):
            message = connection.recv(MAX_MESSAGE)
            if not message:
                break
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
            signal.setitimer(signal.ITIMER_REAL, wall_seconds)
            try:
                verdict = EQUAL if _verdict(json.loads(message)) else DIFFERENT
            except (Exception, RecursionError, MemoryError):
                # What cannot be read or compared is not right; what it left behind ends with this worker.
                verdict, left = DIFFERENT, 0
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(verdict if left else verdict + RETIRED)
            if not left:
                break
    finally:
        os._exit(0)


def _verdict(request: list[str]) -> bool:
    if len(request) == 1:
        return readable(request[0], lambda text: _parsed(text) is not None)
    return equal(request[0], request[1], same_value)


def main() -> None:
    """Warm up, say so, then fork a worker for every connection received until the control socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    cpu_seconds, wall_seconds = float(sys.argv[2]), float(sys.argv[3])
    logging.disable(logging.CRITICAL)
    for text in _WARM_UP:
        same_value(text, text.replace("2", "3"))
        same_value(text + "+0", text)
    _parsed.cache_clear()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for limit in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(limit, signal.SIG_DFL)
    control.send(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        with socket.socket(fileno=descriptors[0]) as connection:
            if os.fork() == 0:
                control.close()
                _serve(connection, cpu_seconds, wall_seconds)


if __name__ == "__main__":
    main()
