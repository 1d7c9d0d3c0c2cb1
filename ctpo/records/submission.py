"""``submission.json``: which cluster job was asked to make a run. Written by who submits, read by who watches."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ctpo.records.files import read_record, write_text
from ctpo.records.schema import SUBMISSION

FILE = "submission.json"


@dataclass(frozen=True)
class Submission:
    """`job_id`: as the cluster names it (`12` or `12_3`); `profile`: the choice of the `slurm` group;
    `submitted`: UTC, ISO 8601; `config_hash`: of the configuration that was submitted."""

    job_id: str
    profile: str
    submitted: str
    config_hash: str


def write_submission(run: Path, submission: Submission) -> None:
    """Replaces the run's submission: only the newest counts."""
    write_text(run / FILE, json.dumps(asdict(submission), indent=1, sort_keys=True) + "\n")


def read_submission(run: Path) -> Submission | None:
    """The newest submission of the run directory, None if it was never submitted.

    Raises:
        RecordError: the file is not a submission.
    """
    path = run / FILE
    if not os.path.lexists(path):
        return None
    return Submission(**read_record(path, SUBMISSION, "not a submission; remove it and submit again"))
