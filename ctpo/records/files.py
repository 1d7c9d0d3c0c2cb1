"""Files that are never seen half written: whole files by rename, line files by complete lines."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


class RecordError(ValueError):
    """A record cannot be written or read as asked; the message names the file or field and the way on."""


def fsync_directory(path: Path) -> None:
    """Makes a rename inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Calls `write(file)` on a temporary file, then renames it: `path` is the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_whole` for UTF-8 text."""
    write_whole(path, lambda file: file.write(text.encode()))


def json_safe(value: Any, name: str = "value") -> Any:
    """`value` as strict JSON: numpy scalars become numbers, NaN and infinities strings for `json_number`.

    Raises:
        RecordError: something that is neither, naming it by `name`.
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_safe(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if hasattr(value, "item"):
        return json_safe(value.item(), name)
    raise RecordError(f"{name}: {type(value).__name__} cannot be recorded; give a number, string, list or mapping")


_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def json_number(value: Any) -> Any:
    """Undoes `json_safe` for a single value: the three strings become floats again."""
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def repair_lines(path: Path) -> int:
    """Cuts a torn last line off a line file; returns how many bytes went."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        content = file.read()
        kept = content.rfind(b"\n") + 1
        if kept < len(content):
            file.truncate(kept)
            os.fsync(file.fileno())
    return len(content) - kept


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Adds one complete line in a single write, on disk when this returns."""
    append_lines(path, [row])


def append_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds complete lines in a single write, on disk when this returns. A kill can leave the last one torn."""
    lines = [json.dumps(json_safe(row, path.name), allow_nan=False, separators=(", ", ": ")) + "\n" for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        data = "".join(lines).encode()
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, "the file system took only part of a row", str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of a line file, and what is wrong with it: rows that do not parse are left out and named.

    A torn last line is a row that was never written; it is left out without a word.
    """
    if not path.exists():
        return [], []
    *complete, _torn = path.read_bytes().split(b"\n")
    rows, problems = [], []
    for number, line in enumerate(complete, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append({key: json_number(value) for key, value in row.items()})
        else:
            problems.append(f"{path.name} line {number} is not a row with an integer `step`: left out")
    return rows, problems
