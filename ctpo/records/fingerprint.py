"""What a run measured, as a hash: two runs never share it, for it has their times."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ctpo.records.files import read_bytes


def measured(evaluation: bool) -> str:
    """What is compared: the rows of a training run, the samples of an evaluation."""
    return "samples" if evaluation else "metrics.jsonl"


def fingerprint(run: Path, evaluation: bool) -> str:
    """Hash of what the run in the directory `run` measured; empty if there is nothing, or nothing readable."""
    paths = sorted(run.glob("samples/*/step_*.parquet")) if evaluation else [run / "metrics.jsonl"]
    try:
        contents = [read_bytes(path) for path in paths]
    except OSError:
        return ""
    hashed = hashlib.sha256()
    for content in contents:
        hashed.update(content)
    return hashed.hexdigest() if any(contents) else ""
