"""Reading runs for analysis: typed, and with a list of everything that is not as it should be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ctpo.records.files import RecordError, read_lines
from ctpo.records.manifest import EVALUATION, State
from ctpo.records.run_directory import RunDirectory, read_position_stats, step_of
from ctpo.records.samples import SAMPLE_FIELDS
from ctpo.records.submission import Submission, read_submission

if TYPE_CHECKING:
    import pandas as pd

_SEED = re.compile(r"seed(\d+)")
Read = TypeVar("Read")


@dataclass(frozen=True)
class Problem:
    """Something of a run that is missing, half-finished or malformed. `where` is relative to the root."""

    where: str
    kind: str  # "missing" | "unfinished" | "malformed"
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
        """`sweep/model/method/seed<k>`, the directory below the root."""
        return f"{self.sweep}/{self.model}/{self.method}/seed{self.seed}"

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
        return self.manifest["config"].get("trainer", {}).get("total_training_steps")

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
        rows, problems = read_lines(self.path / "metrics.jsonl")
        for message in problems:
            self.add_problem("malformed", message)
        by_step = {row["step"]: row for row in rows}
        if len(by_step) < len(rows):
            self.add_problem(
                "malformed", f"metrics.jsonl has {len(rows) - len(by_step)} steps twice: the later row counts"
            )
        steps = sorted(by_step)
        gaps = sorted(set(range(steps[0], steps[-1])) - by_step.keys()) if steps else []
        if gaps:
            self.add_problem("malformed", f"metrics.jsonl lacks {len(gaps)} steps in between, the first is {gaps[0]}")
        return [by_step[step] for step in steps]

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """`(steps, values)` of the rows that have a numeric `key`, NaN included; both empty if none has."""
        pairs = [(row["step"], row[key]) for row in self.metrics if isinstance(row.get(key), int | float)]
        steps, values = zip(*pairs, strict=True) if pairs else ((), ())
        return np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64)

    @property
    def position_stats_steps(self) -> list[int]:
        """Steps with an archive of position statistics, ascending."""
        return _steps(self.path / "position_stats")

    def position_stats(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """`(arrays, meta)` of a step; None, and a problem, where it cannot be read."""
        path = self.path / "position_stats" / f"step_{step}.npz"
        return self._read(path, read_position_stats)

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks that have samples."""
        return sorted(folder.name for folder in (self.path / "samples").glob("*/") if _steps(folder))

    def sample_steps(self, benchmark: str) -> list[int]:
        """Steps at which `benchmark` was evaluated, ascending."""
        return _steps(self.path / "samples" / benchmark)

    def samples(self, benchmark: str, step: int) -> pd.DataFrame | None:
        """Columns `SAMPLE_FIELDS`, one row per sample; None, and a problem, where the file cannot be read."""
        path = self.path / "samples" / benchmark / f"step_{step}.parquet"
        frame = self._read(path, _read_samples)
        if frame is None:
            return None
        twice = int(frame.duplicated(["problem_id", "sample_index"]).sum())
        if twice:
            self.add_problem(
                "malformed", f"{path.relative_to(self.path)} has {twice} samples twice: the file is left out"
            )
            return None
        return frame

    def _read(self, path: Path, reader: Callable[[Path], Read]) -> Read | None:
        try:
            return reader(path)
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
    root = Path(root)
    runs: list[RunRecord] = []
    unreadable: list[Problem] = []
    waiting: list[WaitingRun] = []
    for path in sorted(root.glob(f"{sweep or '*'}/*/*/*")):
        match, name = _SEED.fullmatch(path.name), path.relative_to(root).as_posix()
        if not path.is_dir() or path.name.startswith("."):
            continue
        if match is None:
            unreadable.append(Problem(name, "malformed", "not a run: the folder must be called seed<number>"))
            continue
        directory = RunDirectory(path)
        if not directory.manifest_path.exists() and not directory.metrics_path.exists():
            # Hydra makes the folder before the request is checked: without a submission nothing is to run here.
            waiting += _waiting(path, name, unreadable)
            continue
        try:
            manifest = directory.manifest()
        except RecordError as error:
            unreadable.append(Problem(name, "malformed", str(error).replace(f"{path}/", "")))
            continue
        parts = path.relative_to(root).parts
        run = RunRecord(path, parts[0], parts[1], parts[2], int(match.group(1)), manifest)
        _check_state(run)
        runs.append(run)
    return FoundRuns(root, runs, unreadable, waiting)


def _waiting(path: Path, name: str, unreadable: list[Problem]) -> list[WaitingRun]:
    try:
        submission = read_submission(path)
    except RecordError as error:
        unreadable.append(Problem(name, "malformed", str(error).replace(f"{path}/", "")))
        return []
    return [] if submission is None else [WaitingRun(path, name, submission)]


def _check_state(run: RunRecord) -> None:
    last = "none" if run.last_step is None else run.last_step
    done = f"{last} of {run.total_steps or 'unknown'} steps recorded"
    recorded = run.manifest["config"].get("run", {})
    for key in ("sweep", "model", "method", "seed"):
        if key in recorded and recorded[key] != getattr(run, key):
            run.add_problem(
                "malformed", f"config says run.{key}={recorded[key]!r}; the folder says {getattr(run, key)!r}"
            )
    if run.state == "failed":
        error = str(run.manifest["error"] or "no reason given").splitlines()[0][:200]
        run.add_problem("unfinished", f"failed after {done}: {error}")
    elif run.state != "finished":
        run.add_problem("unfinished", f"state is {run.state!r}, {done}")
    elif run.total_steps and (run.last_step or 0) < run.total_steps:
        run.add_problem("malformed", f"says finished, but {done}")


def _steps(folder: Path) -> list[int]:
    return sorted(step for file in folder.glob("step_*") if (step := step_of(file)) is not None)


def _read_samples(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds
        raise RecordError(f"{path}: not a samples file ({type(error).__name__})") from None
    if list(frame.columns) != list(SAMPLE_FIELDS):
        raise RecordError(f"{path}: columns are not {', '.join(SAMPLE_FIELDS)}")
    return frame
