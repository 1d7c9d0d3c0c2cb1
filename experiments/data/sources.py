"""Where problems come from: a name of the catalogue (its hub or a local copy), or a file or folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctpo.records.shapes import shown
from experiments.data import hub
from experiments.data.files import SUFFIXES, local_files
from experiments.errors import BadRequest

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
