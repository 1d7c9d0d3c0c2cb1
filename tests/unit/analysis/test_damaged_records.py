"""Whatever is wrong with a run's files is one named problem of it; reader, analysis and status go on with the rest."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main as analyse
from analysis.inputs import Sweep
from analysis.scores import final_scores
from ctpo.records import Submission, find_runs, write_submission
from ctpo.records.position_archive import read_position_stats
from experiments.status import sweep_status
from tests.unit.analysis.synthetic import write_run

SOUND, DAMAGED = "demo/tiny/ctpo/seed0", "demo/tiny/ctpo/seed1"
STATS, SAMPLES = "position_stats/step_2.npz", "samples/arithmetic/step_2.parquet"


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Slurm on this machine whose controller is down answers each question after 10 s."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write_run(root, seed=seed, steps=2, evaluated=(0, 2), stats_at=(1, 2), problems=4, k=2)
    write_submission(root / DAMAGED, Submission("7", "cpu_local", "2026-11-25T20:00:00+00:00", "ab"))
    return root


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Iterator[Path]:
    """The run to damage; as it was afterwards."""
    run = root / DAMAGED
    shutil.copytree(run, tmp_path / "saved")
    yield run
    shutil.rmtree(run) if run.is_dir() and not run.is_symlink() else run.unlink()
    shutil.copytree(tmp_path / "saved", run)


def read_all(root: Path) -> tuple[Sweep, list[str]]:
    """Everything that analysis and status read, with the problems found."""
    sweep = Sweep.load(root, "demo")
    runs = sweep.runs("tiny")
    for one in runs:
        for step in one.position_stats_steps:
            sweep.position_sums(one, step)
        for benchmark in one.benchmarks:
            for step in one.sample_steps(benchmark):
                sweep.evaluation(one, benchmark, step)
        one.series("actor/pg_clipfrac")
    final_scores(sweep, "tiny")
    rows = {row.name: row for row in sweep_status(root, "demo")}
    assert (rows[SOUND].state, rows[SOUND].error) == ("finished", "")
    problems = [str(problem) for problem in sweep.found.problems]
    assert SOUND in [one.name for one in runs]
    assert not [problem for problem in problems if SOUND in problem.partition(": ")[2].partition(":")[0]]
    return sweep, [*problems, *([f"status: {DAMAGED}: {rows[DAMAGED].error}"] if DAMAGED in rows else [])]


def named(root: Path, file: str) -> list[str]:
    """Problems of the damaged run that name `file`."""
    return [problem for problem in read_all(root)[1] if DAMAGED in problem and file in problem]


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CONTENTS = {
    "empty": b"",
    "zeroed": bytes(600),
    "not UTF-8": b'{"step": 1, "a": "\xff"}\n',
    "list": b"[]\n",
    "null": b"null\n",
    "text": b'"text"\n',
    "NaN": b'{"schema": 1, "step": 1, "loss": NaN}\n',
    "Infinity": b"Infinity\n",
    "only the schema": b'{"schema": 1}\n',
    "lone surrogate": b'{"step": 1, "a": "\\ud800"}\n',
    "huge number": b'{"step": 1, "a": 1' + b"0" * 400 + b"}\n",
    "longest number": b"1" * 9999 + b"\n",
    "nested": b"[" * 9999 + b"\n",
    "torn": b'{"schema": 1, "state": "fin',
}
DAMAGE: dict[str, Callable[[Path], object]] = {
    **{name: functools.partial(Path.write_bytes, data=content) for name, content in CONTENTS.items()},
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3]),
    "folder": folder,
    "symbolic link to itself": loop,
    "named pipe": pipe,
}
FILES = ("manifest.json", "metrics.jsonl", "submission.json", STATS, SAMPLES)
#: Of a file that grows by lines, a torn last line is a row that was never written.
NO_ROW = {"empty", "zeroed", "torn", "cut"}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_every_damage_to_every_file_is_named(root: Path, run: Path, file: str, kind: str) -> None:
    DAMAGE[kind](run / file)
    problems = named(root, file)
    if file == "metrics.jsonl" and kind in NO_ROW:
        problems = [problem for problem in read_all(root)[1] if "says finished, but" in problem]
    assert problems
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize("name", ["position_stats", "samples", "samples/arithmetic", ""])
@pytest.mark.parametrize("kind", ["file", "symbolic link to itself"])
def test_something_else_in_place_of_a_folder_is_named(root: Path, run: Path, name: str, kind: str) -> None:
    path = run / name
    shutil.rmtree(path)
    path.write_text("") if kind == "file" else path.symlink_to(path.name)
    if (name, kind) == ("", "symbolic link to itself"):
        read_all(root)
    else:
        assert named(root, name)


def test_what_may_not_be_read_is_named(root: Path) -> None:
    """As an ordinary user; the tests may run as root, whom permissions do not stop."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        own = Path(folder) / "runs"
        shutil.copytree(root, own)
        own.chmod(0o755)
        read_all(own)  # so that nothing is imported as another user
        for name in ("manifest.json", STATS, SAMPLES, "metrics.jsonl", "samples", ""):
            path = own / DAMAGED / name
            mode = path.stat().st_mode
            path.chmod(0)
            root_user = os.geteuid()
            if root_user == 0:
                os.seteuid(65534)
            try:
                assert [
                    problem for problem in read_all(own)[1] if DAMAGED in problem and "Permission denied" in problem
                ]
            finally:
                os.seteuid(root_user)
                path.chmod(mode)


