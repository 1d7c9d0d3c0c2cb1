"""Reference answers that the grader cannot read as mathematics or as words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from ctpo.tir.grading import Grader


def unreadable(golds: Sequence[str], what: str) -> list[int]:
    """Indices of the answers that only the very same characters would match. Each distinct one is read once."""
    distinct = list(dict.fromkeys(golds))
    workers = len(os.sched_getaffinity(0))
    grader = Grader(concurrency=workers)
    try:
        with ThreadPoolExecutor(workers) as pool:
            verdicts = list(
                tqdm(
                    pool.map(grader.readable, distinct),
                    total=len(distinct),
                    desc=f"reading the answers of {what}",
                    disable=len(distinct) < 2000,
                    leave=False,
                )
            )
    finally:
        grader.close()
    readable = dict(zip(distinct, verdicts, strict=True))
    return [index for index, gold in enumerate(golds) if not readable[gold]]
