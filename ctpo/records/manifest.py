"""``manifest.json``: which run a directory holds, what it was made of, how it ended, every restart."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ctpo.records import provenance
from ctpo.records.files import RecordError, json_safe, write_text
from ctpo.records.identity import ConfigMismatch, config_hash, first_difference

SCHEMA = 1
FILE = "manifest.json"
#: Node of a recorded config that only an evaluation has.
EVALUATION = "evaluation"
State = Literal["created", "running", "finished", "failed", "interrupted"]


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of the run directory `run`.

    Raises:
        RecordError: it is missing or not a manifest of this schema.
    """
    path = run / FILE
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise RecordError(f"{path}: cannot be read ({reason}); remove the run to start anew") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise RecordError(f"{path}: schema {found!r}, this code reads {SCHEMA}")
    return manifest


def write_manifest(run: Path, manifest: Mapping[str, Any]) -> None:
    """Replaces the manifest of `run` as a whole."""
    write_text(run / FILE, json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n")


def create_manifest(run: Path, config: Mapping[str, Any], seeds: Mapping[str, int], may_differ: Sequence[str]) -> None:
    """Writes ``config.yaml``, the uncommitted changes and the manifest of a new run."""
    import yaml  # type: ignore[import-untyped,unused-ignore]

    plain = json_safe(config, "config")
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
            "Give it the recorded value to continue that run, or choose another run.sweep or run.seed."
        )


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
