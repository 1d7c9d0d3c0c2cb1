"""Claims about `experiments/prepare.py`: dispatch, checks of data from outside, command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from ctpo.tir.prompts import SYSTEM_PROMPTS
from experiments.errors import BadRequest
from experiments.prepare import prepare_benchmarks, prepare_dataset, prepare_model
from experiments.resolvers import PROJECT_ROOT


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTPO_CACHE", str(tmp_path / "cache"))


def model(**spec: Any) -> Any:
    return prepare_model(OmegaConf.create({"model_spec": spec}))


def dataset(**spec: Any) -> Any:
    """The overlap is only reported here: most tests give one file as training data and as benchmark."""
    if spec.get("kind") == "problems":
        spec = {"checks": {"overlap": "report"}, **spec}
    return prepare_dataset(OmegaConf.create({"dataset_spec": spec}))


def row(**changes: Any) -> Any:
    return {
        "data_source": "somewhere",
        "prompt": [{"role": "user", "content": "What is 2 + 3?"}],
        "ability": "math",
        "reward_model": {"ground_truth": "5", "style": "rule"},
        "extra_info": {"index": 7, "split": "x"},
        **changes,
    }


def parquet(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_the_tiny_model_is_built_and_found_again() -> None:
    folder = model(kind="tiny", steps=0)
    assert (folder / "model.safetensors").is_file()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert model(kind="tiny", steps=0) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_setting_of_the_demonstrations_makes_another_model() -> None:
    assert model(kind="tiny", steps=0, quality={"misread": 0.5}) != model(kind="tiny", steps=0)


def test_the_arithmetic_data_set_is_built() -> None:
    paths = dataset(kind="arithmetic", train_size=12, test_size=3)
    assert [pq.read_metadata(path).num_rows for path in (*paths.train, *paths.test)] == [12, 3]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, "model_spec.kind=None: use one of tiny, folder"),
        ({"kind": "huge"}, "model_spec.kind=huge: use one of tiny, folder"),
        ({"kind": "tiny", "depth": 3}, "model_spec.depth=3: no such field; "),
        ({"kind": "tiny", "steps": "many"}, "model_spec.steps=many: must be a valid integer"),
        (
            {"kind": "tiny", "quality": {"mental": 2.0}},
            "quality.mental=2.0: must be less than or equal to 1",
        ),
        ({"kind": "tiny", "vocab_size": 10}, "model_spec.vocab_size=10: bytes and control tokens alone need"),
        ({"kind": "folder", "hub_id": "Qwen/Qwen3-4B"}, "path is not set: run `hf download Qwen/Qwen3-4B"),
        ({"kind": "folder", "hub_id": "Q/Q", "path": "/no/where"}, "path=/no/where: no such folder; run `hf"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_with_field_value_and_fix(spec: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        model(**spec)


def test_a_missing_block_is_named() -> None:
    with pytest.raises(BadRequest, match="model_spec is missing"):
        prepare_model(OmegaConf.create({}))


def test_a_local_model_folder_must_be_complete(tmp_path: Path) -> None:
    spec = {"kind": "folder", "hub_id": "Q/Q", "path": str(tmp_path)}
    for name, says in (
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer"),
        ("a.safetensors", "weights"),
    ):
        with pytest.raises(BadRequest, match=f"has no {says}"):
            model(**spec)
        (tmp_path / name).write_text("{}")
    assert model(**spec) == tmp_path


def test_local_data_gets_system_prompt_ids_and_uniform_columns(tmp_path: Path) -> None:
    given = parquet(tmp_path / "in" / "a.parquet", row(extra="dropped"), row(prompt=[
        {"role": "system", "content": "own"}, {"role": "user", "content": "What is 1 + 1?"},
    ]))  # fmt: skip
    paths = dataset(kind="problems", train=str(given), test=[str(given.parent)], system_prompt="short")
    first, second = pq.read_table(paths.train[0]).to_pylist()
    assert first["prompt"][0] == {"role": "system", "content": SYSTEM_PROMPTS["short"]}
    assert second["prompt"][0]["content"] == "own"
    assert "extra" not in first
    assert [one["extra_info"]["index"] for one in (first, second)] == [0, 1]
    assert first["extra_info"]["problem_id"] != second["extra_info"]["problem_id"]
    assert first["extra_info"]["split"] == "train"
    in_test = pq.read_table(paths.test[0]).to_pylist()[0]["extra_info"]
    assert in_test == {**first["extra_info"], "split": "test"}


@pytest.mark.parametrize(
    ("kind", "given", "prompt"),
    [
        ("folder", None, SYSTEM_PROMPTS["math"]),
        ("tiny", None, SYSTEM_PROMPTS["short"]),
        ("tiny", "math", SYSTEM_PROMPTS["math"]),
        ("folder", "Answer in one word.", "Answer in one word."),
    ],
)
def test_the_system_prompt_is_the_models_a_named_one_or_ones_own(
    tmp_path: Path, kind: Any, given: Any, prompt: Any
) -> None:
    path = parquet(tmp_path / "a.parquet", row())
    config = OmegaConf.create(
        {"model_spec": {"kind": kind}, "dataset_spec": {"kind": "problems", "system_prompt": given}}
    )
    (found,) = prepare_benchmarks(config, [str(path)]).values()
    assert pq.read_table(found).to_pylist()[0]["prompt"][0]["content"] == prompt


def test_a_problem_keeps_the_id_it_came_with(tmp_path: Path) -> None:
    given = parquet(tmp_path / "a.parquet", row(extra_info={"problem_id": "aime-1", "index": 0, "split": "test"}))
    paths = dataset(kind="problems", train=str(given), test=str(given))
    assert pq.read_table(paths.test[0]).to_pylist()[0]["extra_info"]["problem_id"] == "aime-1"


def test_changed_content_is_prepared_anew(tmp_path: Path) -> None:
    given = parquet(tmp_path / "a.parquet", row())
    before = dataset(kind="problems", train=str(given), test=str(given))
    assert dataset(kind="problems", train=str(given), test=str(given)) == before
    parquet(given, row(), row(prompt=[{"role": "user", "content": "Another question?"}]))
    assert dataset(kind="problems", train=str(given), test=str(given)) != before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": []}, r"prompt=\[\]: must have at least 1 item"),
        ({"prompt": "What?"}, r"prompt=What\?: must be a valid list"),
        ({"prompt": [{"role": "user", "content": " "}]}, r"prompt\[0\].content=' ': must be a non-empty text"),
        (
            {"prompt": [{"role": "robot", "content": "x"}]},
            r"prompt\[0\].role=robot: must be 'system', 'user' or",
        ),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "the last message must be user's"),
        ({"reward_model": {"ground_truth": "", "style": "rule"}}, "reward_model.ground_truth='': must be"),
        ({"reward_model": None}, "reward_model.ground_truth=null: must be"),
        ({"data_source": None}, "data_source=null: must be"),
    ],
)
def test_a_malformed_row_is_refused_by_file_row_and_field(tmp_path: Path, changes: Any, says: str) -> None:
    # One good row per file: parquet infers the type of an all-null column from its neighbours.
    bad = tmp_path / "bad.parquet"
    if isinstance(changes.get("prompt"), str):
        parquet(bad, row(**changes))
        number = 0
    else:
        parquet(bad, row(), row(**changes))
        number = 1
    good = parquet(tmp_path / "good.parquet", row())
    with pytest.raises(BadRequest, match=rf"bad\.parquet row {number}: .*{says}"):
        dataset(kind="problems", train=str(good), test=str(bad))


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no parquet, jsonl or json file there"), (b"not parquet", "not a parquet file"), ([], "holds no row")],
)
def test_a_file_without_rows_is_refused(tmp_path: Path, content: Any, says: str) -> None:
    path = tmp_path / "a.parquet"
    if content == []:
        pq.write_table(pa.Table.from_pylist([row()]).slice(0, 0), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(BadRequest, match=says):
        dataset(kind="problems", train=str(path), test=str(path))


def test_the_same_problem_twice_is_refused(tmp_path: Path) -> None:
    twice = parquet(tmp_path / "twice.parquet", row(), row())
    with pytest.raises(BadRequest, match=r"twice\.parquet row 1: the same problem .*twice\.parquet row 0;"):
        dataset(kind="problems", train=str(twice), test=str(twice))


@pytest.mark.parametrize(
    ("given", "folder"), [("aime25", "aime25"), ("HuggingFaceH4/MATH-500", "HuggingFaceH4-MATH-500"), ("../x y", "x-y")]
)
def test_a_source_becomes_a_name_that_samples_can_be_filed_under(tmp_path: Path, given: Any, folder: Any) -> None:
    path = parquet(tmp_path / "a.parquet", row(data_source=given))
    paths = dataset(kind="problems", train=str(path), test=str(path))
    assert pq.read_table(paths.test[0]).to_pylist()[0]["data_source"] == folder


def test_data_that_is_not_named_is_asked_for() -> None:
    with pytest.raises(BadRequest, match=r"dataset_spec\.train is not set: name data sets"):
        dataset(kind="problems")


def run_command(*arguments: str) -> Any:
    return subprocess.run(
        [sys.executable, str(PROJECT_ROOT / "experiments" / "prepare.py"), *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_command_says_where_things_are_and_ends_with_the_model() -> None:
    changed = ("++model_spec.steps=1", "++model_spec.batch_size=4", "++dataset_spec.test_size=5")
    done = run_command("--model", "tiny", "--dataset", "arithmetic", *changed)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("test data:") and line.endswith("(5 problems)") for line in lines)
    assert lines[-1].startswith("ready: ")
    assert (Path(lines[-1].removeprefix("ready: ")) / "model.safetensors").is_file()
    assert "warm start of the tiny model" in done.stderr


def test_the_command_refuses_an_unknown_model_in_one_line() -> None:
    done = run_command("--model", "qwen99")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "qwen99" in line
    assert "qwen3_4b" in line


def test_a_data_set_to_pin_must_be_in_the_catalogue() -> None:
    done = run_command("--pin", "aime2525", "--benchmarks", "aime25")
    assert done.returncode == 1
    assert "--pin aime2525: no such data set; data_catalog has deepscaler, " in done.stderr
