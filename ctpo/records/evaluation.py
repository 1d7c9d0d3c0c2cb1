"""Samples drawn outside of training: recorded one by one by any number of jobs, then put together.

    samples/<benchmark>/step_<n>.settings.json     what decides these samples; others are refused
    samples/<benchmark>/step_<n>.parts/            while not complete: <i>-of-<n>.jsonl, one line per sample
    samples/<benchmark>/step_<n>.parquet           once complete: what training writes

An evaluation has a directory of its own, never that of a training run, whose samples it could only overwrite.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock

from ctpo.records import locks
from ctpo.records import manifest as manifests
from ctpo.records.files import RecordError, append_lines, json_safe, read_lines, read_record, repair_lines, write_text
from ctpo.records.identity import first_difference
from ctpo.records.liveness import LOCK_FILE
from ctpo.records.run_directory import RunDirectoryBusy
from ctpo.records.samples import check_benchmark, read_samples, write_samples
from ctpo.records.schema import EVALUATION, MAPPING, SAMPLE_ROW

_LOCK_WAIT_S = 60.0
Key = tuple[str, int]


def open_evaluation(path: Path, config: Mapping[str, Any], seeds: Mapping[str, int]) -> None:
    """Makes `path` the directory of an evaluation, or opens one again; several jobs may have it open.

    Args:
        config: the resolved config, with an `evaluation` node; that of the first job is recorded, of others (which
            may differ in checkpoint, benchmarks and shard) that they were started, when and from what code.
        seeds: by name.

    Raises:
        RecordError: `path` holds a training run.
    """
    path.mkdir(parents=True, exist_ok=True)
    _refuse_training_run(path)
    with _locked(path):
        if (path / manifests.FILE).exists():
            _refuse_training_run(path)
            manifest = manifests.with_restart(path, manifests.read_manifest(path))
        else:
            manifests.create_manifest(path, config, seeds, ())
            manifest = {**manifests.read_manifest(path), "started": manifests.now()}
        manifests.write_manifest(path, {**manifest, "state": "running"})


def close_evaluation(path: Path, state: Literal["finished", "failed", "interrupted"], error: str | None = None) -> None:
    """Records how a job ended. A finished job leaves the state at "running" while samples of others are missing."""
    with _locked(path):
        if state == "finished" and any(path.glob("samples/*/step_*.parts")):
            return
        changes = {"state": state, "ended": manifests.now(), "error": error}
        manifests.write_manifest(path, {**manifests.read_manifest(path), **changes})


def log_file(path: Path, part: str) -> Path:
    """Where a job of the evaluation in `path` leaves what Ray, verl and vLLM say."""
    return path / f"evaluate-{part}.log"


def run_of_checkpoint(checkpoint: Path) -> tuple[Path, dict[str, Any]] | None:
    """The training run's directory that `checkpoint` lies in, with its recorded config; None outside of one."""
    for parent in (checkpoint, *checkpoint.parents):
        if (parent / manifests.FILE).is_file():
            config: dict[str, Any] = manifests.read_manifest(parent)["config"]
            return (parent, config) if EVALUATION not in config else None
    return None


def _refuse_training_run(path: Path) -> None:
    if (path / manifests.FILE).exists() and EVALUATION not in manifests.read_manifest(path)["config"]:
        raise RecordError(
            f"run.dir: {path} holds a training run, whose own samples an evaluation would overwrite; "
            "choose another run.sweep"
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The directory's lock, for a moment; waits for other jobs."""
    lock = locks.acquire(path / LOCK_FILE, _LOCK_WAIT_S)
    if lock is None:
        raise RunDirectoryBusy(f"run.dir: {path} is in use by another process; wait for it or end it first")
    try:
        yield
    finally:
        lock.release()


class SampleParts:
    """The samples of one benchmark at one step, while jobs draw them and afterwards."""

    def __init__(self, run: Path, benchmark: str, step: int) -> None:
        folder = run / "samples" / check_benchmark(benchmark)
        self.run, self.benchmark, self.step = run, benchmark, step
        self.path = folder / f"step_{step}.parquet"
        self._settings = folder / f"step_{step}.settings.json"
        self._parts = folder / f"step_{step}.parts"
        self._own: Path | None = None
        self._lock: BaseFileLock | None = None

    @property
    def complete(self) -> bool:
        """Whether the samples have been put together."""
        return self.path.exists()

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Records what decides these samples, or checks that it is what was recorded.

        Raises:
            RecordError: the samples there are of other settings, or of training.
        """
        wanted = json_safe(settings, "settings")
        with _locked(self.run):
            if not self._settings.exists():
                if self.path.exists():
                    raise RecordError(f"{self.path}: was not written by an evaluation; choose another run.sweep")
                write_text(self._settings, json.dumps(wanted, indent=1, sort_keys=True, allow_nan=False) + "\n")
        recorded = read_record(self._settings, MAPPING, "remove it with the samples beside it")
        difference = first_difference(recorded, wanted, ())
        if difference is not None:
            raise RecordError(
                f"evaluation: {self._settings.parent} holds samples of {self.benchmark}, step {self.step}, with other "
                f"settings: {difference}.\nGive the recorded value to continue them, or choose another run.sweep."
            )

    def open_part(self, shard: int, shards: int) -> None:
        """Holds one job's part, to `append` to, until `close` or the end of this process.

        Raises:
            RunDirectoryBusy: another live process has it.
        """
        self._own = self._parts / f"{shard}-of-{shards}.jsonl"
        self._parts.mkdir(parents=True, exist_ok=True)
        self._lock = locks.acquire(self._own, 0)
        if self._lock is None:
            raise RunDirectoryBusy(
                f"evaluation.shard={shard}/{shards}: another process draws this part of {self.benchmark} "
                f"in {self.run}; wait for it or end it first"
            )
        repair_lines(self._own)

    def close(self) -> None:
        """Lets go of the part."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds finished samples to this job's part; they are on disk when this returns."""
        assert self._own is not None, "open_part first"
        append_lines(self._own, rows)

    def rows(self) -> dict[Key, dict[str, Any]]:
        """Finished samples of all jobs by `(problem_id, sample_index)`.

        Of a sample drawn twice (by jobs that cut the evaluation differently) the first counts: both have its seed.
        """
        found: dict[Key, dict[str, Any]] = {}
        for part in sorted(self._parts.glob("*.jsonl")):
            rows, problems = read_lines(part, SAMPLE_ROW)
            if problems:
                raise RecordError(f"{part.parent / problems[0]}; remove that line to draw its sample again")
            for row in rows:
                found.setdefault((row["problem_id"], row["sample_index"]), row)
        return found

    def merge(self, keys: Sequence[Key]) -> bool:
        """Puts the samples together once there is one for each of `keys`, in their order.

        Returns:
            Whether they are together now. A kill at any instant leaves the parts or the whole, never neither.
        """
        with _locked(self.run):
            if not self.complete:
                rows = self.rows()
                if any(key not in rows for key in keys):
                    return False
                write_samples(self.path, self.step, [rows[key] for key in keys])
            shutil.rmtree(self._parts, ignore_errors=True)
        return True

    def scores(self) -> dict[str, list[float]]:
        """Of complete samples: the scores of each problem, by sample index."""
        frame = read_samples(self.path).sort_values(["problem_id", "sample_index"])
        return {str(problem): rows["score"].tolist() for problem, rows in frame.groupby("problem_id")}