VALUES: tuple[Any, ...] = (None, [], {}, "x", -1, 1.5, True, 10**30, [[None]], {"a": None})


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a JSON document, the document itself included."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from leaves(value, (*path, key))


def replaced(document: Any, path: Sequence[Any], value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    node = copy
    for key in path[:-1]:
        node = node[key]
    if not path:
        return value
    if value is Ellipsis:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return copy


@pytest.mark.parametrize("file", ["manifest.json", "submission.json"])
def test_no_value_anywhere_in_a_document_ends_the_reading(root: Path, run: Path, file: str) -> None:
    document = json.loads((run / file).read_text())
    paths = [path for path in leaves(document) if path[:1] != ("packages",)]
    for path in paths:
        for value in (*VALUES, ...):
            if not path and value is ...:
                continue
            (run / file).write_text(json.dumps(replaced(document, path, value)))
            found = find_runs(root, "demo")
            names = [one.name for one in found.runs] + [problem.where for problem in found.unreadable]
            assert sorted(names) == [SOUND, DAMAGED]
            Sweep.load(root, "demo")
            rows = {row.name: row for row in sweep_status(root, "demo")}
            assert rows.keys() == {SOUND, DAMAGED}
            assert rows[SOUND].state == "finished"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (("config",), None, "config: Input should be a valid dictionary, not None"),
        (("config", "run"), ..., "config.run: Field required"),
        (("config", "run", "seed"), "1", "config.run.seed: Input should be a valid integer, not '1'"),
        (("config", "run", "seed"), True, "config.run.seed: Input should be a valid integer, not True"),
        (("config", "trainer", "total_training_steps"), "many", "config.trainer.total_training_steps: "),
        (("schema",), 2, "schema: Input should be 1, not 2"),
        (("state",), "done", "state: Input should be 'created', 'running', 'finished', 'failed' or 'interrupted'"),
        (("restarts",), {}, "restarts: Input should be a valid list"),
        (("error",), 3, "error: Input should be a valid string, not 3"),
    ],
)
def test_a_wrong_field_of_the_manifest_is_named_with_its_value(
    root: Path, run: Path, field: tuple[str, ...], value: Any, message: str
) -> None:
    document = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(replaced(document, field, value)))
    (problem,) = find_runs(root, "demo").unreadable
    assert (problem.where, problem.message.startswith(f"manifest.json: {message}")) == (DAMAGED, True), problem


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"step": 1000000000000}',
            "metrics.jsonl step 1000000000000 is beyond trainer.total_training_steps=2: left out",
        ),
        ('{"step": -1}', "metrics.jsonl line 3: step: Input should be greater than or equal to 0, not -1"),
        ('{"step": 1.0}', "line 3: step: Input should be a valid integer, not 1.0"),
        ('{"step": true}', "line 3: step: Input should be a valid integer, not True"),
        ('{"loss": 1}', "line 3: step: Field required"),
        ('{"step": 1}', "metrics.jsonl has 1 steps twice: the later row counts"),
        ("", "line 3: not JSON"),
    ],
)
def test_a_wrong_row_is_named_and_left_out(root: Path, run: Path, line: str, message: str) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    sweep, problems = read_all(root)
    assert [problem for problem in problems if message in problem]
    assert [row["step"] for row in sweep.runs("tiny")[1].metrics] == [1, 2]


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    arrays, meta = read_position_stats(path)
    change(arrays, meta)
    content: dict[str, Any] = {"__meta__": np.array(json.dumps(meta)), **arrays}
    np.savez(path, **content)


