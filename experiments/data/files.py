"""Files of problems: found, and read row by row, each row with its place for messages."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctpo.records.shapes import shown
from experiments.errors import BadRequest

SUFFIXES = (".parquet", ".jsonl", ".json")


def local_files(given: str, field_name: str) -> tuple[Path, ...]:
    """The file `given`, or the data files in that folder.

    Raises BadRequest.
    """
    try:
        path = Path(given).expanduser().resolve()
        files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES) if path.is_dir() else [path]
        if all(file.is_file() and os.access(file, os.R_OK) for file in files) and files:
            return tuple(files)
        why = "no parquet, jsonl or json file there that can be read"
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, no such user's home
        why = str(error)
    raise BadRequest(f"{field_name}={shown(given)}: {why}; correct the path")


def read_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """All rows of a parquet, JSON-lines or JSON file (a list of objects), each with its place for messages: `line 1` is
    the first line of a text, `row 0` the first row of a table or list.

    Raises BadRequest: unreadable, or without a row.
    """
    kind = path.suffix.lstrip(".") or "parquet"
    try:
        records = list(_parquet(path) if kind == "parquet" else _json(path))
    except _Malformed as error:
        raise BadRequest(f"{path} {error}") from error
    except (pa.ArrowException, ValueError, OSError, RecursionError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadRequest(f"{path}: not a {kind} file ({why:.120}); get it again") from error
    if not records:
        raise BadRequest(f"{path}: holds no row; write at least one problem to it")
    return records


class _Malformed(ValueError):
    """What is wrong with a line or row; the message begins with its place."""


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    table = pq.ParquetFile(path).read()
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise _Malformed(f"row 0: has the columns {', '.join(twice)} more than once; keep one of each")
    for number, record in enumerate(table.to_pylist()):
        yield f"row {number}", record


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A list of objects, or one object a line, whichever the file begins with. Only LF ends a line: JSON may hold
    other line ends (U+2028, U+0085) in its strings."""
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if content.lstrip()[:1] == b"[":
        found = [(f"row {number}", record) for number, record in enumerate(json.loads(content))]
    else:
        lines = enumerate(content.split(b"\n"), 1)
        found = [(f"line {number}", _line(number, line)) for number, line in lines if line.strip()]
    for place, record in found:
        if not isinstance(record, dict):
            raise _Malformed(f"{place}: {shown(record)} is not an object; give one object per problem")
        yield place, record


def _line(number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        why = str(error).splitlines()[0]
        raise _Malformed(f"line {number}: not JSON ({why:.120}); correct it, or get the file again") from error
