"""The helper process behind `ctpo.tir.grading`: one warm parent, one fork per comparison.

`math-verify` builds SymPy objects out of whatever a model wrote, so a comparison can take for ever,
eat all memory or crash the interpreter. Each runs in its own fork, which the kernel ends at the
limit whatever code it is in; the parent, with everything imported, only forks.

Run as `python -m ctpo.tir.grading_server CONTROL_FD CPU_SECONDS WALL_SECONDS`. The control socket brings one
byte and one connection per request and ends the process when it closes; a connection brings one
JSON list `[answer, gold]` and takes back `EQUAL` or `DIFFERENT`, or closes without either.
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

READY, EQUAL, DIFFERENT = b"r", b"=", b"!"
MEMORY_BYTES = 1 << 30
# The parser builds its tables as it meets each construct; built here, every fork has them.
_WARM_UP = (
    "\\frac{1}{2}",
    "2.5",
    "x=2",
    "-2\\sqrt{2}+\\pi",
    "(2,5)",
    "[-2,\\infty)\\cup(2,5]",
    "\\{2,5\\}",
    "2,5",
    "x^2+2xy-\\frac{x}{2}",
    "\\text{Monday 2}",
    "2\\%",
    "12^\\circ",
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
    "2^{10}\\cdot 3!",
    "\\sin 2\\log_2 x",
    "2+3i",
    "\\binom{5}{2}",
    "1,200",
    "x\\le 2",
)


def symbolically_equal(answer: str, gold: str) -> bool:
    """Whether `math-verify` reads both texts as the same mathematical object (no time limit of its own)."""
    from math_verify import parse, verify

    gold_parsed, answer_parsed = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer))
    return bool(verify(gold_parsed, answer_parsed, timeout_seconds=None))


def _serve_one(connection: socket.socket, cpu_seconds: float, wall_seconds: float) -> NoReturn:
    # These signals' default action ends this process even inside C code that never returns to Python.
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    verdict = DIFFERENT
    try:
        with connection.makefile("rb") as request:
            answer, gold = json.load(request)
        verdict = EQUAL if symbolically_equal(answer, gold) else DIFFERENT
    except (Exception, RecursionError, MemoryError):
        pass  # An answer that cannot be read or compared is not the right one.
    finally:
        connection.sendall(verdict)
        os._exit(0)


def main() -> None:
    """Warm up, say so, then fork for every connection received until the control socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    cpu_seconds, wall_seconds = float(sys.argv[2]), float(sys.argv[3])
    logging.disable(logging.CRITICAL)
    for text in _WARM_UP:
        symbolically_equal(text, text.replace("2", "3"))
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
                _serve_one(connection, cpu_seconds, wall_seconds)


if __name__ == "__main__":
    main()
