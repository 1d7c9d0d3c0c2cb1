"""What a run that starts again continues from, decided before anything is started and before a record is touched.

The newest checkpoint that is as it was sealed counts. A run is refused, with the fix, where going on would lose or
mix records: checkpoints of another configuration, none that is whole although some were, records missing before the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctpo.records import ConfigMismatch, RecordError, RunDirectory, config_hash
from ctpo.records.position_archive import read_position_stats
from ctpo.records.run_directory import SET_ASIDE
from ctpo.records.samples import read_samples
from ctpo.training import checkpoints as ckpt


def prepare(run: RunDirectory, config: Mapping[str, Any]) -> list[str]:
    """Points verl at the checkpoint that the run of `config` continues from.

    Args:
        run: held, and not written yet.
        config: resolved; `trainer.resume_mode`, `records`, `trainer.test_freq` and the checkpoints' folder count.

    Returns:
        Lines for whoever started the run, where it does not simply continue from its newest checkpoint.

    Raises:
        RecordError: it must not continue; the message has the fix.
    """
    trainer = config["trainer"]
    folder = Path(trainer["default_local_dir"])
    try:
        _check_owner(run, folder, config)
        if trainer["resume_mode"] != "auto":
            return []
        step, remarks = _newest(run, folder)
        gaps = list(_gaps(run, step, config["records"]["position_stats_every"], trainer["test_freq"])) if step else []
    except OSError as error:
        raise RecordError(f"{error.filename}: cannot be read ({error.strerror}); nothing was started") from None
    if gaps and not config["records"]["allow_gaps"]:
        raise RecordError(
            f"run.dir: {run.path} lacks records before step {step}, from which it would continue: {gaps[0]}"
            f"{f' and {len(gaps) - 1} more' if gaps[1:] else ''}; restore them, or set records.allow_gaps=true to "
            "continue without"
        )
    if step != (ckpt.tracked_step(folder) or 0):
        ckpt.track(folder, step)
    return [*remarks, *(f"continues without {gap} (records.allow_gaps)" for gap in gaps)]


def _check_owner(run: RunDirectory, folder: Path, config: Mapping[str, Any]) -> None:
    """Raises RecordError where checkpoints or records lie in the directory that are not known to be of this run."""
    known = run.state is not None
    wanted = run.manifest()["config_hash"] if known else config_hash(config)
    owners = {step: ckpt.owner(folder / f"global_step_{step}") for step in ckpt.steps(folder)}
    for step, owner in owners.items():
        if owner and owner != wanted:
            raise ConfigMismatch(
                f"run.dir: {folder}/global_step_{step} is of a run of another config (its hash is "
                f"{owner[:12]}, not {wanted[:12]}); choose another run.sweep or run.seed, or move the directory away"
            )
    if not known and not any(owners.values()) and (owners or run.has_records()):
        raise RecordError(
            f"run.dir: {run.path} holds records but no manifest.json, so nobody can tell of which config they are; "
            "restore it, or move the directory away to start anew"
        )


def _newest(run: RunDirectory, folder: Path) -> tuple[int, list[str]]:
    """The step to continue from (0: from the start), and remarks."""
    tracked = ckpt.tracked_step(folder)
    damaged: list[str] = []
    for step in reversed(ckpt.steps(folder)):
        path = folder / f"global_step_{step}"
        # Beyond the tracker: a save that was cut off before verl announced it. Without `actor`: verl removed it.
        if (tracked is not None and step > tracked) or not (path / "actor").is_dir():
            continue
        reason = ckpt.damage(path)
        if not reason:
            return step, [f"{name}; continues from step {step}" for name in damaged]
        if reason != ckpt.UNFINISHED:
            damaged.append(f"{path.name} is damaged ({reason})")
    if damaged:
        raise RecordError(
            f"run.dir: {folder}: {damaged[0]}, and no older checkpoint is whole; restore it, or remove {folder} "
            f"to start at step 0 (what is recorded goes to {run.path}/{SET_ASIDE})"
        )
    recorded = max(run.last_step(), 0)
    again = f"no checkpoint was completed: starts at step 0; what is recorded of {recorded} steps goes to {SET_ASIDE}/"
    return 0, [again] if recorded else []


def _gaps(run: RunDirectory, step: int, stats_every: int, test_freq: int) -> Iterator[str]:
    """Records that a run which has come to `step` must have and has not; its own row can lie in the checkpoint."""
    rows = {row["step"] for row in run.rows()[0]}
    yield from (f"metrics.jsonl step {number}" for number in range(1, step) if number not in rows)
    for number in range(stats_every, step + 1, stats_every):
        yield from _unreadable(run.path / "position_stats" / f"step_{number}.npz", read_position_stats, run.path)
    benchmarks = sorted(path.name for path in run.path.glob("samples/*") if path.is_dir()) or ["*"]
    for number in range(test_freq, step, test_freq) if test_freq > 0 else ():
        for name in benchmarks:
            yield from _unreadable(run.path / "samples" / name / f"step_{number}.parquet", read_samples, run.path)


def _unreadable(path: Path, reader: Any, run: Path) -> Iterator[str]:
    try:
        reader(path)
    except RecordError as error:
        yield f"{path.relative_to(run)} (missing)" if not path.exists() else str(error).replace(f"{run}/", "")


@dataclass(frozen=True)
class Resume:
    """What a run that starts (again) at `step` has to do before it trains on."""

    append_draft: bool
    """The step's row was lost between checkpoint and log: append the draft as it is."""
    validate: bool
    """Evaluate now; if the row was lost, the evaluation's numbers complete it."""


def resume_plan(step: int, last_row: int, test_freq: int, total_steps: int, val_before_train: bool) -> Resume:
    """Decide from the checkpoint's `step` and the last step that has a metrics row (-1: none).

    A row exists only if the step's evaluation, where one was due, is recorded: samples are written before the row.
    """
    if last_row >= step:
        return Resume(append_draft=False, validate=False)
    if step == 0:
        return Resume(append_draft=False, validate=val_before_train)
    due = test_freq > 0 and (step % test_freq == 0 or step >= total_steps)
    return Resume(append_draft=not due, validate=due)


def sampling_seed(run_seed: int, step: int) -> int:
    """Seed of the rollout engines of a run (re)started at `step`; it decides samples where ``rollout.seeded=false``.

    An engine begins its random stream anew at each start; without the step, a resumed run would sample with the
    stream of its first steps. verl adds the replica's number, so seeds are spaced by more than any node has.
    """
    return (run_seed * 1_000_003 + step * 1_009) % 2**31
