"""Prepared files, stored by what decides them: build once, find again, never see half of one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.resolvers import PROJECT_ROOT

PREPARED = "prepared.json"
"""The settings that a prepared folder was made from."""


def cache_root() -> Path:
    """`$CTPO_CACHE`, else `.cache` in the project."""
    return Path(os.environ.get("CTPO_CACHE") or PROJECT_ROOT / ".cache").expanduser().resolve()


def content_key(settings: Mapping[str, Any]) -> str:
    """16 hex digits that change with any value in `settings` (JSON types only) and not with their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def cached(kind: str, name: str, settings: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder `<cache>/<kind>/<name>-<key>`, filled by `build(folder)` if it is not there yet.

    The folder appears whole, by one rename; `PREPARED` in it holds the settings. If two processes build
    the same one, the first to finish wins and the other uses it.
    """
    final = cache_root() / kind / f"{name}-{content_key(settings)}"
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        build(partial)
        write_settings(partial, settings)
        # Temporary folders and safetensors' files are private to their maker; another user's runs read these.
        partial.chmod(0o755)
        for path in partial.iterdir():
            path.chmod(0o644)
        try:
            partial.rename(final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Put the settings that made the files of `folder` beside them."""
    (folder / PREPARED).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
