"""Speed, measured side by side in one run: `python experiments/bench.py [topic ...]`.

A ratio is the median over rounds of (this contender's time / the reference's time in the same round), so
that a machine that slows down for a while slows both. A topic is a module of `experiments.speed`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys

import torch
from rich.console import Console
from rich.table import Table

from experiments import speed


def topics() -> list[str]:
    """Modules of `experiments.speed` that measure something."""
    names = (info.name for info in pkgutil.iter_modules(speed.__path__))
    return sorted(name for name in names if name != "measuring")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "topics", nargs="*", metavar="topic", help=f"what to measure (default all): {', '.join(topics())}"
    )
    parser.add_argument(
        "--rounds", type=int, default=30, help="rounds of interleaved measurements (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a stated bound is exceeded")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds: must be at least 1, got {options.rounds}")
    unknown = sorted(set(options.topics) - set(topics()))
    if unknown:
        parser.error(f"unknown topic {', '.join(unknown)}; known: {', '.join(topics())}")
    table = Table("measurement", "value", "unit", "bound", title=f"{torch.get_num_threads()} threads")
    broken = 0
    for name in options.topics or topics():
        print(f"bench: measuring {name}", file=sys.stderr, flush=True)
        for row in importlib.import_module(f"experiments.speed.{name}").measure(options.rounds):
            table.add_row(row.label, f"{row.value:.2f}", row.unit, row.bound)
            broken += row.broken
    Console().print(table)
    load = f"machine load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    print(f"bench: {broken} stated bounds exceeded; {load}")
    return 1 if options.check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
