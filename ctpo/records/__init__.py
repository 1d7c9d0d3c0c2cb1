"""The run directory ``<root>/<sweep>/<model>/<method>/seed<k>/``: its schema, its only writer and reader.

    manifest.json            state, git commit, full config and its hash, seeds, packages, hardware, restarts
    config.yaml              the same config, for people
    uncommitted.diff         what differed from the commit, if anything
    method_code/             of a user's own method: its source (`ctpo.methods.custom`)
    metrics.jsonl            one object per training step
    position_stats/          step_<n>.npz, sums over the tokens of a step (`ctpo.records.position_stats`)
    samples/<benchmark>/     step_<n>.parquet, one row per evaluated sample
    submission.json          the cluster job that was asked to make it, if any
    stop                     a request to save and end, while there is one
    superseded/<k>/          what the k-th restart found beyond the step that it resumed from; counts for nothing
    checkpoints/             the trainer's; not read here

Files are written whole and then renamed, or grow by complete lines, so a reader never sees half a record. What is read
is checked (`ctpo.records.schema`, `position_stats`, `samples`): a file that is wrong is a named problem of its run.
Writers import no more than numpy, pydantic and filelock; pandas, pyarrow and yaml load when first needed.
"""

from __future__ import annotations

from ctpo.records.files import RecordError
from ctpo.records.identity import MAY_DIFFER, ConfigMismatch, config_hash, varying_fields
from ctpo.records.liveness import is_alive
from ctpo.records.reader import FoundRuns, Problem, RunRecord, WaitingRun, find_runs
from ctpo.records.run_directory import RunDirectory, RunDirectoryBusy
from ctpo.records.samples import SAMPLE_FIELDS
from ctpo.records.sampling import DRAW, Sampling
from ctpo.records.stop_request import Stopped, clear_stop, request_stop, stop_reason
from ctpo.records.submission import Submission, read_submission, write_submission

__all__ = [
    "DRAW",
    "MAY_DIFFER",
    "SAMPLE_FIELDS",
    "ConfigMismatch",
    "FoundRuns",
    "Problem",
    "RecordError",
    "RunDirectory",
    "RunDirectoryBusy",
    "RunRecord",
    "Sampling",
    "Stopped",
    "Submission",
    "WaitingRun",
    "clear_stop",
    "config_hash",
    "find_runs",
    "is_alive",
    "read_submission",
    "request_stop",
    "stop_reason",
    "varying_fields",
    "write_submission",
]
