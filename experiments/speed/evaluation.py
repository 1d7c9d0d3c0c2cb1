"""Evaluation of the tiny model: what share of its time is spent outside of generation.

The clock runs from the first request, when servers, tools and grader are ready, until the last sample is on disk and
all are put together. Generation is the part of it in which at least one request was with an LLM server.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from experiments.speed.measuring import Row

if TYPE_CHECKING:
    from experiments.evaluation.job import Timing

K = 32


def measure(rounds: int) -> list[Row]:
    """One evaluation as `python experiments/evaluate.py` does it, 2,048 samples; `rounds` changes nothing."""
    with (
        tempfile.TemporaryDirectory() as root,
        # A process of its own: it runs verl, which looks for its device when it is imported.
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        timing = pool.submit(_evaluate, root).result()
    return [
        Row(f"evaluation of tiny, avg@{K}  outside of generation", 100 * timing.overhead, "%", at_most=5.0),
        Row(f"evaluation of tiny, avg@{K}  samples", timing.samples / timing.drawing, "per s"),
        Row("evaluation of tiny  start-up", timing.start_up, "s"),
    ]


def _evaluate(root: str) -> Timing:
    from experiments.compose import composed
    from experiments.evaluate import GROUP
    from experiments.evaluation.job import evaluate

    timing = evaluate(composed([GROUP, f"run.root={root}", f"evaluation.k={K}"]))
    assert timing is not None, "a new directory has samples to draw"
    return timing
