"""The runs of a sweep, live: `python experiments/status.py --sweep demo` (or `make status SWEEP=demo`).

Reads run records, and Slurm where runs were submitted to it. On a terminal the table is drawn anew every few
seconds until Ctrl-C; elsewhere, and with --once, it is printed once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

try:
    from experiments import command
except ModuleNotFoundError as missing:
    sys.exit(f"error: {sys.executable}: {missing}; run `make setup` once and start this with .venv/bin/python")
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ctpo.records import RecordError, RunRecord, Submission, WaitingRun, find_runs, is_alive, read_submission
from ctpo.records.files import read_note
from ctpo.records.progress import REFUSED, read_progress
from experiments.submission.queue import Job, job_states

PROJECT = Path(__file__).resolve().parents[1]
COLOURS = {
    "finished": "green",
    "running": "cyan",
    "starting": "cyan",
    "queued": "yellow",
    "submitted": "yellow",
    "interrupted": "yellow",
}
COLUMNS = ("run", "state", "phase", "step", "accuracy", "tokens/s", "restarts", "job", "last error")
_ERROR_CHARACTERS = 200


@dataclass(frozen=True)
class RunStatus:
    """One row. `state` is one word of what holds now, which can be more than the manifest knows."""

    name: str
    state: str
    phase: str = ""
    step: str = ""
    accuracy: str = ""
    speed: str = ""
    restarts: int = 0
    job: str = ""
    error: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or watch; returns 1 if there is no run at all."""
    options = _parser().parse_args(arguments)
    if options.watch is None:
        options.watch = sys.stdout.isatty()
    console = Console() if sys.stdout.isatty() else Console(width=200)
    rows = sweep_status(options.runs, options.sweep)
    try:
        # Off a terminal there is nothing to draw over: one table after another.
        with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
            while True:
                table = status_table(rows)
                console.print(table) if live is None else live.update(table, refresh=True)
                if not options.watch:
                    break
                time.sleep(options.interval)
                rows = sweep_status(options.runs, options.sweep)
    except KeyboardInterrupt:
        pass
    print(summary(rows, options.runs, options.sweep))
    return 0 if rows else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python experiments/status.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweep", help="sweep to show (default: all)")
    parser.add_argument("--runs", type=Path, default=PROJECT / "results" / "runs", help="root of all run directories")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", dest="watch", action="store_false", default=None, help="print once and stop")
    how.add_argument("--watch", dest="watch", action="store_true", help="draw anew until Ctrl-C")
    parser.add_argument("--interval", type=_seconds, default=5.0, help="seconds between refreshes (default: 5)")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def sweep_status(root: Path, sweep: str | None = None) -> list[RunStatus]:
    """Every run and every submitted run of `sweep` (of all sweeps if None), sorted by name."""
    found = find_runs(root, sweep)
    submissions = {run.name: _submission(run) for run in found.runs}
    jobs = job_states(
        [submission.job_id for submission in submissions.values() if submission is not None]
        + [waiting.submission.job_id for waiting in found.waiting]
    )
    rows = [_of_run(run, submissions[run.name], jobs) for run in found.runs]
    rows += [_of_waiting(waiting, jobs.get(waiting.submission.job_id)) for waiting in found.waiting]
    for problem in found.unreadable:
        state = "copy" if problem.kind == "copy" else "unreadable"
        rows.append(RunStatus(problem.where, state, error=problem.message))
    return sorted(rows, key=lambda row: row.name)


def _submission(run: RunRecord) -> Submission | None:
    try:
        return read_submission(run.path)
    except RecordError as error:
        run.add_problem("malformed", str(error).replace(f"{run.path}/", ""))
        return None


def _of_run(run: RunRecord, submission: Submission | None, jobs: dict[str, Job]) -> RunStatus:
    job = None if submission is None else jobs.get(submission.job_id)
    state, error = _state(run, job)
    done = 0 if run.last_step is None else run.last_step
    accuracy, speed = _accuracy(run), _speed(run)
    if not error:
        error = next((problem.message for problem in run.problems if problem.kind == "malformed"), "")
    return RunStatus(
        name=run.name,
        state=state,
        phase=read_progress(run.path).phase if state in ("running", "starting") else "",
        step=f"{done}/{run.total_steps or '?'}",
        accuracy=accuracy,
        speed=speed,
        restarts=len(run.manifest["restarts"]),
        job="" if submission is None else _job_text(submission, job),
        error=error[:_ERROR_CHARACTERS],
    )


