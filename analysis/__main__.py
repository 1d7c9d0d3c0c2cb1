"""Every table and figure of a sweep: ``python -m analysis --sweep demo``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, groupby, repeat
from pathlib import Path

try:
    from analysis import style
except ModuleNotFoundError as missing:
    sys.exit(f"error: {sys.executable}: {missing}; run `make setup` once and start this with .venv/bin/python")
from analysis.artifacts import Artifact
from analysis.inputs import NothingToShow, Sweep
from analysis.registry import OF_RUNS, OF_THEORY, Entry
from analysis.report import html_report, run_facts
from analysis.theory import COMMAND, Theory
from ctpo.records import Problem

PROJECT = Path(__file__).resolve().parents[1]
#: Git ignores its folders, of which each sweep has one. Its own files are those that README shows.
FIGURES = PROJECT / "paper_figures"
DEFAULT_SWEEP, RUN_ONE = "demo", "python experiments/run.py -m sweeps=demo"
#: What is made, of which model, and of which method where there is one of each.
Task = tuple[Entry, str, str | None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if anything was written, 1 if there was nothing to write, 2 if the request names what is not there."""
    options = _parser().parse_args(arguments)
    known = sorted(path.name for path in options.runs.glob("*/") if not path.name.startswith("."))
    if options.sweep not in known:
        there = f"there are: {', '.join(known)}" if known else f"run one first: {RUN_ONE}"
        print(f"error: --sweep {options.sweep}: no such folder under {options.runs}; {there}", file=sys.stderr)
        return 2
    sweep = Sweep.load(options.runs, options.sweep, options.steps, options.select_on, options.method)
    wrong = _wrong(sweep, options)
    if wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    command, out = _command(options), options.out or FIGURES / sweep.name
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"error: --out {out}: {error.strerror}; name a folder that can be written to", file=sys.stderr)
        return 2
    _print_found(sweep)
    made: list[Artifact] = []
    reasons: dict[str, list[str]] = {}
    written: list[Path] = []
    theory = options.theory or options.runs.parent / "theory"
    for name, artifact in chain(_of_runs(sweep), _of_theory(theory)):
        if isinstance(artifact, NothingToShow):
            reasons.setdefault(str(artifact), []).append(name)
            continue
        files = artifact.write(out, command)
        made.append(artifact)
        written += files
        print(f"  written   {artifact.name}: {', '.join(path.suffix[1:] for path in files)}")
    left_out = [f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in reasons.items()]
    problems = sweep.found.problems
    for kind, lines in (("left out", left_out), ("problem ", problems)):
        for line in lines:
            print(f"  {kind}  {line}")
    if not written:
        print(f"error: nothing could be made from the {len(sweep.found.runs)} runs of sweep {sweep.name!r}")
        return 1
    written.append(out / "report.html")
    report = html_report(f"CTPO: sweep {sweep.name}", sweep.found.runs, made, left_out, problems, command)
    written[-1].write_text(report, encoding="utf-8")
    print(f"{len(written)} files from {len(sweep.found.runs)} runs, {len(problems)} problems; open {written[-1]}")
    return 0


def _wrong(sweep: Sweep, options: argparse.Namespace) -> str:
    """What the request names and the records do not have, in one line; empty if all is there."""
    runs = sweep.found.runs
    if not runs:
        return f"--sweep {sweep.name}: no run of it under {options.runs}"
    evaluated = {name for run in runs for name in run.benchmarks}
    if options.select_on and options.select_on not in evaluated:
        return f"--select-on {options.select_on}: no run was evaluated on it; there are: {_names(evaluated)}"
    methods = {run.method for run in runs}
    unknown = _names(set(options.method or ()) - methods)
    return f"--method {unknown}: no such run; there are: {_names(methods)}" if unknown else ""


def _names(found: Iterable[str]) -> str:
    return ", ".join(sorted(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Make every figure and table of a sweep from its run records.",
    )
    parser.add_argument("--runs", type=Path, default=PROJECT / "results" / "runs", help="root of all run directories")
    parser.add_argument("--sweep", default=DEFAULT_SWEEP, help="sweep to analyse (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder to write to (default: paper_figures/<sweep>)")
    parser.add_argument(
        "--theory",
        type=Path,
        metavar="DIR",
        help=f"what {COMMAND} wrote (default: theory/ beside --runs, that is results/theory)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        metavar="STEP",
        help="steps to show by position (default: the paper's 50 100 150, or thirds of a shorter run)",
    )
    parser.add_argument(
        "--method", nargs="+", metavar="METHOD", help="methods whose ratios are drawn by position (default: all)"
    )
    parser.add_argument(
        "--select-on",
        metavar="BENCHMARK",
        help="show each run's checkpoint with the best score on this benchmark, which is then not reported "
        "(default: the last step)",
    )
    return parser


def _command(options: argparse.Namespace) -> str:
    # Folders are left out: the same records give the same files, wherever they lie.
    steps = f" --steps {' '.join(map(str, options.steps))}" if options.steps else ""
    select = f" --select-on {options.select_on}" if options.select_on else ""
    methods = f" --method {' '.join(options.method)}" if options.method else ""
    return f"python -m analysis --sweep {options.sweep}{steps}{methods}{select}"


def _print_found(sweep: Sweep) -> None:
    print(f"sweep {sweep.name}: {len(sweep.found.runs)} runs")
    for run in sweep.found.runs:
        facts = run_facts(run)
        print(f"  found     {facts.pop('run')}: {', '.join(f'{name} {value}' for name, value in facts.items())}")


def _of_runs(sweep: Sweep) -> Iterator[tuple[str, Artifact | NothingToShow]]:
    """Everything of every model in the registry's order, made by as many processes as there are processors."""
    tasks = [
        (entry, model, method)
        for model in sweep.models
        for method in (None, *sweep.looked_at(model))
        for entry in OF_RUNS
        if entry.each_method == (method is not None)
    ]
    # A process makes everything of a method, or of a model, so that it reads the records of it once.
    groups = [list(group) for _, group in groupby(tasks, key=lambda task: task[1:])]
    workers = min(len(groups), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(max(1, workers), mp_context=multiprocessing.get_context("fork")) as pool:
        made = {}
        for found, problems in pool.map(_make, repeat(sweep), groups):
            made.update(found)
            for run in sweep.found.runs:
                for problem in problems:
                    if problem.where == run.name:
                        run.add_problem(problem.kind, problem.message)
    for task in sorted(tasks, key=lambda task: OF_RUNS.index(task[0])):
        yield task[0].name, made[task]


def _make(sweep: Sweep, tasks: Sequence[Task]) -> tuple[dict[Task, Artifact | NothingToShow], list[Problem]]:
    made: dict[Task, Artifact | NothingToShow] = {}
    with style.applied():
        for task in tasks:
            entry, *asked = task
            try:
                made[task] = entry.make(sweep, *filter(None, asked)).drawn()
            except NothingToShow as reason:
                made[task] = reason
    return made, sweep.found.problems


def _of_theory(folder: Path) -> Iterator[tuple[str, Artifact | NothingToShow]]:
    with style.applied():
        for entry in OF_THEORY:
            try:
                yield entry.name, entry.make(Theory(folder)).drawn()
            except NothingToShow as reason:
                yield entry.name, reason


if __name__ == "__main__":
    sys.exit(main())
