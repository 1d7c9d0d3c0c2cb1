"""Comparing an answer with the reference, safely: `Grader`, thread-safe and limited in time."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

from ctpo.tir.grading_server import EQUAL, READY

MAX_ANSWER_CHARS = 1000
"""Longer answers count only if they equal the reference character for character."""

_START_SECONDS = 120.0
_GRACE_SECONDS = 2.0
_ATTEMPTS = 3
_NUMBER = re.compile(r"[+-]?\d{1,300}(?:\.\d{0,300})?|[+-]?\d{1,300}/\d{1,300}")

# MATH's references write a percentage with or without its sign; the question says what is asked for.
_PERCENT = re.compile(r"\s*\\?%$")


class Grader:
    """Symbolic comparison in a helper process, at most `cpu_seconds` each; use from any thread.

    The limit counts CPU time, so that a verdict does not depend on what else the machine is doing;
    `wall_seconds` is the hard stop for a machine that is doing far too much. The helper starts at the
    first comparison that needs it and again whenever it has died. It ends with this object or this
    process. `concurrency` bounds the comparisons that run at once.
    """

    def __init__(self, cpu_seconds: float = 3.0, wall_seconds: float = 20.0, concurrency: int = 4) -> None:
        if not 0 < cpu_seconds <= wall_seconds:
            raise ValueError(f"cpu_seconds={cpu_seconds}: must be positive and at most wall_seconds={wall_seconds}")
        self.cpu_seconds = cpu_seconds
        self.wall_seconds = wall_seconds
        self._slots = threading.BoundedSemaphore(concurrency)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def equal(self, answer: str | None, gold: str) -> bool:
        """Whether `answer` is right: equal text, else equal numbers, else symbolically equal.

        What cannot be decided within the limits (time, memory, length) is not right.

        Raises:
            RuntimeError: the helper cannot be started or kept, so nothing could be graded.
        """
        if answer is None:
            return False
        if len(answer) <= MAX_ANSWER_CHARS:
            answer = _PERCENT.sub("", answer.strip())
        gold = _PERCENT.sub("", gold.strip())
        if not answer or not gold or answer == gold:
            return bool(answer) and answer == gold
        if len(answer) > MAX_ANSWER_CHARS:
            return False
        ours, theirs = _number(answer), _number(gold)
        if ours is not None and theirs is not None and "." not in answer + gold:
            return ours == theirs
        with self._slots:
            return self._ask(json.dumps([answer, gold]).encode())

    def readable(self, gold: str) -> bool:
        """Whether an answer in another form could be recognised as this one."""
        return bool(gold.strip())

    def close(self) -> None:
        """End the helper; a later comparison starts a new one."""
        with self._lock:
            self._stop()

    def _ask(self, request: bytes) -> bool:
        for _ in range(_ATTEMPTS):
            started = time.monotonic()
            process, connection = self._connect()
            with connection:
                connection.settimeout(self.wall_seconds + _GRACE_SECONDS)
                try:
                    connection.sendall(request)
                    connection.shutdown(socket.SHUT_WR)
                    verdict = connection.recv(1)
                except OSError:
                    verdict = b""
            if verdict or time.monotonic() - started >= self.wall_seconds or not _has_ended(process):
                return verdict == EQUAL
        raise RuntimeError(f"the grading helper died {_ATTEMPTS} times in a row: something kills this run's processes")

    def _connect(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            process, control = self._running()
            try:
                socket.send_fds(control, [b"?"], [theirs.fileno()])
            except OSError:
                # It died since it was last looked at.
                self._stop()
                process, control = self._running()
                socket.send_fds(control, [b"?"], [theirs.fileno()])
        return process, ours

    def _running(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._process is None or self._control is None or self._process.poll() is not None:
            self._stop()
            self._process, self._control = self._start()
        return self._process, self._control

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        limits = str(self.cpu_seconds), str(self.wall_seconds)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "ctpo.tir.grading_server", str(theirs.fileno()), *limits],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        control.settimeout(_START_SECONDS)
        try:
            if control.recv(1) != READY:
                raise OSError("it ended before it was ready")
        except OSError as error:
            control.close()
            process.kill()
            process.wait()
            raise RuntimeError(
                f"the grading helper (math-verify) did not start: {error}; see its error above"
            ) from error
        return process, control

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._control = None


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        return False
    return True


def _number(text: str) -> Fraction | None:
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Fraction(text)
    except ZeroDivisionError:
        return None
