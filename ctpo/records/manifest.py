"""``manifest.json``: which run a directory holds, what it was made of, how it ended, every restart."""

from __future__ import annotations

import datetime
import errno
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ctpo.records import method_code, provenance
from ctpo.records.files import RecordError, in_words, json_safe, read_record, write_bytes, write_reserved, write_text
from ctpo.records.identity import ConfigMismatch, config_hash, first_difference
from ctpo.records.schema import MANIFEST, NAMES, SCHEMA, State

FILE = "manifest.json"
#: Space held for the manifest's last version, which must be written when the disk is full.
RESERVE, RESERVE_BYTES = ".manifest.reserve", 512 * 1024


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of the run directory `run`.

    Raises:
        RecordError: it is missing or not a manifest of this schema.
    """
    return read_record(run / FILE, MANIFEST, "restore it, or move the run's directory away to start anew")


def write_manifest(run: Path, manifest: Mapping[str, Any], last: bool = False) -> None:
    """Replaces the manifest of `run` as a whole; the `last` version takes the space held for it if it must."""
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n"
    reserve = run / RESERVE
    try:
        write_text(run / FILE, text)
    except OSError as error:
        if not last or error.errno not in (errno.ENOSPC, errno.EDQUOT) or not reserve.exists():
            raise
        write_reserved(reserve, run / FILE, text)
    if last:
        reserve.unlink(missing_ok=True)
    elif not reserve.exists():
        with suppress(OSError):
            write_bytes(reserve, bytes(RESERVE_BYTES))


def create_manifest(run: Path, config: Mapping[str, Any], seeds: Mapping[str, int], may_differ: Sequence[str]) -> None:
    """Writes ``config.yaml``, the uncommitted changes and the manifest of a new run."""
    import yaml  # type: ignore[import-untyped,unused-ignore]

    plain = json_safe(config, "config")
    try:
        NAMES.validate_python(plain.get("run"), strict=True)
    except ValidationError as error:
        raise RecordError(f"config.run: {in_words(error)}") from None
    write_text(run / "config.yaml", yaml.safe_dump(plain, sort_keys=True, allow_unicode=True))
    manifest = {
        "schema": SCHEMA,
        "state": "created",
        "config": plain,
        "config_hash": config_hash(config, may_differ),
        "seeds": json_safe(seeds, "seeds"),
        **_made_of(run, "uncommitted.diff"),
        "created": now(),
        "started": None,
        "ended": None,
        "error": None,
        "restarts": [],
    }
    write_manifest(run, manifest)


def check_config(run: Path, config: Mapping[str, Any], may_differ: Sequence[str]) -> None:
    """Raises ConfigMismatch, naming the first field that differs, if `run` holds a run of another config."""
    difference = first_difference(read_manifest(run)["config"], config, may_differ)
    if difference is not None:
        raise ConfigMismatch(
            f"run.dir: {run} holds a run of another config: {difference}.\n"
            f"{_way_on(run, difference)}, or choose another run.sweep or run.seed."
        )


def _way_on(run: Path, difference: str) -> str:
    if difference.startswith("method.code."):
        return f"The method's code was edited: restore it from {run / method_code.FOLDER} to continue that run"
    return "Give it the recorded value to continue that run"


def reopen_manifest(run: Path, config: Mapping[str, Any], may_differ: Sequence[str]) -> State:
    """Adds a restart to the manifest, unless the run is finished; returns the state it was in.

    Raises:
        ConfigMismatch: the recorded config is another one.
    """
    check_config(run, config, may_differ)
    manifest = read_manifest(run)
    state: State = manifest["state"]
    if state == "finished":
        return state
    write_manifest(run, {**with_restart(run, manifest), "state": "created"})
    return state


def with_restart(run: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with one more restart, of this process; what it says of the end before is cleared."""
    restart = {
        "time": now(),
        "step": None,
        "previous_state": manifest["state"],
        "previous_error": manifest["error"],
        **_made_of(run, f"uncommitted-restart{len(manifest['restarts']) + 1}.diff"),
    }
    return {**manifest, "ended": None, "error": None, "restarts": [*manifest["restarts"], restart]}


def _made_of(run: Path, diff_file: str) -> dict[str, Any]:
    git, diff = provenance.git_state()
    if diff:
        write_text(run / diff_file, diff)
    return {
        "git": {**git, "diff_file": diff_file if diff else None},
        "packages": provenance.package_versions(),
        "hardware": provenance.hardware(),
    }
