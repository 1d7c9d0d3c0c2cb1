"""A killed run finds the newest complete checkpoint and knows what it still has to record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ctpo.best_checkpoint import best_so_far, drop_future_best, keep_if_best
from ctpo.checkpoints import (
    TRACKER,
    Resume,
    complete_steps,
    drop_future,
    prepare_save,
    read_draft,
    remove_old,
    repair_tracker,
    resume_plan,
    sampling_seed,
    seal,
)

PLAN = {"test_freq": 20, "total_steps": 305, "val_before_train": True}


def save(checkpoints: Path, step: int, *, whole: bool = True) -> None:
    prepare_save(checkpoints, step, {"loss": step / 10})
    (checkpoints / f"global_step_{step}" / "actor").mkdir()
    (checkpoints / f"global_step_{step}" / "actor" / "model.pt").write_text(f"weights of {step}")
    if whole:
        (checkpoints / f"global_step_{step}" / "data.pt").write_bytes(b"loader")
        seal(checkpoints, step)


@pytest.mark.parametrize(
    ("step", "last_row", "expected"),
    [
        (0, -1, Resume(append_draft=False, validate=True)),  # new
        (0, 0, Resume(append_draft=False, validate=False)),  # killed before the first checkpoint
        (20, 20, Resume(append_draft=False, validate=False)),  # killed after the row
        (20, 19, Resume(append_draft=False, validate=True)),  # between checkpoint and row, evaluation due
        (30, 29, Resume(append_draft=True, validate=False)),  # between checkpoint and row, none due
        (305, 304, Resume(append_draft=False, validate=True)),  # at the last step, which is always evaluated
    ],
)
def test_every_kill_point_has_its_plan(step: int, last_row: int, expected: Resume) -> None:
    assert resume_plan(step, last_row, **PLAN) == expected


def test_without_evaluations_a_lost_row_is_restored_from_its_draft() -> None:
    assert resume_plan(20, 19, test_freq=-1, total_steps=20, val_before_train=False) == Resume(True, False)


def test_a_draft_comes_back_as_it_was(tmp_path: Path) -> None:
    save(tmp_path, 20)
    assert read_draft(tmp_path, 20) == {"loss": 2.0}
    assert read_draft(tmp_path, 40) == {}


@pytest.mark.parametrize("torn", ["", "4x", "\n"])
def test_a_torn_tracker_is_mended_from_the_newest_complete_checkpoint(tmp_path: Path, torn: str) -> None:
    save(tmp_path, 20)
    save(tmp_path, 40)
    save(tmp_path, 60, whole=False)
    (tmp_path / TRACKER).write_text(torn)
    assert complete_steps(tmp_path) == [20, 40]
    assert repair_tracker(tmp_path) == 40
    assert (tmp_path / TRACKER).read_text() == "40"


def test_a_sound_tracker_is_believed_and_a_missing_one_means_the_start(tmp_path: Path) -> None:
    assert repair_tracker(tmp_path) == 0
    save(tmp_path, 20)
    (tmp_path / TRACKER).write_text("20")
    save(tmp_path, 40)  # written, not yet announced
    assert repair_tracker(tmp_path) == 20


def unsealed(folder: Path) -> None:
    (folder / "sealed.json").unlink()


def without_its_loader(folder: Path) -> None:
    (folder / "data.pt").unlink()


def with_cut_weights(folder: Path) -> None:
    (folder / "actor" / "model.pt").write_text("wei")


def with_a_cut_seal(folder: Path) -> None:
    (folder / "sealed.json").write_text('{"data.pt": 6,')


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("torn", [unsealed, without_its_loader, with_cut_weights, with_a_cut_seal, gone])
def test_a_torn_checkpoint_is_never_chosen(tmp_path: Path, torn: Callable[[Path], None]) -> None:
    """A node that goes down can leave a tracker that names a folder of which not everything reached the disk."""
    for step in (20, 40, 60):
        save(tmp_path, step)
    (tmp_path / TRACKER).write_text("60")
    assert repair_tracker(tmp_path) == 60
    torn(tmp_path / "global_step_60")
    assert repair_tracker(tmp_path) == 40
    assert (tmp_path / TRACKER).read_text() == "40"
    torn(tmp_path / "global_step_40")
    torn(tmp_path / "global_step_20")
    assert repair_tracker(tmp_path) == 0
    assert not (tmp_path / TRACKER).exists()


def test_a_checkpoint_of_another_origin_is_believed(tmp_path: Path) -> None:
    (tmp_path / "global_step_20" / "actor").mkdir(parents=True)
    (tmp_path / TRACKER).write_text("20")
    assert repair_tracker(tmp_path) == 20


def test_a_tracker_that_is_gone_costs_no_checkpoint(tmp_path: Path) -> None:
    assert repair_tracker(tmp_path) == 0
    save(tmp_path, 20)
    save(tmp_path, 40, whole=False)
    assert repair_tracker(tmp_path) == 20
    assert (tmp_path / TRACKER).read_text() == "20"


def test_a_torn_tracker_without_checkpoints_starts_anew(tmp_path: Path) -> None:
    (tmp_path / TRACKER).write_text("")
    assert repair_tracker(tmp_path) == 0
    assert not (tmp_path / TRACKER).exists()


def test_only_the_newest_checkpoints_stay_and_the_best(tmp_path: Path) -> None:
    for step in (20, 40, 60, 80):
        save(tmp_path, step)
    keep_if_best(tmp_path, 20, 0.9)
    remove_old(tmp_path, newest=2)
    remove_old(tmp_path, newest=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "global_step_60", "global_step_80"]
    assert (tmp_path / "best" / "actor" / "model.pt").read_text() == "weights of 20"


def test_torn_saves_beyond_the_step_that_is_resumed_cost_no_whole_checkpoint(tmp_path: Path) -> None:
    for step in (20, 40):
        save(tmp_path, step)
    for torn in (57, 58):  # two attempts whose grace was too short
        save(tmp_path, torn, whole=False)
    (tmp_path / TRACKER).write_text("58")
    assert repair_tracker(tmp_path) == 40
    save(tmp_path, 56)
    remove_old(tmp_path, newest=2)
    assert complete_steps(tmp_path) == [40, 56]
    drop_future(tmp_path, 40)
    assert sorted(path.name for path in tmp_path.glob("global_step_*")) == ["global_step_40"]


def test_a_disk_that_does_not_answer_is_no_reason_to_start_anew(tmp_path: Path) -> None:
    save(tmp_path, 20)
    (tmp_path / TRACKER).write_text("20")
    (tmp_path / "global_step_20" / "sealed.json").unlink()
    (tmp_path / "global_step_20" / "sealed.json").mkdir()  # reading it is an OSError, and not that it is missing
    with pytest.raises(OSError, match="Is a directory"):
        repair_tracker(tmp_path)
    assert (tmp_path / TRACKER).read_text() == "20"


def test_saving_over_a_dropped_future_leaves_the_best_alone(tmp_path: Path) -> None:
    save(tmp_path, 20)
    keep_if_best(tmp_path, 20, 0.9)
    prepare_save(tmp_path, 20, {})
    (tmp_path / "global_step_20" / "actor").mkdir()
    (tmp_path / "global_step_20" / "actor" / "model.pt").write_text("other weights")
    assert (tmp_path / "best" / "actor" / "model.pt").read_text() == "weights of 20"


def test_a_best_of_a_future_that_did_not_happen_is_forgotten(tmp_path: Path) -> None:
    save(tmp_path, 40)
    keep_if_best(tmp_path, 40, 0.9)
    drop_future_best(tmp_path, 40)
    assert best_so_far(tmp_path) == (40, 0.9)
    drop_future_best(tmp_path, 20)
    assert best_so_far(tmp_path) is None


def test_evaluating_a_step_again_replaces_its_score(tmp_path: Path) -> None:
    save(tmp_path, 40)
    keep_if_best(tmp_path, 40, 0.9)
    assert keep_if_best(tmp_path, 40, 0.5)
    assert best_so_far(tmp_path) == (40, 0.5)


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    save(tmp_path, 40)
    keep_if_best(tmp_path, 40, 0.9)
    (tmp_path / "best").rename(tmp_path / ".best.old")
    shutil.rmtree(tmp_path / "global_step_40")
    drop_future_best(tmp_path, 60)
    assert best_so_far(tmp_path) == (40, 0.9)


def test_sampling_seeds_differ_between_runs_restarts_and_replicas() -> None:
    seeds = {
        sampling_seed(run, step) + replica for run in range(5) for step in range(0, 305, 20) for replica in range(8)
    }
    assert len(seeds) == 5 * 16 * 8
