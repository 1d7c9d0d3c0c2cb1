"""Claims about data sets: what is read, refused, dropped and reported, and that the card says so."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ctpo.tir.grading import Grader
from ctpo.tir.prompts import SYSTEM_PROMPTS
from experiments import prepare, resolvers
from experiments.data.card import CARD_JSON, CARD_TEXT
from experiments.data.golds import unreadable
from experiments.data.lengths import PromptLengths
from experiments.data.overlap import find_overlaps, tokens
from experiments.errors import BadRequest
from experiments.prepare import prepare_benchmarks, prepare_dataset

PIRATES = (
    r"Nine pirates split a chest of $N$ coins so that the oldest takes half of the coins and one more, the next oldest "
    r"takes half of what is left and one more, and so on until nothing is left. Find $N$."
)
LAMPS = (
    "A hallway has 40 lamps in a row. Every second, the lamps with exactly one lit neighbour change their state at the "
    "same time. At the start only the first lamp is lit. How many lamps are lit after 100 seconds?"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTPO_CACHE", str(tmp_path / "cache"))


def written(path: Path, *problems: tuple[Any, Any], **columns: str) -> Path:
    """A file with a problem's home columns, in the format that its suffix says."""
    names = {"problem": "problem", "answer": "answer", **columns}
    rows = [{names["problem"]: problem, names["answer"]: answer, "solution": "unread"} for problem, answer in problems]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


def config(train: Path | None = None, test: Path | None = None, **checks: Any) -> DictConfig:
    def entry(path: Path | None, **more: Any) -> dict[str, Any]:
        return {"hub_id": "org/x", "files": "*", "rows": None, "path": path and str(path), **more}

    return OmegaConf.create(
        {
            "data_catalog": {"folder": None, "pool": entry(train), "quiz": entry(test)},
            "dataset_spec": {"kind": "problems", "train": "pool", "test": "quiz", "checks": checks},
            "data": {"max_prompt_length": 256},
        }
    )


def card(path: Path) -> dict[str, Any]:
    return json.loads(path.with_name(CARD_JSON).read_text())


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json"])
def test_a_files_own_columns_become_verls(tmp_path: Path, suffix: str) -> None:
    quiz = written(tmp_path / f"a{suffix}", ("What is 2 + 3?", 5), ("What is 1 - 2?", -1))
    (path,) = prepare_benchmarks(config(test=quiz), ["quiz"]).values()
    first, second = rows(path)
    assert first["data_source"] == "quiz"
    assert first["prompt"] == [
        {"role": "system", "content": SYSTEM_PROMPTS["math"]},
        {"role": "user", "content": "What is 2 + 3?"},
    ]
    assert [row["reward_model"]["ground_truth"] for row in (first, second)] == ["5", "-1"]
    assert first["extra_info"]["split"] == "test"


def test_the_same_problems_in_verls_format_and_at_home_make_the_same_file(tmp_path: Path) -> None:
    home = written(tmp_path / "home.jsonl", ("What is 2 + 3?", "5"))
    user = [{"role": "user", "content": "What is 2 + 3?"}]
    verl = {"data_source": "elsewhere", "prompt": user, "reward_model": {"ground_truth": "5", "style": "rule"}}
    pq.write_table(pa.Table.from_pylist([verl]), tmp_path / "verl.parquet")
    results = [
        rows(prepare_benchmarks(config(test=path), ["quiz"])["quiz"]) for path in (home, tmp_path / "verl.parquet")
    ]
    assert results[0] == results[1]


def test_a_local_copy_in_the_data_folder_takes_the_hubs_place(tmp_path: Path) -> None:
    written(tmp_path / "quiz.jsonl", ("What is 2 + 3?", "5"))
    named = config()
    named.data_catalog.folder = str(tmp_path)
    assert len(rows(prepare_benchmarks(named, ["quiz"])["quiz"])) == 1
    named.data_catalog.folder = str(tmp_path / "nowhere")
    with pytest.raises(BadRequest, match=r"data_catalog\.folder=.*nowhere'?: no such folder; correct CTPO_DATA"):
        prepare_benchmarks(named, ["quiz"])


