"""`wait=true`: the sweep's status table, live, until the last job of a submission has ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from ctpo.records import RunDirectory, read_submission
from experiments.status import status_table, sweep_status
from experiments.submission import queue

POLL_S = 5.0


def watch(root: Path, sweep: str, runs: Sequence[Path], executor: str) -> int:
    """Show the sweep until none of `runs` has a job that waits or runs; 0 if all have finished, else 1."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            jobs = [submission.job_id for run in runs if (submission := read_submission(run))]
            try:
                over = not queue.live_jobs(executor, jobs)
            except queue.QueueError as error:
                live.console.print(f"{error}; asking again")
                over = False  # a controller that restarts ends no job
            live.update(status_table(sweep_status(root, sweep)), refresh=True)
            if over:
                break
            time.sleep(POLL_S)
    console.print()
    finished = sum(RunDirectory(run).state == "finished" for run in runs)
    print(f"{finished} of {len(runs)} runs finished")
    return 0 if finished == len(runs) else 1
