"""What a sweep holds, grouped the way figures and tables ask for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from analysis.comparability import of_other_config
from analysis.evaluation import Evaluation, load_evaluation
from analysis.position_sums import PositionSums, pooled
from analysis.style import METHOD_ORDER
from ctpo.records import FoundRuns, Problem, RecordError, RunRecord, find_runs
from ctpo.records.schema import EVALUATION

#: Steps that the paper shows.
PAPER_STEPS = (50, 100, 150)
#: Spread of the cumulative log-ratio in the first update, as a share of the others' and by itself,
#: above which something is wrong: training and old log-probabilities disagree, or updates are miscounted.
FIRST_UPDATE_SHARE, FIRST_UPDATE_LEAST = 0.1, 0.01
#: Whose ratios the claims are about, if it was run.
OBSERVED_METHOD = "ctpo"
_SET_EVERY = "set records.position_stats_every"


class NothingToShow(Exception):
    """A figure or table has no input in this sweep; the message says what is missing."""


def method_rank(method: str) -> tuple[int, list[tuple[float, str]]]:
    """Sort key for methods: the known ones in order, each followed by its variants, numbers in these by size."""
    base = method.partition("-")[0]
    known = METHOD_ORDER.index(base) if base in METHOD_ORDER else len(METHOD_ORDER)
    parts = re.split(r"(\d+(?:\.\d+)?)", method)
    return known, [(float(part), "") if index % 2 else (-1.0, part) for index, part in enumerate(parts)]


@dataclass(frozen=True)
class Sweep:
    """The runs of one sweep. What analysis finds wrong with a run goes to the run's own problems."""

    name: str
    found: FoundRuns
    asked_steps: tuple[int, ...] | None = None
    select_on: str | None = None
    asked_methods: tuple[str, ...] | None = None
    usable: tuple[RunRecord, ...] = ()
    _evaluations: dict[tuple[str, str, int], Evaluation | None] = field(default_factory=dict, compare=False)
    _sums: dict[tuple[str, int], PositionSums | None] = field(default_factory=dict, compare=False)
    _pooled: dict[tuple[str, ...], PositionSums | None] = field(default_factory=dict, compare=False)

    @classmethod
    def load(
        cls,
        root: Path,
        name: str,
        steps: Sequence[int] | None = None,
        select_on: str | None = None,
        methods: Sequence[str] | None = None,
    ) -> Sweep:
        """The sweep `name` under `root`; may be empty.

        Runs of a cell (model and method) whose configs differ in more than the seed, and seeds that only some
        methods have, become problems.
        """
        found = find_runs(root, name)
        own = [run for run in found.runs if not _poses(run)]
        usable = tuple(run for cell in _cells(own) for run in _of_one_config(cell))
        found.unreadable.extend(_missing(found))
        return cls(name, found, tuple(steps) if steps else None, select_on, tuple(methods) if methods else None, usable)

    @property
    def models(self) -> list[str]:
        return sorted({run.model for run in self.usable})

    def methods(self, model: str) -> list[str]:
        return sorted({run.method for run in self.usable if run.model == model}, key=method_rank)

    def looked_at(self, model: str) -> list[str]:
        """The methods whose ratios are drawn: those asked for, or all."""
        return [m for m in self.methods(model) if self.asked_methods is None or m in self.asked_methods]

    def runs(self, model: str, method: str | None = None, finished: bool = False) -> list[RunRecord]:
        """Runs in the order of methods and seeds."""
        chosen = [
            run
            for run in self.usable
            if run.model == model
            and (method is None or run.method == method)
            and (run.state == "finished" or not finished)
        ]
        return sorted(chosen, key=lambda run: (method_rank(run.method), run.seed))

    def evaluation(self, run: RunRecord, benchmark: str, step: int) -> Evaluation | None:
        """Scores of one evaluation; None, and a problem of the run, where they cannot be used."""
        key = (run.name, benchmark, step)
        if key not in self._evaluations:
            self._evaluations[key] = load_evaluation(run, benchmark, step)
        return self._evaluations[key]

    def position_sums(self, run: RunRecord, step: int) -> PositionSums | None:
        """Position statistics of one step; None, and a problem of the run, if they cannot be used."""
        key = (run.name, step)
        if key not in self._sums:
            self._sums[key] = _load_sums(run, step)
        return self._sums[key]

    def pooled_position_sums(self, runs: Sequence[RunRecord], step: int) -> PositionSums | None:
        """Position statistics of one step over several runs (seeds) that have it."""
        key = (str(step), *(run.name for run in runs))
        if key not in self._pooled:
            sums = [one for run in runs if (one := self.position_sums(run, step)) is not None]
            try:
                self._pooled[key] = pooled(sums) if sums else None
            except RecordError as error:
                runs[0].add_problem("malformed", str(error))
                self._pooled[key] = None
        return self._pooled[key]

    def observed_method(self, model: str) -> str:
        """The method whose ratios the paper's sentences are about: CTPO, else a variant of it, else any.

        Raises:
            NothingToShow: no run of the model has position statistics.
        """
        recorded = [m for m in self.methods(model) if any(run.position_stats_steps for run in self.runs(model, m))]
        if not recorded:
            raise NothingToShow(f"no run of {model} has position_stats/; {_SET_EVERY}")
        return min(recorded, key=lambda m: (m != OBSERVED_METHOD, not m.startswith(f"{OBSERVED_METHOD}-")))

    def recorded_steps(self, model: str, method: str) -> tuple[list[RunRecord], list[int]]:
        """The runs (seeds) of a method that have position statistics, and the steps that all of them have.

        Raises:
            NothingToShow: there are none.
        """
        runs = [run for run in self.runs(model, method) if run.position_stats_steps]
        if not runs:
            raise NothingToShow(f"no run of {model}/{method} has position_stats/; {_SET_EVERY}")
        common = sorted(set.intersection(*(set(run.position_stats_steps) for run in runs)))
        if not common:
            raise NothingToShow(f"the seeds of {model}/{method} have no step with position statistics in common")
        return runs, common

    def shown_sums(self, model: str, method: str) -> tuple[list[RunRecord], list[tuple[int, PositionSums]], str]:
        """Runs, the steps to show with their statistics pooled over seeds, and the reason for these steps.

        Raises:
            NothingToShow: no step holds an update but the first.
        """
        runs, recorded = self.recorded_steps(model, method)
        steps, why = self.choose_steps(recorded)
        return runs, self._with_updates(model, method, runs, steps), why

    def sums_over_training(
        self, model: str, method: str, at_most: int
    ) -> tuple[list[RunRecord], list[tuple[int, PositionSums]]]:
        """As `shown_sums`, for at most so many steps, evenly spread over the recorded ones."""
        runs, recorded = self.recorded_steps(model, method)
        chosen = np.unique(np.linspace(0, len(recorded) - 1, at_most).round().astype(int))
        return runs, self._with_updates(model, method, runs, [recorded[index] for index in chosen])

    def _with_updates(
        self, model: str, method: str, runs: Sequence[RunRecord], steps: Sequence[int]
    ) -> list[tuple[int, PositionSums]]:
        loaded = [(step, self.pooled_position_sums(runs, step)) for step in steps]
        readable = [(step, sums) for step, sums in loaded if sums is not None]
        if not readable:
            raise NothingToShow(f"no position statistics of {model}/{method} can be read (see the problems listed)")
        found = [(step, sums) for step, sums in readable if (sums.bins.count > 1).any()]
        if not found:
            raise NothingToShow(
                f"the position statistics of {model}/{method} hold no update but the first of a step, "
                "which comes before the policy has moved; a step needs two mini-batch updates or more"
            )
        return found

    def choose_steps(self, recorded: Sequence[int]) -> tuple[list[int], str]:
        """Recorded steps to show, and a sentence that says why these.

        The nearest recorded ones to those asked for; else to the paper's, in a long enough run; else to its
        thirds.
        """
        if not recorded:
            return [], ""
        last = max(recorded)
        if self.asked_steps is not None:
            wanted, why = self.asked_steps, "as asked for"
        elif last >= max(PAPER_STEPS):
            wanted, why = PAPER_STEPS, "the paper's"
        else:
            wanted = (round(last / 3), round(2 * last / 3), last)
            why = f"thirds of the run, which is shorter than the paper's steps {_list(PAPER_STEPS)}"
        chosen = [_nearest(recorded, goal) for goal in wanted]
        moved = [f"{have} for {goal}" for goal, have in zip(wanted, chosen, strict=True) if goal != have]
        nearest = f"; nearest recorded: {', '.join(moved)}" if moved else ""
        return sorted(set(chosen)), f"Steps {_list(sorted(set(chosen)))} ({why}{nearest})."