def test_benchmarks_come_in_order_by_name_by_path_and_the_tiny_task_too(tmp_path: Path) -> None:
    quiz = written(tmp_path / "mine.jsonl", ("What is 2 + 3?", "5"))
    found = prepare_benchmarks(config(test=quiz), [str(quiz), "arithmetic", "quiz"])
    assert list(found) == ["mine", "arithmetic", "quiz"]
    assert [rows(path)[0]["data_source"] for path in found.values()] == ["mine", "arithmetic", "quiz"]


def test_a_folder_is_one_benchmark_for_each_file(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for name in ("b", "a"):
        written(folder / f"{name}.jsonl", (f"What is {name}?", "5"))
    found = prepare_benchmarks(config(), [str(folder)])
    assert list(found) == ["a", "b"]
    assert [rows(path)[0]["data_source"] for path in found.values()] == ["a", "b"]


def test_problems_that_differ_in_a_bracket_a_bar_or_a_script_are_different(tmp_path: Path) -> None:
    asked = [
        "Maximise x - x^2 on (0, 1).", "Maximise x - x^2 on [0, 1].", "Compute 8 - (4 - 2).", "Compute (8 - 4) - 2.",
        "Solve |x - 3| = 5.", "Solve x - 3 = 5.", "Find f(2).", "Find f'(2).", "求最大值。", "求最小值。",
    ]  # fmt: skip
    pool = written(tmp_path / "pool.jsonl", *[(text, str(number)) for number, text in enumerate(asked)])
    quiz = written(tmp_path / "quiz.jsonl", ("Another one?", "1"), ("求面积。", "2"))
    paths = prepare_dataset(config(pool, quiz))
    assert len(rows(paths.train[0])) == len(asked)


def test_two_files_may_number_their_problems_alike(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for name, text in (("a", "What is 2 + 2?"), ("b", "What is 9 x 9?")):
        (folder / f"{name}.jsonl").write_text(json.dumps({"id": "0", "problem": text, "answer": "4"}) + "\n")
    quiz = written(tmp_path / "quiz.jsonl", ("Another one?", "1"))
    made = config(None, quiz)
    made.dataset_spec.train = str(folder)
    assert len(rows(prepare_dataset(made).train[0])) == 2


@pytest.mark.parametrize(
    ("problems", "says"),
    [
        ([("One?", "1"), ("Two?", "")], r"line 2: reward_model\.ground_truth='': must be a non-empty text"),
        ([("One?", "1"), ("Two?", None)], r"line 2: reward_model\.ground_truth=null: must be"),
        ([("", "1")], r"line 1: prompt\[0\]\.content='': must be a non-empty text"),
        ([("One?", "1"), ("one ?", "1")], r"line 2: the same problem \(or problem_id\) as .* line 1"),
        ([("One?", "1"), ("One ?", "2")], r"whose answer is '1', not '2'"),
    ],
)
def test_a_benchmark_with_a_bad_row_is_refused_whole(tmp_path: Path, problems: list[Any], says: str) -> None:
    quiz = written(tmp_path / "a.jsonl", *problems)
    with pytest.raises(BadRequest, match=says):
        prepare_benchmarks(config(test=quiz), ["quiz"])
    assert list((tmp_path / "cache").rglob("*.parquet")) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": 30}, r"1 rows, but data_catalog\.quiz\.rows=30: half a file or another edition"),
        ({"columns": {"problem": "text"}}, "neither verl's column prompt nor text"),
        ({"path": "/no/where.jsonl"}, r"data_catalog\.quiz\.path=/no/where\.jsonl: no parquet, jsonl or json file"),
    ],
)
def test_a_benchmark_that_is_not_the_one_described_is_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    described = config(test=written(tmp_path / "a.jsonl", ("One?", "1")))
    described.data_catalog.quiz = {**described.data_catalog.quiz, **change}
    with pytest.raises(BadRequest, match=says):
        prepare_benchmarks(described, ["quiz"])