def _state(run: RunRecord, job: Job | None) -> tuple[str, str]:
    """What holds now, and the last error: a run that was killed could not write its own end."""
    restarts = run.manifest["restarts"]
    error = run.manifest["error"] or (restarts[-1]["previous_error"] if restarts else "") or ""
    error = " / ".join(error.splitlines())
    if run.state == "finished":
        return run.state, error
    if job is not None and job.waits:
        return "queued", error
    if run.state in ("failed", "interrupted"):
        refusal = _refusal(run.path) if job is None or not job.alive else ""
        return ("refused", refusal) if refusal else (run.state, error)
    alive = is_alive(run.path, run.manifest)
    if alive is False and (job is None or not job.alive):
        return "gone", f"its process ended without a word{_after(job)}; the same command continues it"
    if alive is None and job is not None and not job.alive:
        return "gone", f"its job ended without a word{_after(job)}; submit it again to continue it"
    return ("running" if run.state == "running" else "starting"), error


def _after(job: Job | None) -> str:
    return "" if job is None else f" ({job.state}{', ' if job.reason else ''}{job.reason})"


def _refusal(run: Path) -> str:
    """Why the newest start of a run was refused; empty if it was not."""
    phase = read_progress(run).phase
    return phase.removeprefix(REFUSED) if phase.startswith(REFUSED) else ""


def _of_waiting(waiting: WaitingRun, job: Job | None) -> RunStatus:
    error = _refusal(waiting.path)
    if job is None:
        state = "refused" if error else "submitted"
    elif job.waits:
        state, error = "queued", ""
    elif job.alive:
        state, error = "starting", ""
    else:
        state = "refused" if error else "not started"
        error = error or _logged_error(waiting) or f"the job ended before the run began{_after(job)}"
    return RunStatus(waiting.name, state, job=_job_text(waiting.submission, job), error=error[:_ERROR_CHARACTERS])


def _logged_error(waiting: WaitingRun) -> str:
    """The first line that the job's launcher printed as an error, from the log that submitit keeps of it."""
    sweep = waiting.path.parents[2]
    for log in sorted(sweep.glob(f".jobs/{waiting.submission.job_id}/*_log.err")):
        for line in (read_note(log) or "").splitlines():
            if line.startswith("error: "):
                return line.removeprefix("error: ")
    return ""


def _job_text(submission: Submission, job: Job | None) -> str:
    state = "" if job is None else f" {job.state}{f' ({job.reason})' if job.reason else ''}"
    return f"{submission.job_id} {submission.profile}{state}"


def _accuracy(run: RunRecord) -> str:
    """The newest held-out accuracy, with its step."""
    keys = {key for row in run.metrics for key in row if key.startswith("val-core/") and "/mean@" in key}
    newest = [(steps[-1], values[-1]) for key in keys for steps, values in [run.series(key)] if len(steps)]
    if not newest:
        return ""
    step = max(step for step, _ in newest)
    values = [value for at, value in newest if at == step]
    return f"{100 * sum(values) / len(values):.1f} % @{step}"


def _speed(run: RunRecord) -> str:
    """Tokens a second over the last steps, prompts included, as the trainer counts them."""
    _, tokens = run.series("perf/total_num_tokens")
    _, seconds = run.series("perf/time_per_step")
    if not len(tokens) or len(tokens) != len(seconds) or not seconds[-5:].sum() > 0:
        return ""
    return f"{tokens[-5:].sum() / seconds[-5:].sum():,.0f}"


def status_table(rows: Sequence[RunStatus]) -> Table:
    """The rows as a table, without the columns that are empty in all of them."""
    cells = [
        (row.name, row.state, row.phase, row.step, row.accuracy, row.speed, str(row.restarts or ""), row.job, row.error)
        for row in rows
    ]
    shown = [index for index in range(len(COLUMNS)) if index < 2 or any(row[index] for row in cells)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index in shown:
        number = COLUMNS[index] in ("step", "accuracy", "tokens/s", "restarts")
        table.add_column(COLUMNS[index], justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in cells:
        # Text, since an error may hold what looks like markup.
        styles = {1: COLOURS.get(row[1], "red")}
        table.add_row(*(Text(row[index], style=styles.get(index, "")) for index in shown))
    return table


def summary(rows: Sequence[RunStatus], root: Path, sweep: str | None) -> str:
    """The one line at the end."""
    if not rows:
        there = sorted(path.name for path in root.glob("*/") if not path.name.startswith("."))
        known = f"sweeps there: {', '.join(there)}" if there else "nothing was run or submitted there yet"
        return f"error: no run{f' of sweep {sweep!r}' if sweep else ''} under {root}; {known}"
    counts = Counter(row.state for row in rows)
    return f"{len(rows)} runs: {', '.join(f'{count} {state}' for state, count in counts.most_common())}"


if __name__ == "__main__":
    sys.exit(command.ended(main))
