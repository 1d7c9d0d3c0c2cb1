"""A disk that is full or read-only costs one line and no record."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from ctpo.records import RecordError, RunDirectory
from experiments.preflight.disk import in_units

CONFIG = {"run": {"sweep": "demo", "model": "tiny", "method": "ctpo", "seed": 0}}
CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_PRIVATE_ALL = 0x20000, 1, 32, 0x44000


def on_a_small_disk(test: Callable[[Path], None], folder: Path) -> None:
    """Runs `test` in a process that has a disk of 4 MB in `folder`; skips where none can be mounted."""
    process = get_context("fork").Process(target=_mounted, args=(test, folder))
    process.start()
    process.join()
    if process.exitcode == 77:
        pytest.skip("cannot mount a file system here")
    assert process.exitcode == 0


def _mount(folder: Path, flags: int, options: bytes = b"") -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.mount(b"none", str(folder).encode(), b"tmpfs", flags, options) == 0


def _mounted(test: Callable[[Path], None], folder: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_PRIVATE_ALL, None):
        os._exit(77)
    if not _mount(folder, 0, b"size=4m"):
        os._exit(77)
    test(folder)


def fill(folder: Path) -> None:
    with (folder / "other").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def _full(folder: Path) -> None:
    run = RunDirectory(folder / "demo" / "tiny" / "ctpo" / "seed0")
    run.open_for_training(CONFIG, seeds={})
    run.begin_training(0)
    run.append_metrics(1, {"loss": 1.0})
    fill(folder)
    before = run.metrics_path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        run.append_metrics(2, {"note": "x" * 9000})
    assert run.metrics_path.read_bytes() == before, "no half row"
    rows = run.rows()
    run.finish("failed", "OSError: [Errno 28] No space left on device")
    manifest = run.manifest()
    assert (manifest["state"], manifest["error"]) == ("failed", "OSError: [Errno 28] No space left on device")
    fill(folder)  # what the manifest had in reserve
    with pytest.raises(RecordError) as refused:
        run.open_for_training(CONFIG, seeds={})
    assert "cannot be written (No space left on device); free space there" in str(refused.value)
    assert run.rows() == rows
    (folder / "other").unlink()
    assert run.open_for_training(CONFIG, seeds={}) == "failed"


def _read_only(folder: Path) -> None:
    for seed, state in ((0, "finished"), (1, "interrupted")):
        run = RunDirectory(folder / f"seed{seed}")
        run.open_for_training({"run": {**CONFIG["run"], "seed": seed}}, seeds={})
        run.finish(state)  # type: ignore[arg-type]
    assert _mount(folder, MS_REMOUNT | MS_RDONLY)
    assert RunDirectory(folder / "seed0").open_for_training(CONFIG, seeds={}) == "finished"
    for seed in (1, 2):
        with pytest.raises(RecordError) as refused:
            RunDirectory(folder / f"seed{seed}").open_for_training({"run": {**CONFIG["run"], "seed": seed}}, seeds={})
        assert "cannot be written (Read-only file system)" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_full_disk_loses_no_row_and_the_manifest_says_how_the_run_ended(tmp_path: Path) -> None:
    on_a_small_disk(_full, tmp_path)


def test_a_read_only_disk_is_named_and_a_finished_run_is_still_finished(tmp_path: Path) -> None:
    on_a_small_disk(_read_only, tmp_path)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (9_999, "9999 bytes"),
        (10_000, "10 kB"),
        (45_600_000, "46 MB"),
        (9_900_000_000, "9,900 MB"),
        (2_100_000_000_000, "2,100 GB"),
    ],
)
def test_sizes_are_given_in_units_that_say_something(count: int, text: str) -> None:
    assert in_units(count) == text
