"""One evaluation of one run: scores by problem and sample, or a stated reason why there are none."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.intervals import FloatArray
from ctpo.records import RecordError, RunRecord, Sampling


@dataclass(frozen=True)
class Evaluation:
    """`scores` and `answers` (None where none was given) `[problems, k]`, problems sorted by id."""

    benchmark: str
    step: int
    problem_ids: tuple[str, ...]
    scores: FloatArray
    answers: NDArray[np.object_]
    sampling: Sampling = field(default_factory=lambda: Sampling({}))

    @property
    def k(self) -> int:
        """Samples per problem."""
        return self.scores.shape[1]

    @property
    def by_problem(self) -> FloatArray:
        """Mean score of each problem, `[problems]`."""
        return self.scores.sum(axis=1) / self.k

    @property
    def average(self) -> float:
        """avg@k."""
        return float(self.scores.mean())

    @property
    def passed(self) -> FloatArray:
        """pass@k per problem: 1 where any of the k samples is right."""
        return np.array([float(any(row > 0.5)) for row in self.scores])

    @property
    def majority(self) -> FloatArray:
        """majority@k per problem: whether its most frequent answer is right; ties count by their share."""
        return np.array([_majority(*row) for row in zip(self.answers, self.scores, strict=True)])


def _majority(answers: NDArray[np.object_], scores: FloatArray) -> float:
    by_answer: dict[str, list[float]] = {}
    for answer, score in zip(answers, scores, strict=True):
        if answer is not None and answer != "":
            by_answer.setdefault(str(answer), []).append(float(score))
    most = max((len(found) for found in by_answer.values()), default=0)
    top = [float(np.mean(found)) for found in by_answer.values() if len(found) == most]
    return float(np.mean(top)) if top else 0.0


def load_evaluation(run: RunRecord, benchmark: str, step: int) -> Evaluation | None:
    """The evaluation of `benchmark` at `step`; None, and a problem of the run, where it would mislead."""
    frame = run.samples(benchmark, step)
    if frame is None:
        return None
    try:
        sampling = Sampling.of_samples(run.path, run.config, benchmark, step)
    except RecordError as error:
        run.add_problem("malformed", f"{str(error).replace(f'{run.path}/', '')}: no accuracy from its samples")
        return None
    frame = frame.sort_values(["problem_id", "sample_index"], kind="stable")
    sizes = frame.groupby("problem_id", sort=True).size()
    if sizes.min() != sizes.max():
        defect = f"{sizes.min()} to {sizes.max()} samples per problem: no accuracy from it"
        run.add_problem("malformed", f"samples/{benchmark}/step_{step}.parquet: {defect}")
        return None
    shape = (len(sizes), int(sizes.iloc[0]))
    answers = frame["answer"].astype(object)
    return Evaluation(
        benchmark,
        step,
        tuple(sizes.index),
        frame["score"].to_numpy(dtype=np.float64).reshape(shape),
        answers.where(answers.notna(), None).to_numpy().reshape(shape),
        Sampling({**sampling.values, "k": shape[1]}),
    )
