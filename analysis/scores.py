"""Final accuracies of a model's runs: which evaluations count, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.evaluation import Evaluation
from analysis.inputs import NothingToShow, Sweep
from analysis.statistics.intervals import FloatArray, Interval
from analysis.statistics.resampling import mean_interval, stratified_interval
from ctpo.records import DRAW, RunRecord, Sampling


@dataclass(frozen=True)
class Cell:
    """A method's evaluations of one benchmark, one per seed (`seeds`), of the same problems and the same k."""

    evaluations: tuple[Evaluation, ...] = ()
    seeds: tuple[int, ...] = ()

    @cached_property
    def scores(self) -> FloatArray:
        """Mean score by seed and problem, `[seeds, problems]`."""
        return np.array([evaluation.by_problem for evaluation in self.evaluations])

    @cached_property
    def interval(self) -> Interval:
        """avg@k."""
        return mean_interval(self.scores)

    @cached_property
    def pass_at_k(self) -> Interval:
        return mean_interval(np.array([evaluation.passed for evaluation in self.evaluations]))

    @cached_property
    def majority_at_k(self) -> Interval:
        return mean_interval(np.array([evaluation.majority for evaluation in self.evaluations]))


@dataclass(frozen=True)
class FinalScores:
    """Final evaluations of a model: `cells[method][benchmark]`, only cells that have evaluations.

    `steps` are the training steps and `runs` the runs that they are of; `left_out` says what is missing, `rule`
    how the checkpoints were chosen.
    """

    model: str
    benchmarks: tuple[str, ...]
    cells: dict[str, dict[str, Cell]]
    steps: tuple[int, ...]
    runs: tuple[RunRecord, ...]
    left_out: tuple[str, ...]
    rule: str = ""

    @cached_property
    def samplings(self) -> dict[str, Sampling]:
        """How each method's samples were drawn: alike in all but the limits."""
        return {m: next(iter(row.values())).evaluations[0].sampling for m, row in self.cells.items()}

    @property
    def sampling(self) -> Sampling:
        """How the first method's were."""
        return next(iter(self.samplings.values()))

    @property
    def k(self) -> int:
        """Samples per problem, the same in every cell."""
        return int(self.sampling.values["k"])

    @cached_property
    def varied_limits(self) -> list[str]:
        """Names of the limits in which the methods differ."""
        others = self.samplings.values()
        return list(dict.fromkeys(name for other in others for name in other.differing(self.sampling)))

    @property
    def metric(self) -> str:
        """`avg@32 at temperature 0.7, ...`, for a title: two evaluations of one checkpoint never share it."""
        return f"avg@{self.k} at {self.sampling.words(besides=self.varied_limits)}"

    @property
    def drawn(self) -> str:
        """How samples were drawn, in sentences for a caption; also where the runs' evaluations in training differ."""
        return sampling_sentences(self.samplings, self.runs)

    def problems(self, benchmark: str) -> int:
        """Problems of a benchmark; 0 if no cell has it."""
        cells = (row[benchmark] for row in self.cells.values() if benchmark in row)
        return next((len(cell.evaluations[0].problem_ids) for cell in cells), 0)

    def average(self, method: str) -> Interval | None:
        """Mean over the benchmarks; None unless the method has all of them, for the same seeds."""
        scores = self._by_benchmark(method)
        return None if scores is None else stratified_interval(scores)

    def pair(self, method: str, other: str) -> tuple[FloatArray, FloatArray] | None:
        """Scores `[seeds, problems]` of both over all benchmarks' problems; None if not comparable."""
        mine, theirs = self._matrix(method), self._matrix(other)
        return None if mine is None or theirs is None else (mine, theirs)

    def _matrix(self, method: str) -> FloatArray | None:
        scores = self._by_benchmark(method)
        return None if scores is None else np.concatenate(scores, axis=1)

    def _by_benchmark(self, method: str) -> list[FloatArray] | None:
        cells = self.cells.get(method, {})
        if len(cells) < len(self.benchmarks) or len({cell.seeds for cell in cells.values()}) != 1:
            return None
        return [cells[name].scores for name in self.benchmarks]


LAST_STEP = "Accuracy after the last training step ({steps}); no step was chosen by its score."
SELECTED = (
    "Accuracy at each run's step with the best score on {benchmark} ({steps}; the earliest of equals), which is not "
    "reported here and took no other part in this table."
)


