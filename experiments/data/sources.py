"""Where problems come from: a name of the catalogue (its hub or a local copy), or a file or folder."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctpo.records.shapes import shown
from experiments.data import hub
from experiments.errors import BadRequest

SUFFIXES = (".parquet", ".jsonl", ".json")
NATIVE_COLUMNS = {"problem": "problem", "answer": "answer"}


@dataclass(frozen=True)
class Source:
    """Files of one data set, in order, and what is known of them.

    `name` is the catalogue's name and becomes the rows' `data_source`; None for a file given by its path,
    whose rows keep their own. `origin` (hub id and revision, or path) goes into the data card.
    """

    files: tuple[Path, ...]
    name: str | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: NATIVE_COLUMNS)
    rows: int | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """A short name for folders and cards."""
        return self.name or self.files[0].stem

    def fingerprint(self) -> dict[str, Any]:
        """What decides the rows that are read from here: content, not place or time."""
        return {
            "name": self.name,
            "columns": dict(self.columns),
            "rows": self.rows,
            "content": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files},
        }


def find(given: str, catalog: Mapping[str, Any], field_name: str) -> list[Source]:
    """The sources that `given` names, downloaded if they are on the hub and not here yet: one for a name or a file,
    one for each file of a folder.

    Args:
        given: a name of the catalogue, or the path of a file or folder.
        catalog: of `specs.catalog_of`: a `CatalogEntry` by name, and `folder` with local copies of any.
        field_name: the configuration field that `given` stands in, for messages.

    Raises:
        BadRequest: there is no such name or file, or the hub's file cannot be had.
    """
    here = find_here(given, catalog, field_name)
    if here is not None:
        return here
    entry = catalog[given]
    files, revision = hub.fetch(given, entry.hub_id, entry.files)
    origin = {"hub_id": entry.hub_id, "revision": revision}
    return [Source(files, given, _columns(entry), entry.rows, origin)]


def find_here(given: str, catalog: Mapping[str, Any], field_name: str) -> list[Source] | None:
    """`find` without the hub: None for what would have to come from there."""
    entries = [name for name in catalog if name != "folder"]
    if given not in entries:
        if "/" not in given and not given.endswith(SUFFIXES) and not Path(given).exists():
            raise BadRequest(
                f"{field_name}={shown(given)}: neither a file or folder nor in the catalogue ({', '.join(entries)}); "
                "name one of them"
            )
        return [Source((file,), origin={"path": str(file)}) for file in local_files(given, field_name)]
    entry = catalog[given]
    local = entry.path or _copy_in(catalog["folder"], given)
    if not local:
        return None
    files = local_files(local, f"data_catalog.{given}.path")
    return [Source(files, given, _columns(entry), entry.rows, {"path": str(Path(local).expanduser().resolve())})]


def _columns(entry: Any) -> dict[str, str]:
    return {**NATIVE_COLUMNS, **(entry.columns or {})}


def _copy_in(folder: str | None, name: str) -> str | None:
    if not folder:
        return None
    if not Path(folder).expanduser().is_dir():
        raise BadRequest(f"data_catalog.folder={shown(folder)}: no such folder; correct CTPO_DATA or unset it")
    candidates = [Path(folder).expanduser() / f"{name}{suffix}" for suffix in ("", *SUFFIXES)]
    return next((str(path) for path in candidates if path.exists()), None)


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