def _cells(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    cells: dict[tuple[str, str], list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        cells.setdefault((run.model, run.method), []).append(run)
    return list(cells.values())


def _poses(run: RunRecord) -> bool:
    """Whether the run lies under the name of another method than it trained; that is a problem."""
    base = run.method.partition("-")[0]
    trained = run.config.get("method", {}).get("name", base)
    own_name = trained == "custom" and base not in METHOD_ORDER
    if EVALUATION in run.config or trained == base or own_name:
        return False
    run.add_problem("malformed", f"is of method {trained!r}, not of {run.method!r}: left out")
    return True


def _of_one_config(cell: Sequence[RunRecord]) -> list[RunRecord]:
    other = of_other_config(cell)
    for run in cell:
        if run.name in other:
            run.add_problem("malformed", other[run.name])
    return [run for run in cell if run.name not in other]


def _missing(found: FoundRuns) -> list[Problem]:
    """Submitted runs that have not begun, and seeds that other methods of the model have."""
    problems = [
        Problem(run.name, "missing", f"submitted as job {run.submission.job_id}, not begun") for run in found.waiting
    ]
    named = {problem.where for problem in [*problems, *found.unreadable]}
    for model in sorted({run.model for run in found.runs}):
        seeds = {(run.method, run.seed) for run in found.runs if run.model == model}
        for method, seed in sorted({(m, s) for m, _ in seeds for _, s in seeds} - seeds):
            name = f"{found.runs[0].sweep}/{model}/{method}/seed{seed}"
            if name not in named:
                problems.append(Problem(name, "missing", "no such run, but other methods have this seed"))
    return problems


def _nearest(recorded: Sequence[int], goal: int) -> int:
    return min(recorded, key=lambda step: (abs(step - goal), step))


def _list(steps: Sequence[int]) -> str:
    return ", ".join(str(step) for step in steps)


def _load_sums(run: RunRecord, step: int) -> PositionSums | None:
    archive = run.position_stats(step)
    if archive is None:
        return None
    sums = PositionSums.from_arrays(archive[0])
    if sums.overflow.any():
        beyond = f"{sums.overflow.sum()} tokens lie beyond method.position_stats.max_position"
        run.add_problem("malformed", f"step {step}: {beyond}: not counted")
    first = float(np.nanmax(np.append(sums.updates[0].std, 0.0)))
    others = float(np.nanmax(np.append(sums.bins.std, 0.0)))
    if first > max(FIRST_UPDATE_SHARE * others, FIRST_UPDATE_LEAST):
        message = f"log-ratios of the first update spread by {first:.3g}, of the others by {others:.3g}"
        run.add_problem("malformed", f"step {step}: {message}; before the policy has moved they should be 0")
    return sums
