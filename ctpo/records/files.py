"""Files that are never seen half written: whole files by rename, line files by complete lines."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

Parsed = TypeVar("Parsed")


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


def write_bytes(path: Path, content: bytes) -> None:
    """`write_whole` for what is there already."""
    write_whole(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """`write_whole` for UTF-8 text."""
    write_bytes(path, text.encode())


def write_reserved(reserve: Path, path: Path, text: str) -> None:
    """Writes `path` in the blocks of the file `reserve`, which becomes it: needs no free space."""
    with reserve.open("r+b") as file:
        file.write(text.encode())
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    reserve.replace(path)


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


def json_numbers(value: dict[str, Any]) -> dict[str, Any]:
    """Undoes `json_safe` for the values of a mapping: the three strings become floats again."""
    return {key: _NON_FINITE.get(item, item) if isinstance(item, str) else item for key, item in value.items()}


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
        data, before = "".join(lines).encode(), os.fstat(descriptor).st_size
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: Path) -> bytes:
    """Content of a regular file.

    Raises:
        OSError: it cannot be read, or is a folder, a pipe or a device, which would block.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def content_of(path: Path) -> bytes:
    """`read_bytes` of a record.

    Raises:
        RecordError: it cannot be read.
    """
    try:
        return read_bytes(path)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None


def read_note(path: Path) -> str | None:
    """Text that is no record: None where it is missing or unreadable."""
    try:
        return read_bytes(path).decode(errors="replace")
    except OSError:
        return None


def read_record(path: Path, schema: TypeAdapter[Parsed], fix: str) -> Parsed:
    """The JSON file `path`, if it is what `schema` says.

    Args:
        fix: end of the error message: what to do about the file.

    Raises:
        RecordError: it cannot be read, is not JSON or has another shape; the message names file, field and value.
    """
    try:
        return parsed(read_bytes(path), schema)
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except ValueError as error:
        reason = str(error)
    raise RecordError(f"{path}: {reason}; {fix}")


def parsed(content: bytes, schema: TypeAdapter[Parsed]) -> Parsed:
    """Strict JSON (no NaN, no lone surrogates, UTF-8) of the given shape.

    Raises:
        ValueError: it is not; the message names the first field that is wrong.
    """
    try:
        return schema.validate_python(from_json(content, allow_inf_nan=False), strict=True)
    except ValidationError as error:
        raise ValueError(in_words(error)) from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None


def in_words(error: ValidationError) -> str:
    """The first thing that is wrong: field, what is expected, the value."""
    first = error.errors(include_url=False)[0]
    shown = "" if first["type"] == "missing" else f", not {first['input']!r:.60}"
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}{': ' if where else ''}{first['msg']}{shown}"


def read_lines(path: Path, schema: TypeAdapter[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of a line file, and what is wrong with it: rows that do not fit `schema` are left out and named.

    A torn last line is a row that was never written; it is left out without a word.
    """
    try:
        *complete, _torn = read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{path.name}: cannot be read ({error.strerror})"]
    rows, problems = [], []
    for number, line in enumerate(complete, start=1):
        try:
            rows.append(parsed(line, schema))
        except ValueError as error:
            problems.append(f"{path.name} line {number}: {error}: left out")
    return rows, problems
