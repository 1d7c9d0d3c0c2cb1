"""What a person sees while a run trains: one line. All that Ray, verl and vLLM say goes to the run's log."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from omegaconf import DictConfig
from tqdm import tqdm

from ctpo.records.progress import Progress, read_progress

POLL_S = 0.5


@contextlib.contextmanager
def captured_output(log: Path) -> Iterator[TextIO]:
    """Send this process' standard output and error, and its children's, to the end of `log`.

    Yields:
        What standard error was, still writable: the place for progress.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    try:
        # On the level of descriptors: Ray's daemons and C++ write past sys.stdout.
        with open(log, "ab") as target:
            os.dup2(target.fileno(), 1)
            os.dup2(target.fileno(), 2)
        yield terminal
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # the log's disk may be full
                stream.flush()
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        with contextlib.suppress(OSError):
            terminal.close()


class ProgressLine:
    """Follows a run through its directory, from a thread of its own.

    On a terminal it is a bar that is redrawn; in a log file, a line whenever the step or the phase changes.
    """

    def __init__(self, config: DictConfig, terminal: TextIO):
        self._run_directory = Path(config.run.dir)
        self._name = f"{config.run.model} {config.run.method} seed {config.run.seed}"
        self._total = config.trainer.total_training_steps
        self._terminal = terminal
        self._started = time.monotonic()
        self._shown = ""
        self._bar = (
            tqdm(total=self._total, unit="step", file=terminal, dynamic_ncols=True) if terminal.isatty() else None
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> ProgressLine:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # whoever watched has gone; the run's end is still to be recorded
            self._show(read_progress(self._run_directory))
            if self._bar is not None:
                self._bar.close()

    def _follow(self) -> None:
        with contextlib.suppress(OSError):
            while not self._stop.wait(POLL_S):
                self._show(read_progress(self._run_directory))

    def _show(self, progress: Progress) -> None:
        if self._bar is not None:
            self._bar.set_description(f"{self._name}: {progress.phase}", refresh=False)
            self._bar.set_postfix(progress.headline, refresh=False)
            self._bar.n = progress.step
            self._bar.refresh()
            return
        values = "  ".join(f"{name} {value}" for name, value in progress.headline.items())
        line = f"{self._name}: step {progress.step}/{self._total}  {progress.phase}  {values}".rstrip()
        if line != self._shown:
            self._shown = line
            print(f"[{time.monotonic() - self._started:5.0f} s] {line}", file=self._terminal)