def test_a_name_that_is_nothing_is_refused_with_the_catalogue() -> None:
    with pytest.raises(BadRequest, match=r"benchmarks=aime99: neither a file or folder nor in the catalogue \(pool"):
        prepare_benchmarks(config(), ["aime99"])


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    for suffix in (".parquet", ".jsonl", ".json"):
        whole = written(tmp_path / f"a{suffix}", *[(f"What is {n}?", str(n)) for n in range(20)])
        whole.write_bytes(whole.read_bytes()[:-9])
        says = "line 20: not JSON .*get the file again" if suffix == ".jsonl" else f"not a {suffix[1:]} file .*get it"
        with pytest.raises(BadRequest, match=says):
            prepare_benchmarks(config(test=whole), ["quiz"])


def test_unusable_training_rows_are_dropped_counted_and_listed(tmp_path: Path) -> None:
    pool = written(
        tmp_path / "pool.json",
        (PIRATES, "1022"), (LAMPS, r"\frac{1}{2}"), ("No answer here.", ""), ("", "3"), (PIRATES + " ", "7"),
        ("An answer that nothing reads?", "5 \uff15"),
    )  # fmt: skip
    quiz = written(tmp_path / "quiz.jsonl", ("What is 2 + 3?", "5"))
    (path,) = prepare_dataset(config(pool, quiz)).train
    assert [row["reward_model"]["ground_truth"] for row in rows(path)] == ["1022", r"\frac{1}{2}"]
    assert [row["extra_info"]["index"] for row in rows(path)] == [0, 1]
    facts = card(path)
    assert (facts["rows_read"], facts["rows"], facts["whole_number_answers"]) == (6, 2, 1)
    assert facts["dropped"] == {
        "no reference answer": 1, "no problem text": 1, "the same problem as another row": 1,
        "unreadable reference answer": 1,
    }  # fmt: skip
    text = path.with_name(CARD_TEXT).read_text()
    assert "row 4, as " in text
    assert "whose answer is '1022', not '7'" in text
    with pytest.raises(BadRequest, match="row 2: reward_model"):
        prepare_dataset(config(pool, quiz, unusable="refuse"))


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        (PIRATES, True),
        (PIRATES.upper().replace("$", "").replace(",", " ;"), True),
        ("Solve this. " + PIRATES + " Give only the number, please, and nothing else.", True),
        (PIRATES[: len(PIRATES) * 3 // 4], True),
        (PIRATES.replace("Nine", "Ten"), True),
        (LAMPS, False),
        ("Find $N$.", False),
    ],
)
def test_a_planted_benchmark_problem_is_dropped_from_training(tmp_path: Path, planted: str, found: bool) -> None:
    other = "How many trailing zeros does the number 100 factorial have when it is written in base ten?"
    pool = written(tmp_path / "pool.jsonl", (other, "24"), (planted, "1022"))
    quiz = written(tmp_path / "quiz.jsonl", (PIRATES, "1022"), ("What is 2 + 3?", "5"))
    (path,) = prepare_dataset(config(pool, quiz)).train
    assert len(rows(path)) == (1 if found else 2)
    assert card(path)["dropped"] == ({"in a benchmark": 1} if found else {})
    if found:
        assert "quiz problem 0" in card(path)["findings"][0]["detail"]
        (reported,) = prepare_dataset(config(pool, quiz, overlap="report")).train
        assert len(rows(reported)) == 2
        assert card(reported)["noted"] == {"in a benchmark": 1}


def test_what_many_benchmark_problems_share_is_no_overlap() -> None:
    phrase = "where m and n are relatively prime positive integers. Find m + n."
    test = [f"The area of figure number {n} is m/n, {phrase}" for n in (11, 12, 13, 14)]
    assert find_overlaps([f"A die is rolled until a six; the chance is m/n, {phrase}"], test) == []


def test_spelling_of_latex_does_not_hide_an_overlap() -> None:
    assert tokens(r"Let $\left( x \right)\, \le \dfrac{1}{2}$.") == tokens(r"let (x) \leq \frac{1}{2}")


def test_the_overlap_of_a_paper_sized_training_set_takes_seconds() -> None:
    train = [f"Problem {n}: " + LAMPS.replace("40", str(n)).replace("100", str(7 * n)) for n in range(20000)]
    started = time.process_time()
    assert find_overlaps([*train, PIRATES], [PIRATES] * 120)[-1].train_index == 20000
    assert time.process_time() - started < 30


