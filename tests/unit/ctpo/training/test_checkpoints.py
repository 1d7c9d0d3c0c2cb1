"""The newest whole checkpoint is continued, by its own run alone, and no record is lost on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctpo.records import ConfigMismatch, RecordError, RunDirectory, config_hash
from ctpo.training import resume
from ctpo.training.checkpoints import (
    TRACKER,
    best_so_far,
    checksum,
    complete_steps,
    damage,
    drop_future,
    drop_future_best,
    keep_if_best,
    prepare_save,
    read_draft,
    remove_old,
    seal,
    tracked_step,
)
from ctpo.training.resume import Resume, resume_plan, sampling_seed
from experiments.errors import BadRequest
from experiments.export import find_checkpoint
from tests.unit.ctpo.test_records import sample, statistics

PLAN: dict[str, Any] = {"test_freq": 20, "total_steps": 305, "val_before_train": True}
HASH = "ab12"


def save(checkpoints: Path, step: int, *, whole: bool = True, owner: str = HASH) -> Path:
    prepare_save(checkpoints, step, {"loss": step / 10})
    folder = checkpoints / f"global_step_{step}"
    (folder / "actor").mkdir()
    (folder / "actor" / "model.pt").write_text(f"weights of {step}")
    if whole:
        (folder / "data.pt").write_bytes(b"loader")
        seal(checkpoints, step, owner)
    return folder


class Trained:
    """A run of 9 steps that saves and evaluates every third, as it lies on disk after a kill in step 8."""

    def __init__(self, root: Path) -> None:
        self.run = RunDirectory(root / "demo" / "tiny" / "ctpo" / "seed0")
        self.checkpoints = self.run.path / "checkpoints"
        self.config: dict[str, Any] = {
            "run": {"sweep": "demo", "model": "tiny", "method": "ctpo", "seed": 0},
            "trainer": {"default_local_dir": str(self.checkpoints), "resume_mode": "auto", "test_freq": 3},
            "records": {"position_stats_every": 2, "allow_gaps": False},
            "lr": 1e-6,
        }
        self.hash = config_hash(self.config)
        self.run.open_for_training(self.config, seeds={"run": 0})
        self.run.begin_training(0)
        for step in range(1, 8):
            if step % 2 == 0:
                self.run.write_position_stats(step, statistics().to_arrays(), {"method": "ctpo"})
            if step % 3 == 0:
                save(self.checkpoints, step, owner=self.hash)
                (self.checkpoints / TRACKER).write_text(str(step))
                self.run.write_samples("toy", step, [sample("a", 0)])
            self.run.append_metrics(step, {"loss": step})
        self.run.finish("failed", "killed")

    def start(self, **changes: Any) -> list[str]:
        """What the next start says; where it is refused nothing changes."""
        before = self.files()
        config = {**self.config, **changes}
        remarks: list[str] = []
        run = RunDirectory(self.run.path)
        try:
            run.open_for_training(config, seeds={"run": 0}, check=lambda: remarks.extend(resume.prepare(run, config)))
        except RecordError:
            assert self.files() == before
            raise
        run.begin_training(tracked_step(self.checkpoints) or 0)
        run.finish("interrupted")
        return remarks

    def files(self) -> dict[str, bytes]:
        found = self.run.path.rglob("*")
        return {str(path): path.read_bytes() for path in found if path.is_file() and path.name != ".lock"}

    @property
    def rows(self) -> list[int]:
        return [row["step"] for row in self.run.rows()[0]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    Trained(root)
    return root


@pytest.fixture
def trained(original: Path, tmp_path: Path) -> Trained:
    own = object.__new__(Trained)
    own.run = RunDirectory(tmp_path / "demo" / "tiny" / "ctpo" / "seed0")
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    own.checkpoints = own.run.path / "checkpoints"
    own.config = json.loads(own.run.manifest_path.read_text())["config"]
    own.config["trainer"]["default_local_dir"] = str(own.checkpoints)
    own.hash = config_hash(own.config)
    return own


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def unsealed(folder: Path) -> None:
    (folder / "sealed.json").unlink()


def with_cut_weights(folder: Path) -> None:
    (folder / "actor" / "model.pt").write_text("wei")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "zeroed weights": lambda folder: zero(folder / "actor" / "model.pt"),
    "one bit": lambda folder: (folder / "actor" / "model.pt").write_text("weights of 7"),
    "cut weights": with_cut_weights,
    "no loader": lambda folder: (folder / "data.pt").unlink(),
    "loader a folder": lambda folder: ((folder / "data.pt").unlink(), (folder / "data.pt").mkdir()),  # type: ignore[func-returns-value]
    "zeroed draft": lambda folder: zero(folder / "metrics_row.json"),
    "cut seal": lambda folder: (folder / "sealed.json").write_text('{"config_hash": "x", "files"'),
    "empty seal": lambda folder: (folder / "sealed.json").write_text(""),
    "zeroed seal": lambda folder: zero(folder / "sealed.json"),
    "seal a list": lambda folder: (folder / "sealed.json").write_text("[]"),
    "seal of another shape": lambda folder: (folder / "sealed.json").write_text('{"data.pt": 6}'),
    "seal a folder": lambda folder: ((folder / "sealed.json").unlink(), (folder / "sealed.json").mkdir()),  # type: ignore[func-returns-value]
}


def test_a_run_continues_from_its_newest_checkpoint_without_a_word(trained: Trained) -> None:
    assert trained.start() == []
    assert trained.rows == [1, 2, 3, 4, 5, 6]


def test_what_lies_beyond_the_checkpoint_is_set_aside_not_deleted(trained: Trained) -> None:
    with trained.run.metrics_path.open("a") as file:
        file.write("of another kind\n")
    trained.run.write_position_stats(8, statistics().to_arrays(), {"method": "ctpo"})
    trained.start()
    aside = trained.run.path / "superseded" / "1"
    first, second = (aside / "metrics.jsonl").read_text().splitlines()
    assert json.loads(first)["step"] == 7
    assert second == "of another kind"
    assert sorted(path.name for path in aside.glob("*/*")) == ["step_8.npz"]
    assert trained.rows == [1, 2, 3, 4, 5, 6]
    trained.start()
    assert len(list(aside.parent.iterdir())) == 1, "nothing was beyond it this time"


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_continued(trained: Trained, kind: str) -> None:
    DAMAGE[kind](trained.checkpoints / "global_step_6")
    (remark,) = trained.start()
    assert remark.startswith("global_step_6 is damaged (")
    assert remark.endswith("); continues from step 3")
    assert (tracked_step(trained.checkpoints), trained.rows) == (3, [1, 2, 3])
    assert json.loads((trained.run.path / "superseded/1/metrics.jsonl").read_text().splitlines()[-1])["step"] == 7


@pytest.mark.parametrize("kind", DAMAGE)
def test_with_no_whole_checkpoint_left_it_is_refused_and_everything_stays(trained: Trained, kind: str) -> None:
    shutil.rmtree(trained.checkpoints / "global_step_3")
    DAMAGE[kind](trained.checkpoints / "global_step_6")
    with pytest.raises(RecordError, match=r"global_step_6 is damaged .*no older checkpoint is whole; restore it, or"):
        trained.start()


def test_a_damaged_checkpoint_is_neither_exported_nor_evaluated(trained: Trained) -> None:
    assert find_checkpoint(trained.run.path) == (trained.checkpoints / "global_step_6" / "actor", 6)
    zero(trained.checkpoints / "global_step_6" / "actor" / "model.pt")
    for path in (trained.run.path, trained.checkpoints / "global_step_6", trained.checkpoints / "global_step_6/actor"):
        with pytest.raises(BadRequest, match=r"global_step_6: damaged \(actor/model.pt: other bytes than when it was"):
            find_checkpoint(path)


def test_a_kill_while_the_first_checkpoint_is_saved_starts_anew_and_says_so(trained: Trained) -> None:
    shutil.rmtree(trained.checkpoints / "global_step_3")
    unsealed(trained.checkpoints / "global_step_6")
    assert trained.start() == [
        "no checkpoint was completed: starts at step 0; what is recorded of 7 steps goes to superseded/"
    ]
    assert (tracked_step(trained.checkpoints), trained.rows) == (None, [])
    assert len((trained.run.path / "superseded/1/metrics.jsonl").read_text().splitlines()) == 7


@pytest.mark.parametrize("tracker", ["", "4x", "\n", "6\0", "9" * 400, None])
def test_a_torn_tracker_costs_no_checkpoint(trained: Trained, tracker: str | None) -> None:
    file = trained.checkpoints / TRACKER
    file.unlink() if tracker is None else file.write_text(tracker)
    save(trained.checkpoints, 7, whole=False)
    assert trained.start() == []
    assert file.read_text() == "6"


def test_a_checkpoint_that_verl_has_not_announced_does_not_count(trained: Trained) -> None:
    (trained.checkpoints / TRACKER).write_text("3")
    assert trained.start() == []
    assert trained.rows == [1, 2, 3]


@pytest.mark.parametrize("manifest", [True, False])
def test_a_checkpoint_of_another_config_is_never_continued(trained: Trained, manifest: bool) -> None:
    if manifest:
        seal(trained.checkpoints, 3, "cd34")
    else:
        trained.run.manifest_path.unlink()
    with pytest.raises(
        ConfigMismatch, match=r"is of a run of another config \(its hash is .*choose another run\.sweep"
    ):
        trained.start(**{} if manifest else {"lr": 1e-5})


def test_a_lost_manifest_of_the_same_config_is_made_again(trained: Trained) -> None:
    trained.run.manifest_path.unlink()
    assert trained.start() == []
    assert trained.run.manifest()["config_hash"] == trained.hash


def test_records_without_manifest_and_checkpoint_are_nobodys(trained: Trained) -> None:
    trained.run.manifest_path.unlink()
    shutil.rmtree(trained.checkpoints)
    with pytest.raises(
        RecordError, match=r"holds records but no manifest\.json.*restore it, or move the directory away"
    ):
        trained.start()


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("metrics.jsonl", "metrics.jsonl step 1 and 6 more"),
        ("position_stats/step_4.npz", r"position_stats/step_4.npz \(missing\)"),
        ("position_stats", r"position_stats/step_2.npz \(missing\) and 2 more"),
        ("samples/toy/step_3.parquet", r"samples/toy/step_3.parquet \(missing\)"),
        ("samples", r"step_3.parquet \(missing\)"),
    ],
)
def test_records_lost_before_the_checkpoint_are_named_and_refused(trained: Trained, lost: str, named: str) -> None:
    path = trained.run.path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RecordError, match=r"lacks records before step 6, .*: .*records\.allow_gaps=true"):
        trained.start()
    remarks = trained.start(records={"position_stats_every": 2, "allow_gaps": True})
    assert remarks
    assert tracked_step(trained.checkpoints) == 6


def test_a_damaged_row_or_statistic_before_the_checkpoint_is_a_loss(trained: Trained) -> None:
    lines = trained.run.metrics_path.read_text().splitlines(keepends=True)
    trained.run.metrics_path.write_text("".join([*lines[:2], "{}\n", *lines[3:]]))
    with pytest.raises(RecordError, match=r"metrics\.jsonl step 3; restore"):
        trained.start()
    trained.run.metrics_path.write_text("".join(lines))
    zero(trained.run.path / "position_stats/step_2.npz")
    with pytest.raises(RecordError, match=r"position_stats/step_2\.npz: not a position-stats archive .*; restore"):
        trained.start()


def test_a_row_that_lies_in_the_checkpoint_is_not_lost(trained: Trained) -> None:
    trained.run.metrics_path.write_text("".join(trained.run.metrics_path.read_text().splitlines(keepends=True)[:5]))
    assert trained.start() == []


def test_a_seal_knows_every_byte_by_a_checksum_of_the_whole_file(tmp_path: Path) -> None:
    big = tmp_path / "weights"
    big.write_bytes(b"abc" * 3_000_000)  # more than two blocks
    whole = checksum(big)
    with big.open("r+b") as file:
        file.seek(8_999_999)
        file.write(b"d")
    assert checksum(big) != whole
    (tmp_path / "empty").touch()
    assert checksum(tmp_path / "empty") == "99aa06d3014798d86001c324468d497f"  # XXH3's own test vector


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


def test_only_the_newest_checkpoints_stay_and_the_best(tmp_path: Path) -> None:
    for step in (20, 40, 60, 80):
        save(tmp_path, step)
    keep_if_best(tmp_path, 20, 0.9)
    remove_old(tmp_path, newest=2)
    remove_old(tmp_path, newest=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "global_step_60", "global_step_80"]
    assert (tmp_path / "best" / "actor" / "model.pt").read_text() == "weights of 20"


def test_torn_saves_cost_no_whole_checkpoint(tmp_path: Path) -> None:
    for step in (20, 40):
        save(tmp_path, step)
    for torn in (57, 58):  # two attempts whose grace was too short
        assert damage(save(tmp_path, torn, whole=False)) == "not written to its end"
    save(tmp_path, 56)
    remove_old(tmp_path, newest=2)
    assert complete_steps(tmp_path) == [40, 56]
    drop_future(tmp_path, 40)
    assert sorted(path.name for path in tmp_path.glob("global_step_*")) == ["global_step_40"]


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
