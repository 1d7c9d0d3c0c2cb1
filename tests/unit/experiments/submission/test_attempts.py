"""A run is given up after three deaths from one checkpoint; stops that were asked for never count."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.submission.attempts import deaths_without_progress


def manifest(*attempts: tuple[int | None, str]) -> dict[str, Any]:
    """`(step it started from, how it ended)` of each attempt, an hour apart; the first starts from nothing."""
    (_, first_end), *later = attempts
    ends = [first_end, *(end for _, end in later)]
    restarts = [
        {"time": f"2026-01-01T{hour:02d}:00:00", "step": step, "previous_state": ends[hour - 1]}
        for hour, (step, _) in enumerate(later, start=1)
    ]
    return {"created": "2026-01-01T00:00:00", "restarts": restarts, "state": ends[-1]}


@pytest.mark.parametrize(
    ("attempts", "resume_step", "deaths"),
    [
        ([(0, "failed")], 0, 1),
        ([(0, "failed"), (0, "failed"), (0, "failed")], 0, 3),
        # The last one got as far as a new checkpoint before it died: that is progress.
        ([(0, "failed"), (0, "failed"), (0, "failed")], 20, 0),
        ([(0, "failed"), (20, "failed"), (20, "failed")], 20, 2),
        # Pre-empted, timed out, or its node went down: not the run's fault, and no progress either.
        ([(0, "failed"), (0, "interrupted"), (0, "failed"), (0, "running"), (0, "failed")], 0, 3),
        ([(0, "interrupted"), (0, "interrupted"), (0, "interrupted")], 0, 0),
        # Dead before it had loaded its checkpoint.
        ([(0, "failed"), (None, "failed"), (None, "failed")], 0, 3),
        ([(0, "failed"), (20, "failed"), (None, "failed")], 20, 2),
    ],
)
def test_deaths_from_the_checkpoint_it_would_resume_from(
    attempts: list[tuple[int | None, str]], resume_step: int, deaths: int
) -> None:
    assert deaths_without_progress(manifest(*attempts), resume_step) == deaths


def test_a_new_submission_forgives_what_was_before() -> None:
    record = manifest((0, "failed"), (0, "failed"), (0, "failed"), (0, "failed"))
    assert deaths_without_progress(record, 0, since="2026-01-01T02:30:00") == 1
