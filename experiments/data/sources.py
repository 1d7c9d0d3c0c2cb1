"""Where problems come from: a name of the catalogue (its hub or a local copy), or a file or folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.data import hub
from experiments.data.errors import PrepareError

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
        catalog: `data_catalog` of the configuration: per name `hub_id`, `files` (patterns in the repository),
            optionally `path` (a local copy), `columns`, `rows`; and `folder` with local copies of any.
        field_name: the configuration field that `given` stands in, for messages.

    Raises:
        PrepareError: there is no such name or file, or the hub's file cannot be had.
    """
    entries = {name: entry for name, entry in catalog.items() if isinstance(entry, Mapping)}
    if given not in entries:
        if "/" not in given and not given.endswith(SUFFIXES) and not Path(given).exists():
            raise PrepareError(
                f"{field_name}={given}: neither a file or folder nor in the catalogue ({', '.join(entries)}); "
                "name one of them"
            )
        return [Source((file,), origin={"path": str(file)}) for file in local_files(given, field_name)]
    entry = entries[given]
    columns = {**NATIVE_COLUMNS, **(entry.get("columns") or {})}
    local = entry.get("path") or _copy_in(catalog.get("folder"), given)
    if local:
        files = local_files(local, f"data_catalog.{given}.path")
        origin = {"path": str(Path(local).expanduser().resolve())}
    else:
        files, revision = hub.fetch(given, entry["hub_id"], entry["files"])
        origin = {"hub_id": entry["hub_id"], "revision": revision}
    return [Source(files, given, columns, entry.get("rows"), origin)]


def _copy_in(folder: str | None, name: str) -> str | None:
    if not folder:
        return None
    if not Path(folder).expanduser().is_dir():
        raise PrepareError(f"data_catalog.folder={folder}: no such folder; correct CTPO_DATA or unset it")
    candidates = [Path(folder).expanduser() / f"{name}{suffix}" for suffix in ("", *SUFFIXES)]
    return next((str(path) for path in candidates if path.exists()), None)


def local_files(given: str, field_name: str) -> tuple[Path, ...]:
    """The file `given`, or the data files in that folder.

    Raises PrepareError.
    """
    path = Path(given).expanduser().resolve()
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise PrepareError(f"{field_name}={given}: no parquet, jsonl or json file there; correct the path")
    return tuple(files)


def read_records(path: Path) -> list[dict[str, Any]]:
    """All rows of a parquet, JSON-lines or JSON file (a list of objects).

    Raises PrepareError: unreadable, or without a row.
    """
    try:
        if path.suffix == ".parquet":
            records = pq.read_table(path).to_pylist()
        elif path.suffix == ".jsonl":
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        else:
            records = json.loads(path.read_text(encoding="utf-8"))
    except (pa.ArrowException, ValueError, OSError) as error:
        kind = path.suffix.lstrip(".") or "parquet"
        raise PrepareError(f"{path}: not a {kind} file ({str(error).splitlines()[0]:.120}); get it again") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise PrepareError(f"{path}: must hold a list of objects, one per problem")
    if not records:
        raise PrepareError(f"{path}: holds no row; write at least one problem to it")
    return records
