"""What a person sees while a run trains: one line; everything that Ray, verl and vLLM say goes to the run's log."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from omegaconf import DictConfig
from tqdm import tqdm

from ctpo.records.progress import read_progress

POLL_S = 0.5


@contextlib.contextmanager
def captured_output(log: Path) -> Iterator[TextIO]:
    """Send this process' standard output and error, and its children's, to the end of `log`.

    Yields:
        The terminal (or whatever standard error was), still writable.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    try:
        with open(log, "ab") as target:
            os.dup2(target.fileno(), 1)
            os.dup2(target.fileno(), 2)
        yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        terminal.close()


class ProgressLine:
    """A progress bar that follows a run through its records, from a thread of its own."""

    def __init__(self, config: DictConfig, terminal: TextIO):
        self._run_directory = Path(config.run.dir)
        self._name = f"{config.run.model} {config.run.method} seed {config.run.seed}"
        # On a terminal the line is redrawn; in a log file each drawing is a line, so draw seldom.
        interval = 0.5 if terminal.isatty() else 15.0
        self._bar = tqdm(
            total=config.trainer.total_training_steps, desc=self._name, unit="step", file=terminal,
            mininterval=interval, maxinterval=interval, dynamic_ncols=True, miniters=0,
        )  # fmt: skip
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> ProgressLine:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._refresh()
        self._bar.close()

    def _follow(self) -> None:
        while not self._stop.wait(POLL_S):
            self._refresh()

    def _refresh(self) -> None:
        progress = read_progress(self._run_directory)
        self._bar.set_description(f"{self._name}: {progress.phase}", refresh=False)
        self._bar.set_postfix(progress.headline, refresh=False)
        self._bar.update(progress.step - self._bar.n)