def filled(name: str, value: float, cell: Any = ..., dtype: Any = None) -> Callable[[dict[str, Any], Any], None]:
    def change(arrays: dict[str, Any], _: Any) -> None:
        arrays[name] = arrays[name].astype(dtype or arrays[name].dtype)
        arrays[name][cell] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (filled("position_sums", np.nan, (0, 3)), "position sums hold NaN or infinity"),
        (filled("update_sums", np.inf, (1, 1, 0)), "update sums hold NaN or infinity"),
        (filled("fold_counts", -1, (0, 1, 0), np.int64), "fold sums hold NaN or infinity, or a count below 0"),
        (filled("position_counts", 10**6, (1, 2)), "position_counts: more tokens clipped than there are"),
        (lambda arrays, _: arrays["position_counts"].__iadd__(1), "tokens by position, "),
        (
            filled("position_sums", -1.0, (3, slice(None))),
            "position_sums: a sum of squares is smaller than any numbers",
        ),
        (filled("position_sums", 0.0, (slice(3, None), 5)), "position_sums: a sum of squares is smaller than"),
        (filled("histogram", 0), "tokens in the histograms, "),
        (filled("overflow", -1, dtype=np.int64), "negative counts in histogram or overflow"),
        (lambda arrays, _: arrays.update(overflow=arrays["overflow"][:1]), "overflow (1,)"),
        (lambda arrays, _: arrays.update(histogram=arrays["histogram"] * 1.0), "histogram is of float64"),
        (lambda arrays, _: arrays.pop("fold_sums"), "KeyError: 'fold_sums'"),
        (lambda arrays, _: arrays.update(extra=np.zeros(1)), "unknown array 'extra'"),
        (lambda arrays, _: arrays.update(layout=np.array("[]")), "not what this code reads (AttributeError"),
        (lambda arrays, _: arrays.update(layout=np.array('{"max_position": 0}')), "not what this code reads (KeyError"),
        (lambda _, meta: meta.update(method="grpo"), "holds method 'grpo'"),
        (lambda _, meta: meta.update(step=1), "holds step 1"),
        (lambda _, meta: meta.pop("method"), "not a position-stats archive (KeyError: 'method')"),
    ],
)
def test_position_statistics_that_cannot_be_are_named_and_left_out(
    root: Path, run: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], message: str
) -> None:
    rewritten(run / STATS, change)
    sweep, problems = read_all(root)
    assert [problem for problem in problems if f"{DAMAGED}: {STATS}: " in problem and message in problem], problems
    assert sweep.position_sums(sweep.runs("tiny")[1], 2) is None


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("score", 3.32, "1 of 8 scores are not between 0 and 1, the first is 3.32"),
        ("score", -0.5, "1 of 8 scores are not between 0 and 1, the first is -0.5"),
        ("score", np.inf, "1 of 8 scores are not between 0 and 1, the first is inf"),
        ("score", np.nan, "1 of 8 values of score are missing or NaN"),
        ("step", 1, "holds samples of step 1"),
        ("problem_id", None, "1 of 8 values of problem_id are missing or NaN"),
        ("turns", -1, "turns is negative in 1 of 8 samples"),
        ("sample_index", 1, "has 1 samples twice"),
    ],
)
def test_samples_that_cannot_be_are_named_and_give_no_accuracy(
    root: Path, run: Path, column: str, value: Any, message: str
) -> None:
    frame = pd.read_parquet(run / SAMPLES)
    frame.loc[2, column] = value
    frame.to_parquet(run / SAMPLES, index=False)
    sweep, problems = read_all(root)
    assert [problem for problem in problems if f"{DAMAGED}: {SAMPLES}: {message}: left out" in problem], problems
    assert final_scores(sweep, "tiny").cells["ctpo"]["arithmetic"].seeds == (0,)


@pytest.mark.parametrize("change", ["fewer", "other order", "other type", "none", "no rows"])
def test_samples_of_another_shape_are_named(root: Path, run: Path, change: str) -> None:
    frame = pd.read_parquet(run / SAMPLES)
    frame = {
        "fewer": frame.drop(columns="turns"),
        "other order": frame[frame.columns[::-1]],
        "other type": frame.assign(score=frame["score"].astype(str)),
        "none": frame[[]],
        "no rows": frame[:0],
    }[change]
    frame.to_parquet(run / SAMPLES, index=False)
    assert named(root, f"{SAMPLES}: no samples" if change == "no rows" else f"{SAMPLES}: columns are {{")


