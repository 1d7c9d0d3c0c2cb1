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

import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from typing import NoReturn

from ctpo.tir.comparing import equal, readable

READY, EQUAL, DIFFERENT, RETIRED = b"r", b"=", b"!", b"."
MAX_MESSAGE = 1 << 16
MEMORY_BYTES = 1 << 30
COMPARISONS_PER_WORKER = 1000
"""SymPy's caches grow with every expression; a new worker starts with the parent's."""
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
    "\\ln(2ab)",
    "n!+2",
)


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
    from ctpo.tir.mathematics import parsed, same_value  # here alone: whoever imports this module needs no SymPy

    if len(request) == 1:
        return readable(request[0], lambda text: parsed(text) is not None)
    return equal(request[0], request[1], same_value)


def main() -> None:
    """Warm up, say so, then fork a worker for every connection received until the control socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    cpu_seconds, wall_seconds = float(sys.argv[2]), float(sys.argv[3])
    logging.disable(logging.CRITICAL)
    for text in _WARM_UP:
        for pair in ([text, text.replace("2", "3")], [text + "+0", text], ["-1<x<2", "(-1,2)"], [text]):
            _verdict(pair)
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
