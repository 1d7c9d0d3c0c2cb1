"""The checkpoint folder beyond what verl does with it: which one to resume from, and what may go.

verl's layout: `global_step_<n>/{actor/, data.pt}` and a tracker file with the newest n. `actor/` is written first,
then `data.pt`, then the tracker; this project puts `metrics_row.json` (the step's row, in case the run is killed
before it logs it) in before all of them, and `sealed.json` (every file and its size) after all of them. verl writes in
place and syncs nothing, so where a node goes down the tracker can name a folder whose files are torn: a folder counts
only if it is sealed and as its seal says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctpo.records.files import write_text

TRACKER = "latest_checkpointed_iteration.txt"
DRAFT = "metrics_row.json"
SEAL = "sealed.json"
_FOLDER = re.compile(r"global_step_(\d+)")


def seal(checkpoints: Path, step: int) -> None:
    """Declare the checkpoint of `step` complete: all of its files are on disk when this returns."""
    folder = checkpoints / f"global_step_{step}"
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            # Asked of the open file: the size in a network file system's cache may be an old one.
            with path.open("rb") as file:
                os.fsync(file.fileno())
                sizes[path.relative_to(folder).as_posix()] = os.fstat(file.fileno()).st_size
    write_text(folder / SEAL, json.dumps(sizes, indent=1))


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint was written to its end, and lost nothing since.

    Raises OSError where that cannot be told: a disk that does not answer is no reason to train from the start.
    """
    try:
        sizes: dict[str, int] = json.loads((folder / SEAL).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def complete_steps(checkpoints: Path) -> list[int]:
    """Steps whose checkpoint was written to its end, ascending."""
    return [step for step in _steps(checkpoints) if is_whole(checkpoints / f"global_step_{step}")]


def repair_tracker(checkpoints: Path) -> int:
    """The step that a run resumes from (0: from the start), after mending what a kill or a crash left.

    The tracker is believed if it names a whole checkpoint, or one that this project did not write. Else it is torn or
    gone, or the checkpoint is: then the newest whole one counts.
    """
    tracker = checkpoints / TRACKER
    try:
        named = int(tracker.read_text())
    except (FileNotFoundError, ValueError):
        named = None
    if named is not None:
        folder = checkpoints / f"global_step_{named}"
        if is_whole(folder) or (folder.is_dir() and not (folder / DRAFT).exists()):
            return named
    steps = [step for step in complete_steps(checkpoints) if named is None or step < named]
    if not steps:
        tracker.unlink(missing_ok=True)
        return 0
    write_text(tracker, str(steps[-1]))
    return steps[-1]


def prepare_save(checkpoints: Path, step: int, row: dict[str, Any]) -> None:
    """Make `global_step_<step>` with the draft of the step's row.

    What a dropped future of the run left there is removed first: it may share its bytes with the best checkpoint.
    """
    folder = checkpoints / f"global_step_{step}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / DRAFT).write_text(json.dumps(row))


def read_draft(checkpoints: Path, step: int) -> dict[str, Any]:
    """The row that `prepare_save` put in; empty for a checkpoint of another origin."""
    try:
        row: dict[str, Any] = json.loads((checkpoints / f"global_step_{step}" / DRAFT).read_text())
    except FileNotFoundError:
        return {}
    return row


def remove_old(checkpoints: Path, newest: int | None) -> None:
    """Remove all below the newest whole checkpoint but the `newest` whole ones; None keeps all.

    verl forgets those of before a restart, and never removes `data.pt`.
    """
    if newest is None:
        return
    kept = complete_steps(checkpoints)[-newest:]
    for step in _steps(checkpoints):
        if step not in kept and step < max(kept, default=0):
            shutil.rmtree(checkpoints / f"global_step_{step}", ignore_errors=True)


def drop_future(checkpoints: Path, step: int) -> None:
    """Remove what lies beyond `step`, which a run resumes from: torn saves, and a future that is trained anew.

    Left there, they would be the newest by number, and what is saved from now on the oldest.
    """
    for later in _steps(checkpoints):
        if later > step:
            shutil.rmtree(checkpoints / f"global_step_{later}", ignore_errors=True)


def _steps(checkpoints: Path) -> list[int]:
    found = (_FOLDER.fullmatch(path.name) for path in checkpoints.glob("global_step_*"))
    return sorted(int(match.group(1)) for match in found if match)


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
    """Seed of the rollout engines of a run (re)started at `step`.

    An engine begins its random stream anew at each start; without the step, a resumed run would sample with the
    stream of its first steps. verl adds the replica's number, so seeds are spaced by more than any node has.
    """
    return (run_seed * 1_000_003 + step * 1_009) % 2**31