# ---------------------------------------------------------------------------- copies


def edited_seed(path: Path, seed: int) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["config"]["run"]["seed"] = manifest["config"]["data"]["seed"] = seed
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("copy", "message"),
    [
        ("ctpo/seed2", f"its manifest says {SOUND}, which {SOUND} is: a copy, not counted"),
        ("ctpo/seed00", f"its manifest says {SOUND}, which {SOUND} is: a copy, not counted"),
        ("ctpo/seed0 (copy)", f"its manifest says {SOUND}, which {SOUND} is: a copy, not counted"),
        ("ctpo/backup", f"its manifest says {SOUND}, which {SOUND} is: a copy, not counted"),
        ("grpo/seed0", f"its manifest says {SOUND}, which {SOUND} is: a copy, not counted"),
        ("ctpo/linked", f"its manifest says {SOUND}, which {SOUND} is: a copy, not counted"),
        ("ctpo/seed7", f"holds the same metrics.jsonl as {SOUND}: a copy, not counted"),
    ],
)
def test_a_copy_of_a_run_is_no_second_seed(root: Path, tmp_path: Path, copy: str, message: str) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    target = tmp_path / "demo" / "tiny" / copy
    target.parent.mkdir(exist_ok=True)
    if copy == "ctpo/linked":
        target.symlink_to(tmp_path / SOUND)
    else:
        shutil.copytree(tmp_path / SOUND, target)
    if copy == "ctpo/seed7":
        edited_seed(target, 7)
    sweep = Sweep.load(tmp_path, "demo")
    assert [run.name for run in sweep.found.runs] == [SOUND, DAMAGED]
    (problem,) = sweep.found.problems
    assert (problem.kind, problem.where) == ("copy", f"demo/tiny/{copy}")
    assert problem.message.startswith(message)
    assert final_scores(sweep, "tiny").cells["ctpo"]["arithmetic"].seeds == (0, 1)
    assert {row.name: row.state for row in sweep_status(tmp_path, "demo")}[problem.where] == "copy"


def test_a_run_that_was_moved_counts_once_as_what_it_is(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / DAMAGED, tmp_path / "demo/tiny/ctpo/seed5")
    shutil.copytree(root / DAMAGED, tmp_path / "demo/tiny/other/seed1")
    found = find_runs(tmp_path, "demo")
    (run,) = found.runs
    assert (run.name, run.method, run.seed) == ("demo/tiny/ctpo/seed5", "ctpo", 1)
    assert list(map(str, found.problems)) == [
        "copy: demo/tiny/other/seed1: its manifest says demo/tiny/ctpo/seed1, which demo/tiny/ctpo/seed5 is: a copy, "
        "not counted",
        "malformed: demo/tiny/ctpo/seed5: its manifest says demo/tiny/ctpo/seed1: counted as that; rename the folder",
    ]


def test_a_custom_method_under_a_methods_name_is_not_compared(tmp_path: Path) -> None:
    for seed, name in ((0, "ctpo"), (1, "custom")):
        write_run(tmp_path, seed=seed, steps=2, evaluated=(2,), stats_at=(), config={"method": {"name": name}})
    write_run(tmp_path, method="mine", steps=2, evaluated=(2,), stats_at=(), config={"method": {"name": "custom"}})
    sweep = Sweep.load(tmp_path, "demo")
    assert [run.name for run in sweep.runs("tiny")] == [SOUND, "demo/tiny/mine/seed0"]
    assert f"malformed: {DAMAGED}: is of method 'custom', not of 'ctpo': left out" in map(str, sweep.found.problems)


def test_the_analysis_of_a_sweep_survives_all_of_it_at_once(root: Path, run: Path, tmp_path: Path) -> None:
    for seed, (file, content) in enumerate(
        [(file, CONTENTS[kind]) for file in FILES for kind in ("zeroed", "only the schema")], start=2
    ):
        path = root / f"demo/tiny/ctpo/seed{seed}"
        shutil.copytree(root / SOUND, path)
        edited_seed(path, seed)
        (path / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "seed": {seed}}}\n' for step in (1, 2)))
        (path / file).write_bytes(content)
    try:
        assert analyse(["--runs", str(root), "--sweep", "demo", "--out", str(tmp_path)]) == 0
    finally:
        for path in root.glob("demo/tiny/ctpo/seed[2-9]*"):
            shutil.rmtree(path)
        for path in root.glob("demo/tiny/ctpo/seed1[0-9]"):
            shutil.rmtree(path)
