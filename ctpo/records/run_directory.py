"""Writing a run's records, from the process that launches it and from the process that trains."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ctpo.records import manifest as manifests
from ctpo.records.files import (
    RecordError,
    append_line,
    json_number,
    json_safe,
    read_lines,
    repair_lines,
    write_text,
    write_whole,
)
from ctpo.records.identity import MAY_DIFFER
from ctpo.records.liveness import LOCK_FILE
from ctpo.records.manifest import State
from ctpo.records.progress import set_phase
from ctpo.records.samples import check_benchmark, write_samples

#: Key of a position-stats archive under which its `meta` lies, as JSON text.
META_KEY = "__meta__"
_STEP_FILE = re.compile(r"step_(\d+)\.(npz|parquet)")


class RunDirectoryBusy(RecordError):
    """Another live process trains into the directory."""


def _locked(descriptor: int) -> bool:
    """Takes the lock unless another process has it; raises OSError where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def step_of(path: Path) -> int | None:
    """The step a record file is of; None for any other file (a temporary one, say)."""
    match = _STEP_FILE.fullmatch(path.name)
    return int(match.group(1)) if match else None


class RunDirectory:
    """One run's directory. Cheap to make in any process; only `open_for_training` creates the directory.

    Who calls what: the launcher `open_for_training` and `finish`; the trainer `begin_training` once it knows
    the step it continues from, then `append_metrics` once a step, `write_position_stats` and `write_samples`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._last_step: int | None = None
        self._lock: int | None = None

    # ------------------------------------------------------------------ launcher

    def open_for_training(
        self,
        config: Mapping[str, Any],
        *,
        seeds: Mapping[str, int],
        may_differ: Sequence[str] = MAY_DIFFER,
    ) -> State:
        """Creates or re-opens the directory and holds it until `finish` or the end of this process.

        Args:
            config: the full resolved config, plain containers only.
            seeds: every seed the run uses, by name.
            may_differ: dotted fields in which a continued run may differ from the recorded one.

        Returns:
            The state the run was in: "created" for a new one; "finished" for a finished one, which is left
            alone and not held; anything else is a run to continue, and the restart is recorded.

        Raises:
            ConfigMismatch: the directory holds a run of another config.
            RunDirectoryBusy: another process trains into it.
            RecordError: its manifest cannot be read.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._acquire()
        try:
            state: State = "created"
            if self.manifest_path.exists():
                state = manifests.reopen_manifest(self.path, config, may_differ)
            else:
                manifests.create_manifest(self.path, config, seeds, may_differ)
        except BaseException:
            self._release()
            raise
        if state == "finished":
            self._release()
        else:
            set_phase(self.path, "starting")
        return state

    def check_config(self, config: Mapping[str, Any], may_differ: Sequence[str] = MAY_DIFFER) -> None:
        """Raises ConfigMismatch if the directory, which must hold a run, holds one of another config."""
        manifests.check_config(self.path, config, may_differ)

    def finish(self, state: Literal["finished", "failed", "interrupted"], error: str | None = None) -> None:
        """Records how the run ended and lets go of the directory."""
        changes = {"state": state, "ended": manifests.now(), "error": error}
        manifests.write_manifest(self.path, {**self.manifest(), **changes})
        set_phase(self.path, state)
        self._release()

    def is_busy(self) -> bool:
        """Whether a live process trains into the directory (False on a file system without locks)."""
        if not self.path.is_dir():
            return False
        try:
            self._acquire(patience_s=0)
        except RunDirectoryBusy:
            return True
        self._release()
        return False

    def _acquire(self, patience_s: float = 1.0) -> None:
        # Patience, because `is_busy` of another process holds the lock for a moment.
        descriptor = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        end = time.monotonic() + patience_s
        try:
            while not _locked(descriptor):
                if time.monotonic() >= end:
                    raise BlockingIOError(errno.EWOULDBLOCK, "locked")
                time.sleep(0.05)
        except OSError as error:
            # Any other error: a file system without locks (some Lustre mounts); the run goes on unguarded.
            if error.errno == errno.EWOULDBLOCK:
                os.close(descriptor)
                raise RunDirectoryBusy(
                    f"run.dir: {self.path} is in use by another training process; wait for it or end it first"
                ) from None
        self._lock = descriptor

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ------------------------------------------------------------------ trainer

    def begin_training(self, from_step: int) -> None:
        """Training starts, or goes on, after `from_step` (0 for a new run): drops every record beyond it."""
        self.truncate_after(from_step)
        manifest = self.manifest()
        if manifest["restarts"] and manifest["restarts"][-1]["step"] is None:
            manifest["restarts"][-1]["step"] = int(from_step)
        changes = {"state": "running", "started": manifest["started"] or manifests.now()}
        manifests.write_manifest(self.path, {**manifest, **changes})

    def truncate_after(self, step: int) -> None:
        """Removes metrics rows, position stats and samples of steps beyond `step`, and a torn last line."""
        self._last_step = None
        rows, problems = read_lines(self.metrics_path)
        kept = [row for row in rows if row["step"] <= step]
        if problems or len(kept) < len(rows):
            text = "".join(json.dumps(json_safe(row), allow_nan=False) + "\n" for row in kept)
            write_text(self.metrics_path, text)
        repair_lines(self.metrics_path)
        for file in [*self.path.glob("position_stats/step_*"), *self.path.glob("samples/*/step_*")]:
            if (step_of(file) or 0) > step:
                file.unlink()
        for leftover in [*self.path.glob("position_stats/.*.tmp"), *self.path.glob("samples/*/.*.tmp")]:
            leftover.unlink()

    def append_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One row for `step`: `{"step", "time" (Unix seconds), **metrics}`; NaN and infinities survive.

        Raises:
            RecordError: `step` is not beyond the last recorded one, or a value cannot be recorded.
        """
        last = self.last_step()
        if step <= last:
            raise RecordError(
                f"metrics: step {step} is recorded already (last is {last}); "
                "call begin_training(from_step) with the checkpoint's step before training goes on"
            )
        row = {**metrics, "step": int(step), "time": round(time.time(), 3)}
        append_line(self.metrics_path, row)
        self._last_step = int(step)

    def last_step(self) -> int:
        """Step of the last complete metrics row, -1 before the first."""
        if self._last_step is None:
            repair_lines(self.metrics_path)
            self._last_step = max((row["step"] for row in read_lines(self.metrics_path)[0]), default=-1)
        return self._last_step

    def write_position_stats(
        self, step: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None
    ) -> Path:
        """`arrays` (as of `PositionStats.to_arrays()`) and `meta`, one compressed archive; returns its path.

        Raises:
            RecordError: an array of objects, or `meta` that is not JSON.
        """
        for name, array in arrays.items():
            if np.asarray(array).dtype == object or name == META_KEY:
                raise RecordError(f"position_stats: array {name!r} is of objects or of a reserved name")
        text = json.dumps(json_safe(meta or {}, "meta"), allow_nan=False, sort_keys=True)
        path = self.path / "position_stats" / f"step_{step}.npz"
        content: dict[str, Any] = {META_KEY: np.array(text), **arrays}
        write_whole(path, lambda file: np.savez_compressed(file, **content))
        return path

    def position_stats(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of every recorded step, in the order of steps."""
        files = {step_of(path): path for path in self.path.glob("position_stats/step_*")}
        for step in sorted(step for step in files if step is not None):
            yield read_position_stats(files[step])[0]

    def write_samples(self, benchmark: str, step: int, rows: Iterable[Mapping[str, Any]]) -> Path:
        """One row per evaluated sample, keys `SAMPLE_FIELDS` (`step` is filled in); returns the file's path.

        Raises:
            RecordError: no rows, a column missing or unknown, a wrong type, or a sample given twice.
        """
        path = self.path / "samples" / check_benchmark(benchmark) / f"step_{step}.parquet"
        write_samples(path, step, rows)
        return path

    # ------------------------------------------------------------------ both

    @property
    def manifest_path(self) -> Path:
        return self.path / manifests.FILE

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def state(self) -> State | None:
        """None where no run was ever opened."""
        return self.manifest()["state"] if self.manifest_path.exists() else None

    def manifest(self) -> dict[str, Any]:
        """The manifest; raises RecordError where it is missing or of another schema."""
        return manifests.read_manifest(self.path)


def read_position_stats(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`(arrays, meta)` of one archive.

    Raises:
        RecordError: the file is not one.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(str(arrays.pop(META_KEY)))
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds
        raise RecordError(f"{path}: not a position-stats archive ({type(error).__name__}: {error})") from None
    return arrays, {key: json_number(value) for key, value in meta.items()}
