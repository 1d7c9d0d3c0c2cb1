"""What may stand in a row of a data set, by file kind: kept as text, left out, or refused by place and field."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.data.files import read_records
from experiments.data.rows import NO_ANSWER, NO_PROBLEM, UnusableRow, checked_row
from experiments.errors import BadRequest


def row(**changes: Any) -> dict[str, Any]:
    made = {
        "data_source": "somewhere",
        "prompt": [{"role": "user", "content": "What is 2 + 3?"}],
        "reward_model": {"ground_truth": "5", "style": "rule"},
        "extra_info": {"index": 7},
    }
    return {name: value for name, value in {**made, **changes}.items() if value is not ABSENT}


ABSENT = object()


def checked(**changes: Any) -> dict[str, Any]:
    return checked_row(row(**changes), "a.parquet row 3", 0, "train", "Answer.")


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("5", "5"), (" 5 ", " 5 "), (5, "5"), (-1, "-1"), (70.0, "70"), (-0.0, "0"), (0.5, "0.5"), (1e100, "1e+100"),
        (10**30, "1" + "0" * 30), (Decimal("3.00"), "3"), (Decimal("0.25"), "0.25"), (b"5", "5"),
        (np.int64(7), "7"), (np.float32(7), "7"), (np.float64(0.5), "0.5"), ("\N{GREEK SMALL LETTER PI}", "π"),
    ],
)  # fmt: skip
def test_an_answer_is_text_or_a_number_as_it_is_written(given: Any, text: str) -> None:
    assert checked(reward_model={"ground_truth": given})["reward_model"]["ground_truth"] == text


NOTHING = [None, "", " ", "\n", float("nan"), float("inf"), float("-inf"), np.float32("nan"), Decimal("NaN"),
           Decimal("Infinity"), b""]  # fmt: skip


@pytest.mark.parametrize("given", NOTHING)
def test_what_stands_for_no_answer_makes_the_row_unusable(given: Any) -> None:
    with pytest.raises(UnusableRow, match=r"a\.parquet row 3: reward_model\.ground_truth=.*non-empty text") as refusal:
        checked(reward_model={"ground_truth": given})
    assert refusal.value.reason == NO_ANSWER


@pytest.mark.parametrize("given", [ABSENT, None, {}, {"style": "rule"}])
def test_a_missing_answer_makes_the_row_unusable(given: Any) -> None:
    with pytest.raises(UnusableRow, match=r"reward_model\.ground_truth=null"):
        checked(reward_model=given)


MALFORMED: list[tuple[str, Any, str]] = [
    *[("reward_model", {"ground_truth": value}, "reward_model.ground_truth=") for value in (
        True, False, np.bool_(True), ["5"], {"answer": 5}, [], b"\xff", "\ud800", datetime.date(2026, 1, 1),
        nested(900), 10**5000,
    )],
    *[("reward_model", value, "reward_model=") for value in ("5", ["5"], 5, True, [])],
    *[("extra_info", value, "extra_info=") for value in ("aime-1", ["aime-1"], 5, [])],
    *[("extra_info", {"problem_id": value}, "extra_info.problem_id=") for value in (["a"], {"a": 1}, True, "\udfff")],
    *[("prompt", value, "prompt=") for value in (ABSENT, None, "What?", [], {}, 5)],
    *[("prompt", [value], "prompt[0]=") for value in ("What?", None, ["user", "What?"])],
    *[("prompt", [{"role": "user", "content": value}], "prompt[0].content=") for value in (
        5, True, {"text": "What?"}, [5], [{"type": "image", "image": "a.png"}], [{"type": "text", "text": 5}], "\ud800",
        ["What?"],
    )],
    *[("prompt", [{"role": value, "content": "What?"}], "prompt[0].role=") for value in (
        "robot", "tool", None, 1, "User",
    )],
    ("prompt", [{"content": "What?"}], "prompt[0].role: is missing"),
    ("prompt", [{"role": "assistant", "content": "What?"}], "the last message must be user's"),
    ("prompt", [{"role": "user", "content": "?"}, {"role": "system", "content": "!"}], "a system message must come"),
    *[("data_source", value, "data_source=") for value in ("", " ", None, 5, ["aime"], "\ud800")],
    *[("ability", value, "ability=") for value in (5, ["math"])],
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "named"), MALFORMED)
def test_a_malformed_row_is_refused_by_place_and_field_in_one_short_line(field: str, value: Any, named: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        checked(**{field: value})
    message = str(refusal.value)
    assert not isinstance(refusal.value, UnusableRow)
    assert message.startswith("a.parquet row 3: ")
    assert named in message or f"{named.removesuffix('=')}: is missing" in message
    assert len(message) < 300
    message.encode()  # can be printed
    assert "\n" not in message


@pytest.mark.parametrize("content", [None, "", " \n", [{"type": "text", "text": " "}]])
def test_an_empty_problem_makes_the_row_unusable(content: Any) -> None:
    with pytest.raises(UnusableRow) as refusal:
        checked(prompt=[{"role": "user", "content": content}])
    assert refusal.value.reason == NO_PROBLEM


def test_text_parts_of_a_message_are_joined_as_chat_templates_do() -> None:
    parts = [{"type": "text", "text": "What is "}, {"text": "2 + 3?", "image": None}]
    assert checked(prompt=[{"role": "user", "content": parts}]) == checked()


@pytest.mark.parametrize(("given", "kept"), [("aime-1", "aime-1"), (7, "7"), (7.0, "7"), (b"x", "x")])
def test_a_problem_id_is_text(given: Any, kept: str) -> None:
    assert checked(extra_info={"problem_id": given})["extra_info"]["problem_id"] == kept


@pytest.mark.parametrize("given", [ABSENT, None, {}, {"problem_id": None}, {"problem_id": float("nan")}])
def test_a_row_without_an_id_gets_one_of_its_text(given: Any) -> None:
    assert checked(extra_info=given) == checked()


# ---------------------------------------------------------------------- files

GOOD = '{"problem": "What is 2 + 3?", "answer": 5}'


@pytest.mark.parametrize(
    "content",
    [
        f"{GOOD}\n{GOOD}\n", f"{GOOD}\r\n{GOOD}\r\n", f"\ufeff{GOOD}\n{GOOD}", f"\n{GOOD}\n\n  \n{GOOD}\n\n",
        f"[{GOOD}, {GOOD}]", f"\ufeff \n[\n{GOOD},\n{GOOD}]\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_both_forms_of_json_are_read_whatever_the_line_ends(tmp_path: Path, content: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content.encode())
    assert [record for _, record in read_records(path)] == [json.loads(GOOD)] * 2


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0c", "\x1c"])
def test_a_line_ends_at_lf_alone(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.jsonl"
    record = {"problem": f"Two{separator}lines?", "answer": "5"}
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_records(path) == [("line 1", record)]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (f"{GOOD}\n\n{GOOD[:-1]}\n", "line 3: not JSON"), (f"{GOOD}\n[1]\n", "line 2: [1] is not an object"),
        (f"[{GOOD}, 5]", "row 1: 5 is not an object"), (GOOD + "\n" + "[" * 100_000, "line 2: not JSON"),
        ("[" * 100_000, "not a jsonl file"), (GOOD + "\n\xff".encode("latin-1").decode("latin-1"), "line 2: not JSON"),
        (f'{GOOD}\n{{"answer": {"1" * 5000}}}', "line 2: not JSON"), ("", "holds no row"), ("\n \n", "holds no row"),
        ("[]", "holds no row"), ("null", "line 1: null is not"), ('{"problem":\n"What?"}', "line 1: not JSON"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_row_is_named(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadRequest) as refusal:
        read_records(path)
    assert str(refusal.value).startswith(str(path))
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_bytes_that_are_no_text_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD.encode() + b'\n{"problem": "\xff", "answer": 5}\n')
    with pytest.raises(BadRequest, match=r"a\.jsonl line 2: not JSON"):
        read_records(path)


def test_a_column_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([["?"], ["5"], ["6"]], names=["problem", "answer", "answer"]), path)
    with pytest.raises(BadRequest, match="has the columns answer more than once"):
        read_records(path)


def test_arrow_types_of_a_table_arrive_as_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    answers = pa.array([Decimal("3.00")], pa.decimal128(5, 2))
    text = pa.array(["What?"], pa.large_string()).dictionary_encode()
    pq.write_table(pa.table({"problem": text, "answer": answers}), path)
    assert read_records(path) == [("row 0", {"problem": "What?", "answer": Decimal("3.00")})]
