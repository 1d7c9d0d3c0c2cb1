"""`wait=true`: the runs of a submission, live, until the last job has ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ctpo.records import RunDirectory, read_submission
from ctpo.records.progress import read_progress
from experiments.submission import queue

POLL_S = 5.0


def watch(runs: Sequence[Path], executor: str) -> int:
    """Show the runs until none of them has a job that waits or runs; 0 if all have finished, else 1."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            jobs = {run: submission.job_id for run in runs if (submission := read_submission(run))}
            alive = queue.live_jobs(executor, jobs.values())
            live.update(_table(runs, jobs, alive), refresh=True)
            if not alive:
                break
            time.sleep(POLL_S)
    console.print()
    finished = sum(RunDirectory(run).state == "finished" for run in runs)
    print(f"{finished} of {len(runs)} runs finished")
    return 0 if finished == len(runs) else 1


def _table(runs: Sequence[Path], jobs: dict[Path, str], alive: dict[str, str]) -> Table:
    table = Table("run", "job", "queue", "state", "step", "doing", "error")
    for run in runs:
        records, progress, job = RunDirectory(run), read_progress(run), jobs.get(run, "")
        error = (records.manifest()["error"] or "") if records.state else ""
        name = "/".join(run.parts[-4:])
        queued = alive.get(job, "ended" if job else "").lower()
        table.add_row(name, job, queued, records.state or "-", str(progress.step), progress.phase, error[:120])
    return table
