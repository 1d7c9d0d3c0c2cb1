"""Writing a run's records, from the process that launches it and from the process that trains."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import BaseFileLock

from ctpo.records import locks
from ctpo.records import manifest as manifests
from ctpo.records.files import RecordError, append_line, parsed, read_lines, repair_lines, write_bytes
from ctpo.records.identity import MAY_DIFFER
from ctpo.records.liveness import LOCK_FILE
from ctpo.records.position_archive import read_position_stats, write_position_stats
from ctpo.records.progress import set_phase
from ctpo.records.samples import check_benchmark, write_samples
from ctpo.records.schema import METRICS_ROW, State
from ctpo.records.steps import step_of

#: Below a run's directory: what it recorded beyond a step that it later resumed from, one folder per restart.
SET_ASIDE = "superseded"


class RunDirectoryBusy(RecordError):
    """Another live process trains into the directory."""


class RunDirectory:
    """One run's directory. Cheap to make in any process; only `open_for_training` creates the directory.

    Who calls what: the launcher `open_for_training` and `finish`; the trainer `begin_training` once it knows
    the step it continues from, then `append_metrics` once a step, `write_position_stats` and `write_samples`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._last_step: int | None = None
        self._lock: BaseFileLock | None = None

    # ------------------------------------------------------------------ launcher

    def open_for_training(
        self,
        config: Mapping[str, Any],
        *,
        seeds: Mapping[str, int],
        may_differ: Sequence[str] = MAY_DIFFER,
        check: Callable[[], object] = lambda: None,
    ) -> State:
        """Creates or re-opens the directory and holds it until `finish` or the end of this process.

        Args:
            config: the full resolved config, plain containers only.
            seeds: every seed the run uses, by name.
            may_differ: dotted fields in which a continued run may differ from the recorded one.
            check: called once the directory is held and before anything in it is changed; it may raise RecordError.

        Returns:
            The state the run was in: "created" for a new one; "finished" for a finished one, which is left
            alone and not held; anything else is a run to continue, and the restart is recorded.

        Raises:
            ConfigMismatch: the directory holds a run of another config.
            RunDirectoryBusy: another process trains into it.
            RecordError: its manifest cannot be read, or the disk cannot be written.
        """
        try:
            if os.path.lexists(self.manifest_path):
                self.check_config(config, may_differ)
                if self.state == "finished":
                    return "finished"
            return self._opened(config, seeds, may_differ, check)
        except OSError as error:
            self._release()
            raise RecordError(
                f"run.dir: {self.path} cannot be written ({error.strerror}); free space there or name another run.root"
            ) from None

    def _opened(
        self,
        config: Mapping[str, Any],
        seeds: Mapping[str, int],
        may_differ: Sequence[str],
        check: Callable[[], object],
    ) -> State:
        self.path.mkdir(parents=True, exist_ok=True)
        self._acquire()
        try:
            state: State = "created"
            check()
            if os.path.lexists(self.manifest_path):
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
        """Records how the run ended, also on a disk that is full meanwhile, and lets go of the directory.

        Raises:
            RecordError: the manifest cannot be written; the message has the `error`.
        """
        changes = {"state": state, "ended": manifests.now(), "error": error}
        try:
            manifests.write_manifest(self.path, {**self.manifest(), **changes}, last=True)
        except OSError as full:
            why = f" ({error})" if error else ""
            raise RecordError(
                f"{self.manifest_path}: cannot say that the run is {state}{why}: {full.strerror}; "
                "the same command continues it"
            ) from None
        finally:
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
        self._lock = locks.acquire(self.path / LOCK_FILE, patience_s)
        if self._lock is None:
            raise RunDirectoryBusy(
                f"run.dir: {self.path} is in use by another training process; wait for it or end it first"
            )

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # ------------------------------------------------------------------ trainer

    def begin_training(self, from_step: int) -> None:
        """Training starts, or goes on, after `from_step` (0 for a new run): sets aside every record beyond it."""
        self.set_aside_after(from_step)
        manifest = self.manifest()
        if manifest["restarts"] and manifest["restarts"][-1]["step"] is None:
            manifest["restarts"][-1]["step"] = int(from_step)
        changes = {"state": "running", "started": manifest["started"] or manifests.now()}
        manifests.write_manifest(self.path, {**manifest, **changes})

    def set_aside_after(self, step: int) -> Path | None:
        """Moves metrics rows, position stats and samples of steps beyond `step`, and rows that cannot be read, to a
        folder of their own, for they are made again. A torn last row is removed.

        Returns:
            The folder; None if there was nothing to move.
        """
        self._last_step = None
        repair_lines(self.metrics_path)
        kept, dropped = self._split_rows(step)
        folders = [self.path / "position_stats", *self.path.glob("samples/*")]
        files = [path for folder in folders for path in sorted(folder.glob("step_*")) if (step_of(path) or 0) > step]
        for leftover in (path for folder in folders for path in folder.glob(".*.tmp")):
            leftover.unlink()
        if not dropped and not files:
            return None
        parent = self.path / SET_ASIDE
        aside = next(folder for number in range(1, 10**6) if not (folder := parent / str(number)).exists())
        if dropped:
            # First the copy: a kill in between leaves a row in both places, and this folder counts for nothing.
            write_bytes(aside / self.metrics_path.name, b"".join(dropped))
            write_bytes(self.metrics_path, b"".join(kept))
        for path in files:
            target = aside / path.relative_to(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        return aside

    def _split_rows(self, step: int) -> tuple[list[bytes], list[bytes]]:
        """Lines of `metrics.jsonl` up to `step`, and all others."""
        kept: list[bytes] = []
        dropped: list[bytes] = []
        for line in io.BytesIO(self.metrics_path.read_bytes() if self.metrics_path.exists() else b""):
            try:
                (kept if parsed(line, METRICS_ROW)["step"] <= step else dropped).append(line)
            except ValueError:
                dropped.append(line)
        return kept, dropped

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
            self._last_step = max((row["step"] for row in self.rows()[0]), default=-1)
        return self._last_step

    def rows(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Metrics rows in file order, and what is wrong with the file."""
        return read_lines(self.metrics_path, METRICS_ROW)

    def write_position_stats(
        self, step: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None
    ) -> Path:
        """`arrays` (as of `PositionStats.to_arrays()`) and `meta` with its `method`; returns the archive's path.

        Raises:
            RecordError: an array of objects, or `meta` that is not JSON.
        """
        path = self.path / "position_stats" / f"step_{step}.npz"
        write_position_stats(path, step, arrays, meta or {})
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

    def has_records(self) -> bool:
        """Whether any record of a training step or an evaluation lies in the directory."""
        rows = self.metrics_path.exists() and self.metrics_path.stat().st_size > 0
        return rows or any(self.path.glob("position_stats/step_*")) or any(self.path.glob("samples/*/step_*"))

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
        return self.manifest()["state"] if os.path.lexists(self.manifest_path) else None

    def manifest(self) -> dict[str, Any]:
        """The manifest; raises RecordError where it is missing or of another schema."""
        return manifests.read_manifest(self.path)
