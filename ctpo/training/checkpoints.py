"""The checkpoint folder beyond what verl does with it: what is complete, whose it is, and what may go.

verl's layout: `global_step_<n>/{actor/, data.pt}` and a tracker file with the newest n. `actor/` is written first,
then `data.pt`, then the tracker. This project puts `metrics_row.json` (the step's row, in case the run is killed
before it logs it) in before all of them, and `sealed.json` (whose it is, and every file's size and checksum) after all
of them. verl writes in place and syncs nothing, so where a node goes down the tracker can name a folder whose files are
torn: a folder counts only if it is sealed and as its seal says. `resume.py` decides which one a run continues from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash

from ctpo.records.files import parsed, read_bytes, read_note, read_record, write_text
from ctpo.records.schema import BEST_NOTE, MAPPING, SEAL

TRACKER = "latest_checkpointed_iteration.txt"
DRAFT = "metrics_row.json"
SEALED = "sealed.json"
BEST = "best"
INFO = "best.json"
_FOLDER = re.compile(r"global_step_(0|[1-9][0-9]{0,15})")
#: Of a save that was under way when its run was killed.
UNFINISHED = "not written to its end"
#: Files that are read at once, and bytes of each in memory.
_READERS, _BLOCK = 8, 1 << 22


def seal(checkpoints: Path, step: int, config_hash: str) -> None:
    """Declare the checkpoint of `step` complete: all of its files are on disk when this returns."""
    folder = checkpoints / f"global_step_{step}"
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(_READERS) as readers:
        names = [path.relative_to(folder).as_posix() for path in paths]
        found = dict(zip(names, readers.map(_synced, paths), strict=True))
    write_text(folder / SEALED, json.dumps({"config_hash": config_hash, "files": found}, indent=1))


def _synced(path: Path) -> dict[str, int | str]:
    # Asked of the open file: the size in a network file system's cache may be an old one.
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return {"bytes": os.fstat(file.fileno()).st_size, "xxh3": checksum(path)}


def checksum(path: Path) -> str:
    """XXH3 (128 bits) of a file's content: against faults of disks, not against forgers."""
    hashed, block = xxhash.xxh3_128(), bytearray(_BLOCK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            hashed.update(memoryview(block)[:count])
    return hashed.hexdigest()


def damage(folder: Path, content: bool = True) -> str:
    """What is wrong with the checkpoint in `folder`: `file: reason`, or empty for one that is as it was sealed.

    Args:
        content: compare checksums, which reads all of it; else only sizes.

    Raises:
        OSError: it cannot be told. A disk that does not answer is no reason to train from the start.
    """
    try:
        files = parsed(read_bytes(folder / SEALED), SEAL)["files"]
    except (FileNotFoundError, NotADirectoryError):
        return UNFINISHED
    except (IsADirectoryError, ValueError) as error:
        return f"{SEALED}: {error}"
    for name, sealed in files.items():
        try:
            found = (folder / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"{name}: missing"
        if found != sealed["bytes"]:
            return f"{name}: {found} bytes, {sealed['bytes']} when it was sealed"
    if content:
        with ThreadPoolExecutor(_READERS) as readers:
            for name, found in zip(files, readers.map(lambda name: checksum(folder / name), files), strict=True):
                if found != files[name]["xxh3"]:
                    return f"{name}: other bytes than when it was sealed"
    return ""


def owner(folder: Path) -> str | None:
    """The config hash of the run that made the checkpoint; None where its seal is missing or unreadable."""
    try:
        recorded: str = parsed(read_bytes(folder / SEALED), SEAL)["config_hash"]
    except (OSError, ValueError):
        return None
    return recorded


def complete_steps(checkpoints: Path) -> list[int]:
    """Steps whose checkpoint was written to its end and lacks nothing since (by size), ascending."""
    return [step for step in steps(checkpoints) if not damage(checkpoints / f"global_step_{step}", content=False)]


def steps(checkpoints: Path) -> list[int]:
    """Steps that have a checkpoint folder, in whatever state, ascending."""
    found = (_FOLDER.fullmatch(path.name) for path in checkpoints.glob("global_step_*"))
    return sorted(int(match.group(1)) for match in found if match)


def tracked_step(checkpoints: Path) -> int | None:
    """The step that verl's tracker names; None where it names none."""
    text = (read_note(checkpoints / TRACKER) or "").strip()
    return int(text) if _FOLDER.fullmatch(f"global_step_{text}") else None


def track(checkpoints: Path, step: int) -> None:
    """Make verl load the checkpoint of `step` at its next start; 0: none."""
    if step:
        write_text(checkpoints / TRACKER, str(step))
    else:
        (checkpoints / TRACKER).unlink(missing_ok=True)


def prepare_save(checkpoints: Path, step: int, row: dict[str, Any]) -> None:
    """Make `global_step_<step>` with the draft of the step's row.

    What a dropped future of the run left there is removed first: it may share its bytes with the best checkpoint.
    """
    folder = checkpoints / f"global_step_{step}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / DRAFT).write_text(json.dumps(row))


def read_draft(checkpoints: Path, step: int) -> dict[str, Any]:
    """The row that `prepare_save` put in; empty for a checkpoint of another origin.

    Raises:
        RecordError: it is not a row.
    """
    path = checkpoints / f"global_step_{step}" / DRAFT
    return read_record(path, MAPPING, "the checkpoint is damaged") if os.path.lexists(path) else {}


def remove_old(checkpoints: Path, newest: int | None) -> None:
    """Remove all below the newest whole checkpoint but the `newest` whole ones; None keeps all.

    verl forgets those of before a restart, and never removes `data.pt`.
    """
    if newest is None:
        return
    kept = complete_steps(checkpoints)[-newest:]
    for step in steps(checkpoints):
        if step not in kept and step < max(kept, default=0):
            shutil.rmtree(checkpoints / f"global_step_{step}", ignore_errors=True)


def drop_future(checkpoints: Path, step: int) -> None:
    """Remove what lies beyond `step`, which a run resumes from: torn saves, and a future that is trained anew.

    Left there, they would be the newest by number, and what is saved from now on the oldest.
    """
    for later in steps(checkpoints):
        if later > step:
            shutil.rmtree(checkpoints / f"global_step_{later}", ignore_errors=True)


# `best/` keeps the checkpoint with the best held-out accuracy, while verl keeps the newest ones. Files are hard links:
# verl may delete its copy, and no byte is stored twice. It is replaced by renames, so a reader finds a whole one, and a
# run killed in between finds the previous one or none.


def best_so_far(checkpoints: Path) -> tuple[int, float] | None:
    """`(step, accuracy)` of the checkpoint kept in `checkpoints/best`; None if there is none, or its note is torn."""
    try:
        info = parsed(read_bytes(checkpoints / BEST / INFO), BEST_NOTE)
    except (OSError, ValueError):
        return None
    return info["step"], info["accuracy"]


def drop_future_best(checkpoints: Path, step: int) -> None:
    """Forget a best checkpoint of beyond `step`, which a run resumes from: that future did not happen."""
    if not (checkpoints / BEST).exists() and (checkpoints / f".{BEST}.old").exists():
        (checkpoints / f".{BEST}.old").rename(checkpoints / BEST)  # killed between the two renames
    best = best_so_far(checkpoints)
    if best is not None and best[0] > step:
        shutil.rmtree(checkpoints / BEST)


def keep_if_best(checkpoints: Path, step: int, accuracy: float) -> bool:
    """Keep `checkpoints/global_step_<step>` as `checkpoints/best` if none kept of another step is as accurate.

    Returns:
        Whether it is now the best. False also where no checkpoint was saved at this step.
    """
    source = checkpoints / f"global_step_{step}"
    best = best_so_far(checkpoints)
    if not source.is_dir() or (best is not None and best[0] != step and best[1] >= accuracy):
        return False
    made = checkpoints / f".{BEST}.new"
    replaced = checkpoints / f".{BEST}.old"
    for leftover in (made, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, made, copy_function=_link_or_copy)
    write_text(made / INFO, json.dumps({"step": step, "accuracy": accuracy}))
    if (checkpoints / BEST).exists():
        (checkpoints / BEST).rename(replaced)
    made.rename(checkpoints / BEST)
    shutil.rmtree(replaced, ignore_errors=True)
    return True


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
