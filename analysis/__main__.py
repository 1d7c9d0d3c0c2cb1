"""Every table and figure of a sweep: ``python -m analysis --sweep demo``."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from analysis import figures, style, tables
from analysis.artifacts import Artifact
from analysis.inputs import NothingToShow, Sweep
from analysis.report import html_report
from analysis.theory import COMMAND, Theory
from ctpo.records import Problem

PROJECT = Path(__file__).resolve().parents[1]
DEFAULT_SWEEP = "demo"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if anything was written, 1 if there was nothing to write or to choose by."""
    options = _parser().parse_args(arguments)
    sweep = Sweep.load(options.runs, options.sweep, options.steps, options.select_on)
    _print_found(sweep)
    if not sweep.found.runs:
        print(f"error: no run of sweep {options.sweep!r} under {options.runs}; {_known_sweeps(options.runs)}")
        return 1
    known = sorted({name for run in sweep.found.runs for name in run.benchmarks}) if options.select_on else []
    if options.select_on and options.select_on not in known:
        there = f"there are {', '.join(known)}" if known else "nor on anything else"
        print(f"error: --select-on {options.select_on}: no run was evaluated on it, {there}")
        return 1
    command = _command(options)
    made: list[Artifact] = []
    left_out: list[str] = []
    written: list[Path] = []
    for name, artifact in chain(_artifacts(sweep), _theory_artifacts(options.theory or options.runs.parent / "theory")):
        if isinstance(artifact, NothingToShow):
            left_out.append(f"{name}: {artifact}")
            print(f"  left out  {left_out[-1]}")
            continue
        files = artifact.write(options.out, command)
        made.append(artifact)
        written += files
        print(f"  written   {artifact.name}: {', '.join(path.suffix[1:] for path in files)}")
    problems = sweep.found.problems
    for problem in problems:
        print(f"  problem   {problem}")
    if not written:
        print(f"error: nothing could be made from the {len(sweep.found.runs)} runs of sweep {options.sweep!r}")
        return 1
    written.append(options.out / "report.html")
    report = html_report(f"CTPO: sweep {sweep.name}", made, left_out, problems, command)
    written[-1].write_text(report, encoding="utf-8")
    counted = f"{len(sweep.found.runs)} runs, {len(problems)} problems"
    print(f"{len(written)} files from {counted}; open {written[-1]}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Make every figure and table of a sweep from its run records.",
    )
    parser.add_argument("--runs", type=Path, default=PROJECT / "results" / "runs", help="root of all run directories")
    parser.add_argument("--sweep", default=DEFAULT_SWEEP, help="sweep to analyse (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=PROJECT / "paper_figures", help="folder to write to")
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
    return f"python -m analysis --sweep {options.sweep}{steps}{select}"


def _print_found(sweep: Sweep) -> None:
    print(f"sweep {sweep.name}: {len(sweep.found.runs)} runs")
    for run in sweep.found.runs:
        last = "no step" if run.last_step is None else f"step {run.last_step} of {run.total_steps or 'unknown'}"
        evaluated = ", ".join(f"{name} at {len(run.sample_steps(name))} steps" for name in run.benchmarks)
        print(
            f"  found     {run.name}: {run.state}, {last}, "
            f"{len(run.position_stats_steps)} position stats, samples: {evaluated or 'none'}"
        )


def _known_sweeps(root: Path) -> str:
    names = sorted(path.name for path in root.glob("*/") if not path.name.startswith("."))
    return f"sweeps there: {', '.join(names)}" if names else "run one first: python experiments/run.py -m sweeps=demo"


def _makers(kind: str = "make") -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every figure's and table's function of that name: `make(sweep, model)` or `make_theory(theory)`."""
    for package in (figures, tables):
        for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
            make = getattr(importlib.import_module(f"{package.__name__}.{module}"), kind, None)
            if make is not None:
                yield module, make


def _artifacts(sweep: Sweep) -> Iterator[tuple[str, Artifact | NothingToShow]]:
    """Every figure and table of every model; models side by side, as far as there are processors."""
    if not sweep.models:
        return
    workers = min(len(sweep.models), len(os.sched_getaffinity(0)))
    if workers == 1:
        for model in sweep.models:
            yield from _of_model(sweep, model)[0]
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        for made, problems in pool.map(_of_model, repeat(sweep), sweep.models):
            for run in sweep.found.runs:
                for problem in problems:
                    if problem.where == run.name:
                        run.add_problem(problem.kind, problem.message)
            yield from made


def _of_model(sweep: Sweep, model: str) -> tuple[list[tuple[str, Artifact | NothingToShow]], list[Problem]]:
    made: list[tuple[str, Artifact | NothingToShow]] = []
    with style.applied():
        for name, make in _makers():
            try:
                made.append((name, make(sweep, model).drawn()))
            except NothingToShow as reason:
                made.append((name, reason))
    return made, sweep.found.problems


def _theory_artifacts(folder: Path) -> Iterator[tuple[str, Artifact | NothingToShow]]:
    if not folder.is_dir():
        yield "theory", NothingToShow(f"the theory's folder does not exist; write it with {COMMAND}")
        return
    with style.applied():
        for name, make in _makers("make_theory"):
            for artifact in make(Theory(folder)):
                yield name, artifact.drawn() if isinstance(artifact, Artifact) else artifact


if __name__ == "__main__":
    sys.exit(main())
