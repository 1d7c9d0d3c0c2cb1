"""The best checkpoint survives what verl deletes, and is never half of one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ctpo.training import checkpoints
from ctpo.training.checkpoints import best_so_far, keep_if_best


def save(checkpoints: Path, step: int) -> Path:
    folder = checkpoints / f"global_step_{step}" / "actor"
    folder.mkdir(parents=True)
    (folder / "model.pt").write_text(f"weights of step {step}")
    return folder.parent


def kept(checkpoints: Path) -> str:
    return (checkpoints / "best" / "actor" / "model.pt").read_text()


def test_the_most_accurate_is_kept_and_the_first_of_equals(tmp_path: Path) -> None:
    for step, accuracy, best in [(5, 0.3, True), (10, 0.5, True), (15, 0.5, False), (20, 0.4, False)]:
        save(tmp_path, step)
        assert keep_if_best(tmp_path, step, accuracy) is best
    assert best_so_far(tmp_path) == (10, 0.5)
    assert kept(tmp_path) == "weights of step 10"


def test_it_outlives_verls_copy_without_storing_a_byte_twice(tmp_path: Path) -> None:
    source = save(tmp_path, 5)
    keep_if_best(tmp_path, 5, 0.3)
    assert (source / "actor" / "model.pt").stat().st_ino == (tmp_path / "best" / "actor" / "model.pt").stat().st_ino
    shutil.rmtree(source)
    assert kept(tmp_path) == "weights of step 5"


def test_a_step_without_checkpoint_changes_nothing(tmp_path: Path) -> None:
    assert not keep_if_best(tmp_path, 3, 1.0)
    assert best_so_far(tmp_path) is None


def test_a_torn_note_beside_the_best_is_none(tmp_path: Path) -> None:
    save(tmp_path, 5)
    keep_if_best(tmp_path, 5, 0.3)
    (tmp_path / "best" / checkpoints.INFO).write_text("")
    assert best_so_far(tmp_path) is None
    save(tmp_path, 10)
    assert keep_if_best(tmp_path, 10, 0.2)
    assert best_so_far(tmp_path) == (10, 0.2)


def test_a_kill_while_copying_leaves_the_previous_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 5)
    keep_if_best(tmp_path, 5, 0.3)
    save(tmp_path, 10)

    def die(source: str, target: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_link_or_copy", die)
        with pytest.raises(KeyboardInterrupt):
            keep_if_best(tmp_path, 10, 0.9)
    assert kept(tmp_path) == "weights of step 5"
    assert keep_if_best(tmp_path, 10, 0.9)
    assert kept(tmp_path) == "weights of step 10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "global_step_10", "global_step_5"]
