"""What a person sees while samples are drawn: a bar on a terminal, now and then a line in a log file."""

from __future__ import annotations

import time
from typing import TextIO

from tqdm import tqdm

LINE_EVERY_S = 10.0


class SampleBar:
    """Counts samples of one job; `done` of `total` are there from before."""

    def __init__(self, name: str, done: int, total: int, terminal: TextIO) -> None:
        self._name, self._done, self._total, self._terminal = name, done, total, terminal
        self._phase, self._started, self._next_line = "", time.monotonic(), 0.0
        self._bar = None
        if terminal.isatty():
            self._bar = tqdm(initial=done, total=total, unit="sample", file=terminal, dynamic_ncols=True)

    def phase(self, phase: str) -> None:
        """What goes on now, in a word or two."""
        self._phase = phase
        if self._bar is not None:
            self._bar.set_description(f"{self._name}: {phase}")
            self._bar.unpause()  # the rate is that of this phase
        else:
            self._line()

    def count(self, samples: int) -> None:
        """So many more samples are recorded."""
        self._done += samples
        if self._bar is not None:
            self._bar.update(samples)
        elif time.monotonic() >= self._next_line or self._done == self._total:
            self._line()

    def close(self) -> None:
        """Leaves the last state on the terminal."""
        if self._bar is not None:
            self._bar.close()

    def _line(self) -> None:
        seconds = time.monotonic() - self._started
        print(
            f"[{seconds:5.0f} s] {self._name}: {self._phase}  {self._done}/{self._total} samples", file=self._terminal
        )
        self._next_line = time.monotonic() + LINE_EVERY_S