@pytest.mark.parametrize(
    ("checks", "says"),
    [
        ({"overlap": "ignore"}, r"dataset_spec\.checks\.overlap=ignore: must be 'drop' or 'report'"),
        ({"unusable": "keep"}, r"dataset_spec\.checks\.unusable=keep"),
        ({"overlap_share": 0}, "overlap_share=0: must be greater than 0"),
        ({"ngram": 8}, r"dataset_spec\.checks\.ngram=8: no such field; there are overlap, overlap_ngram"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, checks: dict[str, Any], says: str) -> None:
    quiz = written(tmp_path / "quiz.jsonl", (PIRATES, "1022"))
    with pytest.raises(BadRequest, match=says):
        prepare_dataset(config(quiz, quiz, **checks))


def test_training_data_that_overlaps_entirely_is_refused(tmp_path: Path) -> None:
    quiz = written(tmp_path / "quiz.jsonl", (PIRATES, "1022"))
    with pytest.raises(BadRequest, match="the checks leave no row"):
        prepare_dataset(config(quiz, quiz))


def test_lengths_are_those_of_the_runs_tokenizer_and_template(tmp_path: Path) -> None:
    from experiments.tiny.chat_template import CHAT_TEMPLATE
    from experiments.tiny.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(384, 0, 512)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path / "model")
    prompts = [[{"role": "user", "content": text}] for text in ("2 + 3?", "2 + 3? " * 20)]
    counts = [
        len(tokenizer.apply_chat_template(p, add_generation_prompt=True, tokenize=True)["input_ids"]) for p in prompts
    ]
    summary = PromptLengths(tmp_path / "model", counts[1] - 1).summary(prompts)
    assert summary is not None
    assert (summary["min"], summary["max"], summary["over_limit"]) == (counts[0], counts[1], 1)
    assert PromptLengths(None, 256).summary(prompts) is None

    quiz = written(tmp_path / "quiz.jsonl", ("2 + 3?", "5"), ("2 + 3? " * 20, "5"))
    made = config(test=quiz)
    made.model_spec = {"path": str(tmp_path / "model")}
    with pytest.raises(BadRequest, match=r"max_prompt_length=256: 2 problems of quiz have more"):
        prepare_benchmarks(made, ["quiz"])
    made.data.max_prompt_length = 2048
    assert len(rows(prepare_benchmarks(made, ["quiz"])["quiz"])) == 2

    for path in (tmp_path / "model").glob("chat_template*"):
        path.unlink()
    settings = tmp_path / "model" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": None}))
    with pytest.raises(BadRequest, match="its tokenizer has no chat template"):
        PromptLengths(tmp_path / "model", 256).summary(prompts)


def test_every_distinct_answer_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def readable(self: Grader, gold: str) -> bool:
        asked.append(gold)
        return gold != "bad"

    monkeypatch.setattr(Grader, "readable", readable)
    assert unreadable(["1", "bad", "1", "bad", "2"], "test") == [1, 3]
    assert sorted(asked) == ["1", "2", "bad"]


def test_the_papers_data_is_what_the_configuration_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTPO_TRAIN_DATA", raising=False)
    monkeypatch.delenv("CTPO_TEST_DATA", raising=False)
    resolvers.register()
    with initialize_config_dir(str(Path(prepare.__file__).parent / "configs"), version_base="1.3"):
        composed = compose("run", overrides=["dataset=deepscaler"])
        tiny = compose("run")
    assert composed.data_catalog.deepscaler.hub_id == "agentica-org/DeepScaleR-Preview-Dataset"
    assert composed.dataset_spec.train == "deepscaler"
    assert composed.dataset_spec.test.split(",") == ["aime25", "aime26", "brumo25", "hmmt25"]
    names = {"aime24", "aime25", "aime26", "brumo25", "hmmt25", "hmmt_feb26", "cmimc25", "smt25", "deepscaler"}
    assert names <= set(tiny.data_catalog) == set(composed.data_catalog)
