"""Files of a hub data set at one pinned revision: downloaded whole, checked, found again.

The lock file records revision, sha256 and rows at the first download; every later one must match it.
"""

from __future__ import annotations

import filecmp
import fnmatch
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ctpo.records.files import write_text
from ctpo.records.locks import acquire
from experiments.data.files import read_records
from experiments.errors import BadRequest
from experiments.tiny.cache import cache_root

T = TypeVar("T")

LOCK = Path(__file__).parent / "hub_lock.yaml"
"""Committed, so that everyone who uses a commit gets the same bytes."""


def fetch(name: str, hub_id: str, patterns: str | list[str]) -> tuple[tuple[Path, ...], str]:
    """The files of `hub_id` that match `patterns`, and their revision (a commit id).

    With `name` in the lock file: exactly the files and the revision there, without a question to the hub if they
    are here. Else the newest revision, which is then locked.

    Raises:
        BadRequest: the hub cannot be reached, has no such file, a download broke off, or the content is not
            the locked one. Nothing of a refused download stays on disk.
    """
    lock = read_lock()
    pinned = lock.get(name)
    if pinned and pinned["hub_id"] != hub_id:
        raise BadRequest(
            f"data_catalog.{name}.hub_id={hub_id}: {LOCK.name} pins {pinned['hub_id']}; run `prepare.py --pin {name}`"
        )
    if pinned:
        wanted = pinned["files"]
        folder = _folder(name, pinned["revision"])
        if not all((folder / file).is_file() for file in wanted):
            _download(name, hub_id, pinned["revision"], list(wanted))
        paths = tuple(folder / file for file in wanted)
        for path, (file, facts) in zip(paths, wanted.items(), strict=True):
            _check(path, f"{hub_id} {file}", facts["sha256"], name)
        return paths, pinned["revision"]
    revision, files = _newest(name, hub_id, [patterns] if isinstance(patterns, str) else patterns)
    paths = _download(name, hub_id, revision, files)
    _record(name, hub_id, revision, dict(zip(files, paths, strict=True)))
    return paths, revision


def forget(name: str) -> None:
    """Takes `name` out of the lock file, so that the next `fetch` pins the newest revision.

    Raises BadRequest.
    """
    with _locked():
        lock = read_lock()
        if lock.pop(name, None) is not None:
            _write_lock(lock)


def read_lock() -> dict[str, Any]:
    """The lock file: name -> `hub_id`, `revision`, `files` (path -> `sha256`, `rows`).

    Raises BadRequest.
    """
    try:
        return yaml.safe_load(LOCK.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise BadRequest(f"{LOCK}: unreadable ({error}); restore it with git") from error


def _folder(name: str, revision: str) -> Path:
    return cache_root() / "hub" / name / revision


def _newest(name: str, hub_id: str, patterns: list[str]) -> tuple[str, list[str]]:
    from huggingface_hub import HfApi

    info = _asking(name, hub_id, lambda: HfApi().dataset_info(hub_id, timeout=30))
    listed = [item.rfilename for item in info.siblings or []]
    files = sorted(file for file in listed if any(fnmatch.fnmatch(file, pattern) for pattern in patterns))
    if not files or info.sha is None:
        raise BadRequest(
            f"data_catalog.{name}.files={patterns}: {hub_id} has no such file "
            f"(it has {', '.join(listed[:8])}); correct it"
        )
    return info.sha, files


def _download(name: str, hub_id: str, revision: str, files: list[str]) -> tuple[Path, ...]:
    """Into a temporary folder, then by one rename: the final folder is whole or not there."""
    from huggingface_hub import hf_hub_download

    final = _folder(name, revision)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=final.parent))
    try:
        for file in files:
            print(f"downloading {hub_id} {file} at {revision[:12]} ...", file=sys.stderr, flush=True)
            _asking(
                name,
                hub_id,
                lambda file=file: hf_hub_download(  # type: ignore[misc]
                    hub_id, file, repo_type="dataset", revision=revision, local_dir=partial
                ),
            )
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        pinned = read_lock().get(name, {}).get("files", {})
        for file in files:
            if file in pinned:
                _check(partial / file, f"{hub_id} {file}", pinned[file]["sha256"], name)
        partial.chmod(0o755)
        try:
            partial.rename(final)
        except OSError:
            # Another process was first, or somebody deleted or damaged a file in there: this is what the hub has.
            if not all(_same(partial / file, final / file) for file in files):
                shutil.rmtree(final)
                partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return tuple(final / file for file in files)


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


def _asking(name: str, hub_id: str, call: Callable[[], T]) -> T:
    """`call()`, with whatever goes wrong between here and the hub as one message."""
    import httpx
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    local = f"or get the file elsewhere and set data_catalog.{name}.path=FILE"
    try:
        return call()
    except LocalEntryNotFoundError as error:
        cause = error.__cause__ or error
        raise BadRequest(f"{hub_id}: the hub cannot be reached ({_short(cause)}); try again, {local}") from error
    except (EntryNotFoundError, HfHubHTTPError) as error:
        raise BadRequest(
            f"{hub_id}: the hub refused it ({_short(error)}); correct data_catalog.{name}, {local}"
        ) from error
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout) as error:
        raise BadRequest(f"{hub_id}: the download broke off ({_short(error)}); try again, {local}") from error
    except (httpx.HTTPError, ConnectionError) as error:
        raise BadRequest(f"{hub_id}: the hub cannot be reached ({_short(error)}); try again, {local}") from error
    except OSError as error:
        raise BadRequest(f"{hub_id}: the download failed ({_short(error)}); try again, {local}") from error


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]:.160}" if lines else type(error).__name__


def _check(path: Path, what: str, sha256: str, name: str) -> None:
    found = sha256_of(path)
    if found != sha256:
        raise BadRequest(
            f"{what}: its sha256 is {found}, {LOCK.name} has {sha256}: changed or damaged. Delete "
            f"{cache_root() / 'hub' / name} and prepare again; if the change is meant, `prepare.py --pin {name}`"
        )


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _record(name: str, hub_id: str, revision: str, files: dict[str, Path]) -> None:
    facts = {file: {"sha256": sha256_of(path), "rows": len(read_records(path))} for file, path in files.items()}
    with _locked():
        lock = read_lock()
        if name not in lock:
            _write_lock({**lock, name: {"hub_id": hub_id, "revision": revision, "files": facts}})
            print(f"pinned {name}: {hub_id} at {revision} in {LOCK.name}; commit that file", file=sys.stderr)


def _write_lock(lock: dict[str, Any]) -> None:
    head = "".join(line for line in LOCK.read_text().splitlines(keepends=True) if line.startswith("#"))
    write_text(LOCK, head + yaml.safe_dump(dict(sorted(lock.items()))))


@contextmanager
def _locked() -> Iterator[None]:
    """One writer of the lock file at a time, over all processes that share the cache."""
    folder = cache_root() / "hub"
    folder.mkdir(parents=True, exist_ok=True)
    lock = acquire(folder / ".lock", patience_s=-1)
    assert lock is not None
    try:
        yield
    except PermissionError as error:
        raise BadRequest(f"{LOCK}: cannot be written ({error}); make the project's folder writable") from error
    finally:
        lock.release()
