"""Reading runs for analysis: typed, and with a list of everything that is not as it should be.

A run is what its manifest says (`config.run`), wherever it lies: a copy under another name is no second run. What is
wrong with one run is a problem of that run alone, and never an exception.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ctpo.records.files import RecordError, read_lines
from ctpo.records.fingerprint import fingerprint, measured
from ctpo.records.manifest import FILE, read_manifest
from ctpo.records.position_archive import read_position_stats
from ctpo.records.samples import read_samples
from ctpo.records.schema import EVALUATION, METRICS_ROW, State
from ctpo.records.steps import step_of
from ctpo.records.submission import Submission, read_submission

if TYPE_CHECKING:
    import pandas as pd

Read = TypeVar("Read")
_RECORDS = ("metrics.jsonl", "position_stats", "samples", "checkpoints")


@dataclass(frozen=True)
class Problem:
    """Something of a run that is missing, half-finished or malformed. `where` is relative to the root."""

    where: str
    kind: str  # "missing" | "unfinished" | "malformed" | "copy"
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.message}"


@dataclass(frozen=True)
class RunRecord:
    """One run, read only. What cannot be read is left out of every answer and named in `problems`."""

    path: Path
    sweep: str
    model: str
    method: str
    seed: int
    manifest: dict[str, Any]
    problems: list[Problem] = field(default_factory=list, compare=False)

    @property
    def name(self) -> str:
        """The directory below the root, `sweep/model/method/seed<k>` where it is in place."""
        return "/".join(self.path.parts[-4:])

    @property
    def own_name(self) -> str:
        """Where the manifest says that it belongs."""
        return f"{self.sweep}/{self.model}/{self.method}/seed{self.seed}"

    @property
    def in_place(self) -> bool:
        return self.name == self.own_name

    @property
    def state(self) -> State:
        return self.manifest["state"]

    @property
    def config(self) -> dict[str, Any]:
        """The full resolved config."""
        return self.manifest["config"]

    @property
    def algorithm(self) -> str:
        """The method by its own name; `method`, the folder, can name a variant of it."""
        return self.config.get("method", {}).get("name") or self.method

    @property
    def commit(self) -> str | None:
        """The git commit the run started from; `+` after it where files had uncommitted changes."""
        git = self.manifest["git"]
        return f"{git['commit']}{'+' if git['dirty'] else ''}" if git["commit"] else None

    @property
    def total_steps(self) -> int | None:
        return self.config.get("trainer", {}).get("total_training_steps")

    @property
    def last_step(self) -> int | None:
        """The last recorded step; of an evaluation (`ctpo.records.evaluation`), which trains nothing, the last that
        it evaluated."""
        if EVALUATION in self.manifest["config"]:
            return max((step for name in self.benchmarks for step in self.sample_steps(name)), default=None)
        return self.metrics[-1]["step"] if self.metrics else None

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One row per step, in order. Of a step recorded twice the later row counts; that is a problem."""
        rows, problems = read_lines(self.path / "metrics.jsonl", METRICS_ROW)
        for message in problems:
            self.add_problem("malformed", message)
        by_step = {row["step"]: row for row in rows}
        twice = len(rows) - len(by_step)
        if twice:
            self.add_problem("malformed", f"metrics.jsonl has {twice} steps twice: the later row counts")
        steps = self._within_the_run(by_step, "metrics.jsonl step {}")
        after = next((step for step, following in pairwise(steps) if following > step + 1), None)
        if after is not None:
            lacking = steps[-1] - steps[0] + 1 - len(steps)
            self.add_problem("malformed", f"metrics.jsonl lacks {lacking} steps in between, the first is {after + 1}")
        return [by_step[step] for step in steps]

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """`(steps, values)` of the rows that have a numeric `key`, NaN included; both empty if none has."""
        pairs = [(row["step"], row[key]) for row in self.metrics if isinstance(row.get(key), int | float)]
        steps, values = zip(*pairs, strict=True) if pairs else ((), ())
        return np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64)

    @property
    def position_stats_steps(self) -> list[int]:
        """Steps with an archive of position statistics, ascending."""
        return self._steps("position_stats", ".npz")

    def position_stats(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """`(arrays, meta)` of a step; None, and a problem, where they cannot be read or are of another method."""
        name = f"position_stats/step_{step}.npz"
        archive = self._read(name, read_position_stats)
        if archive is not None and archive[1]["method"] != self.algorithm:
            self.add_problem("malformed", f"{name}: holds method {archive[1]['method']!r}: left out")
            return None
        return archive

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks that have samples."""
        return [name for name in self._listed("samples") if self.sample_steps(name)]

    def sample_steps(self, benchmark: str) -> list[int]:
        """Steps at which `benchmark` was evaluated, ascending."""
        return self._steps(f"samples/{benchmark}", ".parquet")

    def samples(self, benchmark: str, step: int) -> pd.DataFrame | None:
        """Columns `SAMPLE_FIELDS`, one row per sample; None, and a problem, where the file cannot be read."""
        return self._read(f"samples/{benchmark}/step_{step}.parquet", read_samples)

    def _steps(self, folder: str, suffix: str) -> list[int]:
        paths = [Path(name) for name in self._listed(folder) if name.endswith(suffix)]
        return self._within_the_run(
            [step for path in paths if (step := step_of(path)) is not None], f"{folder}/step_{{}}{suffix}"
        )

    def _listed(self, folder: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.path / folder) if not name.startswith("."))
        except FileNotFoundError:
            return []
        except OSError as error:
            self.add_problem("malformed", f"{folder}: cannot be read ({error.strerror}): left out")
            return []

    def _within_the_run(self, steps: Iterable[int], name: str) -> list[int]:
        """`steps` in order without those that the run cannot have reached; `name` is theirs, for the problem."""
        last = None if EVALUATION in self.config else self.total_steps
        beyond = sorted(step for step in steps if last is not None and step > last)
        if beyond:
            self.add_problem(
                "malformed", f"{name.format(beyond[0])} is beyond trainer.total_training_steps={last}: left out"
            )
        return sorted(set(steps) - set(beyond))

    def _read(self, name: str, reader: Callable[[Path], Read]) -> Read | None:
        try:
            return reader(self.path / name)
        except RecordError as error:
            self.add_problem("malformed", f"{str(error).replace(f'{self.path}/', '')}: left out")
            return None

    def add_problem(self, kind: str, message: str) -> None:
        """Notes, once, what is wrong with the run."""
        problem = Problem(self.name, kind, message)
        if problem not in self.problems:
            self.problems.append(problem)


@dataclass(frozen=True)
class WaitingRun:
    """A run that a cluster job was submitted for and that has not begun: it has no manifest yet."""

    path: Path
    name: str
    submission: Submission


@dataclass(frozen=True)
class FoundRuns:
    """What lies under a root: the readable runs, sorted by name, and everything that is not in order."""

    root: Path
    runs: list[RunRecord]
    unreadable: list[Problem]
    waiting: list[WaitingRun] = field(default_factory=list)

    @property
    def problems(self) -> list[Problem]:
        """All of them so far; reading more of a run can add to it."""
        return [*self.unreadable, *(problem for run in self.runs for problem in run.problems)]


def find_runs(root: str | Path, sweep: str | None = None) -> FoundRuns:
    """All runs of `sweep` (of every sweep if None) under `root`; names every directory that it leaves out."""
    found = FoundRuns(Path(root), [], [])
    for path in sorted(found.root.glob(f"{glob.escape(sweep) if sweep else '*'}/*/*/*")):
        name = path.relative_to(found.root).as_posix()
        if any(part.startswith(".") for part in name.split("/")[1:]):
            continue
        try:
            _find(found, path, name)
        except RecordError as error:
            found.unreadable.append(Problem(name, "malformed", str(error).replace(f"{path}/", "")))
        except OSError as error:
            found.unreadable.append(Problem(name, "malformed", f"cannot be read ({error.strerror})"))
    for copy, reason in _copies(found.runs):
        found.unreadable.append(Problem(copy.name, "copy", f"{reason}: a copy, not counted"))
        found.runs.remove(copy)
    for run in found.runs:
        if not run.in_place:
            run.add_problem("malformed", f"its manifest says {run.own_name}: counted as that; rename the folder")
    return found


def _find(found: FoundRuns, path: Path, name: str) -> None:
    if path.is_file() and not path.name.removeprefix("seed").isdigit():
        return  # a note beside the runs
    content = os.listdir(path)
    if FILE not in content and not any(record in content for record in _RECORDS):
        # Hydra makes the folder before the request is checked: without a submission nothing is to run here.
        submission = read_submission(path)
        if submission is not None:
            found.waiting.append(WaitingRun(path, name, submission))
        return
    manifest = read_manifest(path)
    names = manifest["config"]["run"]
    run = RunRecord(path, name.partition("/")[0], names["model"], names["method"], names["seed"], manifest)
    _check_state(run)
    found.runs.append(run)


def _copies(runs: Sequence[RunRecord]) -> list[tuple[RunRecord, str]]:
    """Runs that another one of the sweep, model and method already is: by their seed, or by what they hold; and why.

    The one in the folder of its name counts.
    """
    first: dict[tuple[str, ...], RunRecord] = {}
    copies = []
    for run in sorted(runs, key=lambda run: (not run.in_place, run.name)):
        cell = (run.sweep, run.model, run.method)
        seed, content = (
            (*cell, "seed", str(run.seed)),
            (*cell, "content", fingerprint(run.path, EVALUATION in run.config)),
        )
        if seed in first:
            copies.append((run, f"its manifest says {run.own_name}, which {first[seed].name} is"))
        elif content[-1] and content in first:
            copies.append((run, f"holds the same {measured(EVALUATION in run.config)} as {first[content].name}"))
        else:
            first |= {seed: run, content: run}
    return copies


def _check_state(run: RunRecord) -> None:
    last = "none" if run.last_step is None else run.last_step
    done = f"{last} of {run.total_steps or 'unknown'} steps recorded"
    if run.config["run"]["sweep"] != run.sweep:
        run.add_problem("malformed", f"config says run.sweep={run.config['run']['sweep']!r}; it lies in {run.sweep!r}")
    if run.state == "failed":
        error = (run.manifest["error"] or "no reason given").splitlines()[0][:200]
        run.add_problem("unfinished", f"failed after {done}: {error}")
    elif run.state != "finished":
        run.add_problem("unfinished", f"state is {run.state!r}, {done}")
    elif run.total_steps and (run.last_step or 0) < run.total_steps:
        run.add_problem("malformed", f"says finished, but {done}")
