"""Timing contenders side by side, so that a machine that slows down for a while slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

CALLS_PER_ROUND = 16


@dataclass(frozen=True)
class Row:
    """One measurement: its value, what it is in, and the stated bounds that it must keep (None: none)."""

    label: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def broken(self) -> bool:
        """Whether a stated bound is exceeded."""
        return (self.at_most is not None and self.value > self.at_most) or (
            self.at_least is not None and self.value < self.at_least
        )

    @property
    def bound(self) -> str:
        """The stated bounds in words, and whether they are kept."""
        parts = [] if self.at_most is None else [f"at most {self.at_most:g}"]
        parts += [] if self.at_least is None else [f"at least {self.at_least:g}"]
        return ", ".join(parts) + ("  EXCEEDED" if self.broken else "")


def interleaved(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds per call of each contender in every round, after two warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 2):
        total = dict.fromkeys(contenders, 0.0)
        for _ in range(CALLS_PER_ROUND):
            for name, call in contenders.items():
                start = time.perf_counter()
                call()
                total[name] += time.perf_counter() - start
        if number >= 2:
            for name, seconds in total.items():
                times[name].append(seconds / CALLS_PER_ROUND)
    return times


def ratio_rows(times: dict[str, list[float]], reference: str, shape: str, bounds: dict[str, float]) -> list[Row]:
    """The reference in milliseconds, then every other contender as a multiple of it."""
    rows = [Row(f"{shape}  verl {reference}", 1e3 * statistics.median(times[reference]), "ms")]
    for name, seconds in times.items():
        if name != reference:
            ratio = statistics.median(a / b for a, b in zip(seconds, times[reference], strict=True))
            rows.append(Row(f"{shape}  {name}", ratio, f"x {reference}", bounds.get(name)))
    return rows
