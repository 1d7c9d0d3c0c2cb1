"""The submission of a run: written whole, read back equal, refused when it is something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctpo.records import RecordError, Submission, read_submission, write_submission

SUBMITTED = Submission(job_id="12_3", profile="h100_node", submitted="2026-11-25T20:00:00+00:00", config_hash="ab12")


def test_a_submission_is_read_back_and_the_newest_counts(tmp_path: Path) -> None:
    run = tmp_path / "seed0"
    write_submission(run, Submission("7", "cpu_local", SUBMITTED.submitted, "cd34"))
    write_submission(run, SUBMITTED)
    assert read_submission(run) == SUBMITTED
    assert [path.name for path in run.iterdir()] == ["submission.json"]


def test_a_run_that_was_never_submitted_has_none(tmp_path: Path) -> None:
    assert read_submission(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", '{"job_id": "1"}'])
def test_another_file_of_that_name_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "submission.json").write_text(content)
    with pytest.raises(RecordError, match="not a submission"):
        read_submission(tmp_path)
