"""Comparing an answer with the reference, safely: `Grader`, thread-safe and limited in time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path

from ctpo.tir.answers import number
from ctpo.tir.comparing import quick_verdict
from ctpo.tir.grading_server import EQUAL, READY, RETIRED
from ctpo.tir.measures import read

CPU_SECONDS = 0.6
"""Over three times what the slowest right answer of 700 took (0.17 s), and a verdict stays well below a second."""

_START_SECONDS = 120.0
_GRACE_SECONDS = 2.0
_ATTEMPTS = 3
_REMEMBERED = 8192


class Grader:
    """Comparison in a pool of worker processes, at most `cpu_seconds` each; use from any thread.

    The limit counts CPU time, so that a verdict does not depend on what else the machine is doing;
    `wall_seconds` is the hard stop for a machine that is doing far too much. The workers' parent starts at the
    first comparison that needs it and again whenever it has died; a worker that hit a limit is replaced. All end
    with this object or this process. `concurrency` bounds the workers (default: one per core, two to eight).
    Verdicts are remembered: the responses to one prompt share a handful of answers.
    """

    def __init__(
        self, cpu_seconds: float = CPU_SECONDS, wall_seconds: float = 20.0, concurrency: int | None = None
    ) -> None:
        if not 0 < cpu_seconds <= wall_seconds:
            raise ValueError(f"cpu_seconds={cpu_seconds}: must be positive and at most wall_seconds={wall_seconds}")
        self.cpu_seconds = cpu_seconds
        self.wall_seconds = wall_seconds
        self._slots = threading.BoundedSemaphore(concurrency or min(8, max(2, len(os.sched_getaffinity(0)))))
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._idle: list[tuple[subprocess.Popen[bytes], socket.socket]] = []
        self._verdicts: OrderedDict[tuple[str, ...], bool] = OrderedDict()

    def equal(self, answer: str | None, gold: str) -> bool:
        """Whether `answer` is right: equal text, else equal numbers, else the same mathematical object.

        What cannot be decided within the limits (time, memory, length, nesting) is not right.

        Raises:
            RuntimeError: the workers cannot be started or kept, so nothing could be graded.
        """
        verdict = quick_verdict(answer, gold)
        return self._ask(str(answer), gold) if verdict is None else verdict

    def readable(self, gold: str) -> bool:
        """Whether an answer in another form could be recognised as this one. Raises RuntimeError as `equal` does."""
        found = read(gold)
        return found is not None and (number(found) is not None or self._ask(gold))

    def forget(self) -> None:
        """Grade everything anew from here on."""
        with self._lock:
            self._verdicts.clear()

    def close(self) -> None:
        """End the workers; a later comparison starts new ones."""
        with self._lock:
            self._stop()

    def _ask(self, *request: str) -> bool:
        with self._lock:
            if request in self._verdicts:
                self._verdicts.move_to_end(request)
                return self._verdicts[request]
        with self._slots:
            verdict, decided = self._compared(json.dumps(request).encode())
        if decided:
            with self._lock:
                self._verdicts[request] = verdict
                if len(self._verdicts) > _REMEMBERED:
                    self._verdicts.popitem(last=False)
        return verdict

    def _compared(self, request: bytes) -> tuple[bool, bool]:
        """(verdict, whether it is one: False after a limit that a less busy machine might not have met)."""
        for _ in range(_ATTEMPTS):
            started = time.monotonic()
            process, connection = self._worker()
            answer = b""
            try:
                connection.settimeout(self.wall_seconds + _GRACE_SECONDS)
                connection.send(request)
                answer = connection.recv(2)
            except OSError:
                pass
            if answer and not answer.endswith(RETIRED):
                with self._lock:
                    if process is self._process:
                        self._idle.append((process, connection))
                        connection = None  # type: ignore[assignment]
            if connection is not None:
                connection.close()
            if answer:
                return answer[:1] == EQUAL, True
            # Most often it met its limit; if its parent is gone too, something else ended both.
            spent = time.monotonic() - started
            if spent >= self.wall_seconds or not _has_ended(process, 0.05 if spent >= self.cpu_seconds else 0.5):
                return False, False
        raise RuntimeError(f"the grading helper died {_ATTEMPTS} times in a row: something kills this run's processes")

    def _worker(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        with self._lock:
            while self._idle:
                process, connection = self._idle.pop()
                if _is_open(connection):
                    return process, connection
                connection.close()
        return self._connect()

    def _connect(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
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
        for _, connection in self._idle:
            connection.close()
        self._idle = []
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._control = None


def _is_open(connection: socket.socket) -> bool:
    """Whether the worker behind an idle connection is still there: one that ended would cost the next answer."""
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _has_ended(process: subprocess.Popen[bytes], patience: float) -> bool:
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        return False
    return True