def final_scores(sweep: Sweep, model: str) -> FinalScores:
    """The evaluations of every finished run's reported checkpoint.

    That is the last step, or the one with the best score on `sweep.select_on`, a benchmark that is then not
    reported. A run that is not finished has no final score. All evaluations of a benchmark must hold the same
    problems, and all evaluations the same number of samples; one that differs from the first is left out.

    Raises:
        NothingToShow: no finished run of the model was evaluated.
    """
    left_out = [f"{run.name} is not finished" for run in sweep.runs(model) if run.state != "finished"]
    runs = sweep.runs(model, finished=True)
    benchmarks = tuple(sorted({name for run in runs for name in run.benchmarks} - {sweep.select_on}))
    if not benchmarks:
        besides = f" of a benchmark other than {sweep.select_on}" if sweep.select_on else ""
        raise NothingToShow(f"no finished run of {model} has samples/{besides}")
    cells: dict[str, dict[str, Cell]] = {}
    used: dict[str, RunRecord] = {}
    reference: dict[str, Evaluation] = {}
    for run in runs:
        wanted = _reported_step(sweep, run)
        if wanted is None:
            left_out.append(f"{run.name}: no usable evaluation on {sweep.select_on} to choose a step by")
            continue
        for benchmark in benchmarks:
            evaluation, reason = _evaluated_at(sweep, run, benchmark, wanted)
            row = cells.get(run.method, {})
            if evaluation is not None:
                same_benchmark = reference.setdefault(benchmark, evaluation)
                same_method = next((cell.evaluations[0] for cell in row.values()), evaluation)
                reason = _differs(evaluation, same_benchmark, same_method, next(iter(reference.values())))
                evaluation = None if reason else evaluation
            if evaluation is None:
                left_out.append(f"{run.name} on {benchmark}: {reason}")
                continue
            cells[run.method] = row
            cell = row.get(benchmark, Cell())
            row[benchmark] = Cell((*cell.evaluations, evaluation), (*cell.seeds, run.seed))
            used[run.name] = run
    if not cells:
        raise NothingToShow(f"no finished run of {model} has a usable final evaluation: {'; '.join(left_out)}")
    steps = sorted({e.step for row in cells.values() for cell in row.values() for e in cell.evaluations})
    rule = (SELECTED if sweep.select_on else LAST_STEP).format(
        benchmark=sweep.select_on, steps=", ".join(map(str, steps))
    )
    return FinalScores(model, benchmarks, cells, tuple(steps), tuple(used.values()), tuple(left_out), rule)


def sampling_sentences(samplings: Mapping[str, Sampling], runs: Sequence[RunRecord]) -> str:
    """How the samples of several methods were drawn, the limits that differ, and where evaluations in training did."""
    first = next(iter(samplings.values()))
    varied = list(dict.fromkeys(name for other in samplings.values() for name in other.differing(first)))
    sentences = [f"Samples were drawn at {first.words(besides=varied)}."]
    if varied:
        named = "; ".join(f"{method}: {own.only(varied)}" for method, own in samplings.items())
        sentences.append(f"The limits differ: {named}.")
    trained = {run.method: Sampling(run.config.get("in_training") or {}) for run in runs}
    apart = {own.apart_from(samplings[m]) for m, own in trained.items() if own.values and m in samplings}
    if apart - {""}:
        sentences.append(
            f"In training these runs evaluated at {'; '.join(sorted(apart - {''}))}: accuracies from there are not "
            "comparable with these."
        )
    return " ".join(sentences)


def draws_apart(sampling: Sampling, other: Sampling) -> str:
    """The settings of the draw in which `sampling` differs from `other`, and their values; empty if in none."""
    names = [name for name in sampling.differing(other) if name in DRAW]
    return ", ".join(f"{name} {sampling.values.get(name)}, elsewhere {other.values.get(name)}" for name in names)


def _differs(evaluation: Evaluation, same_benchmark: Evaluation, same_method: Evaluation, any_other: Evaluation) -> str:
    """Why an evaluation cannot stand beside the first ones of its benchmark, its method and all; empty if it can."""
    if evaluation.problem_ids != same_benchmark.problem_ids:
        return "other problems than the first run's"
    apart = evaluation.sampling.apart_from(same_method.sampling)
    return draws_apart(evaluation.sampling, any_other.sampling) or (f"other limits: {apart}" if apart else "")


def _reported_step(sweep: Sweep, run: RunRecord) -> int | None:
    if sweep.select_on is None:
        return run.total_steps or run.last_step or 0
    scored = [
        (evaluation.average, -step)
        for step in run.sample_steps(sweep.select_on)
        if (evaluation := sweep.evaluation(run, sweep.select_on, step)) is not None
    ]
    return -max(scored)[1] if scored else None


def _evaluated_at(sweep: Sweep, run: RunRecord, benchmark: str, wanted: int) -> tuple[Evaluation | None, str]:
    steps = run.sample_steps(benchmark)
    if not steps:
        return None, "never evaluated"
    if wanted not in steps:
        if sweep.select_on is None:
            return None, f"last evaluated at step {steps[-1]}, not after the last step {wanted}"
        return None, f"not evaluated at step {wanted}, the best on {sweep.select_on}"
    return sweep.evaluation(run, benchmark, wanted), "its samples cannot be used (see the problems listed)"
