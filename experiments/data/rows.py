"""One problem as a row in verl's format, from verl's own columns or from those of a data set's home."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from ctpo.records.shapes import Part, lines, shown
from experiments.errors import BadRequest

NO_PROBLEM, NO_ANSWER = "no problem text", "no reference answer"


class UnusableRow(BadRequest):
    """A row that is well formed but holds no problem or no answer; `reason` is one of the constants above."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


# ---------------------------------------------------------------------- the shape of a row


def _text(value: Any) -> Any:
    """Text as it is; bytes, as some tables hold it, as the text that they encode. Raises ValueError for half a
    character."""
    if isinstance(value, str):
        value.encode()
    return value.decode() if isinstance(value, bytes) else value


def _written(value: Any) -> Any:
    """Text, and a number as it is written: 70 and 70.0 are both "70". What stands for nothing (null, NaN, an infinity)
    is None."""
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else str(value)


def _answer(value: Any) -> Any:
    value = _written(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise PydanticCustomError(NO_ANSWER, "must be a non-empty text; give the reference answer")
    return value


def _content(value: Any) -> Any:
    """A message's text. A list of parts is put together as chat templates do it; only text parts have any."""
    value = _text(value)
    if isinstance(value, list) and value and all(isinstance(part, dict) and "text" in part for part in value):
        parts = [_text(part["text"]) for part in value]
        value = "".join(parts) if all(isinstance(part, str) for part in parts) else value
    if value is None or (isinstance(value, str) and not value.strip()):
        raise PydanticCustomError(NO_PROBLEM, "must be a non-empty text; give the message's text")
    return value


def _null_is_empty(value: Any) -> Any:
    return {} if value is None else value


class Message(Part):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_content)]


def _in_turn(messages: list[Message]) -> list[Message]:
    roles = [turn.role for turn in messages]
    if "system" in roles[1:]:
        raise ValueError("a system message must come first")
    if roles[-1] != "user":
        raise ValueError("the last message must be user's")
    return messages


class Reward(Part):
    ground_truth: Annotated[str, BeforeValidator(_answer)] = Field(None, validate_default=True)
    style: str | None = None


class Extra(Part):
    problem_id: Annotated[str | None, BeforeValidator(_written)] = None


class Row(Part):
    """What this project reads of a row in verl's format; other columns are left out."""

    data_source: Annotated[str, BeforeValidator(_text), Field(min_length=1, pattern=r"\S")]
    prompt: Annotated[list[Message], Field(min_length=1), AfterValidator(_in_turn)]
    ability: Annotated[str | None, BeforeValidator(_text)] = None
    reward_model: Annotated[Reward, BeforeValidator(_null_is_empty)] = Field(None, validate_default=True)
    extra_info: Annotated[Extra, BeforeValidator(_null_is_empty)] = Field(None, validate_default=True)


# ---------------------------------------------------------------------- rows


def verl_row(
    record: Mapping[str, Any], columns: Mapping[str, str], name: str | None, label: str, where: str
) -> dict[str, Any]:
    """`record` in verl's columns, whichever of the two forms it comes in.

    Args:
        record: a row with verl's `prompt` and `reward_model`, or with the columns that `columns` names.
        columns: names of the columns `problem` and `answer`; other columns (a worked solution) are not read.
        name: overrides the row's own name of where it comes from, if given.
        label: that name for a row that has none.
        where: file and row, for messages.

    Raises:
        BadRequest: neither form. A row without its answer is one of the second.
    """
    if "prompt" in record:
        return {**record, "data_source": name or record.get("data_source")}
    if columns["problem"] not in record:
        raise BadRequest(
            f"{where}: has neither verl's column prompt nor {' and '.join(columns.values())} (columns: "
            f"{', '.join(map(shown, record))}); correct data_catalog.<name>.columns or convert the file to verl's "
            "format"
        )
    return {
        "data_source": name or label,
        "prompt": [{"role": "user", "content": record[columns["problem"]]}],
        "reward_model": {"ground_truth": record.get(columns["answer"])},
    }


def checked_row(row: Mapping[str, Any], where: str, index: int, split: str, system_prompt: str) -> dict[str, Any]:
    """One row in verl's format as every part of this project expects it.

    Puts `system_prompt` first if the row has no system message, and gives the problem an id (a hash of its
    text) if it has none. Columns that nothing reads are dropped, so that files of any origin go together.

    Raises:
        UnusableRow: the problem or the reference answer is empty, and nothing else is wrong.
        BadRequest: the row is malformed. Both name `where`, the field and the fix.
    """
    try:
        given = Row.model_validate(row)
    except ValidationError as error:
        reasons = [each["type"] for each in error.errors()]
        message = f"{where}: {lines(Row, error)[0]}"
        if set(reasons) <= {NO_PROBLEM, NO_ANSWER}:
            raise UnusableRow(message, reasons[0]) from error
        raise BadRequest(message) from error
    messages = [turn.model_dump() for turn in given.prompt]
    asked = "\n".join(turn["content"] for turn in messages if turn["role"] != "system")
    if messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    return {
        "data_source": benchmark_name(given.data_source),
        "prompt": messages,
        "ability": given.ability or "math",
        "reward_model": {"ground_truth": given.reward_model.ground_truth, "style": given.reward_model.style or "rule"},
        "extra_info": {
            "index": index,
            "split": split,
            "problem_id": given.extra_info.problem_id or hashlib.sha256(asked.encode()).hexdigest()[:16],
        },
    }


def asked_text(row: Mapping[str, Any]) -> str:
    """The problem as the user puts it, without the system prompt."""
    return "\n".join(turn["content"] for turn in row["prompt"] if turn["role"] != "system")


def benchmark_name(data_source: str) -> str:
    """`data_source` as a folder name of `samples/`: other characters than letters, digits, '.', '_', '-' become
    '-', and 64 are kept."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", data_source).lstrip("._-")[:64] or "unnamed"
