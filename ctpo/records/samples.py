"""Evaluated samples: one parquet file per benchmark and step, one row per sample."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ctpo.records.files import RecordError, content_of, in_words, write_whole
from ctpo.records.schema import SAMPLE_ROW
from ctpo.records.steps import step_of

if TYPE_CHECKING:
    import pandas as pd

#: Name and arrow type of each column, in file order.
SAMPLE_FIELDS = {
    "step": "int64",
    "problem_id": "string",
    "sample_index": "int64",
    "score": "float64",
    "answer": "string",
    "model_tokens": "int64",
    "turns": "int64",
    "tool_calls": "int64",
    "tool_failures": "int64",
    "finish_reason": "string",
    "wall_s": "float64",
}
_MAY_BE_NULL = ("answer", "finish_reason")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_benchmark(name: str) -> str:
    """`name`, if it can be a folder.

    Raises:
        RecordError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise RecordError(f"benchmark: {name!r} must consist of letters, digits, '.', '_' and '-'")
    return name


def write_samples(path: Path, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes `rows` (mappings with `SAMPLE_FIELDS`; `step` may be left out) to the parquet file `path`.

    Raises:
        RecordError: no rows, a missing or unknown column, a value out of range, or a sample given twice.
    """
    import pyarrow
    import pyarrow.parquet

    table = [{**row, "step": step} for row in rows]
    if not table:
        raise RecordError(f"samples: no rows for step {step}; an evaluation without samples is not recorded")
    seen: set[tuple[str, int]] = set()
    for number, row in enumerate(table):
        try:
            table[number] = row = SAMPLE_ROW.validate_python(row)
        except ValidationError as error:
            raise RecordError(f"samples row {number}: {in_words(error)}; fields: {', '.join(SAMPLE_FIELDS)}") from None
        key = row["problem_id"], row["sample_index"]
        if key in seen:
            raise RecordError(f"samples: problem_id={key[0]!r} sample_index={key[1]} is given twice in step {step}")
        seen.add(key)
    arrow = pyarrow.Table.from_pylist(table, schema=_schema())
    write_whole(path, lambda file: pyarrow.parquet.write_table(arrow, file, compression="zstd"))


def read_samples(path: Path) -> pd.DataFrame:
    """Columns `SAMPLE_FIELDS`, one row per sample.

    Raises:
        RecordError: the file is no samples file, is of another step than its name says, or its values cannot be.
    """
    import pyarrow.parquet

    content = content_of(path)
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except Exception as error:  # pyarrow raises many kinds
        raise RecordError(f"{path}: not a samples file ({type(error).__name__})") from None
    # pandas writes strings as `large_string`.
    columns = [(column.name, str(column.type).removeprefix("large_")) for column in table.schema]
    if columns != [(column.name, str(column.type)) for column in _schema()]:
        raise RecordError(f"{path}: columns are {dict(columns)}, not {SAMPLE_FIELDS}")
    frame: pd.DataFrame = table.to_pandas()
    if problem := _defect(frame, step_of(path)):
        raise RecordError(f"{path}: {problem}")
    return frame


def _defect(frame: pd.DataFrame, step: int | None) -> str:
    if frame.empty:
        return "no samples"
    for name in SAMPLE_FIELDS:
        missing = int(frame[name].isna().sum())
        if missing and name not in _MAY_BE_NULL:
            return f"{missing} of {len(frame)} values of {name} are missing or NaN"
    wrong = ~frame["score"].between(0, 1)
    if wrong.any():
        first = frame["score"][wrong].iloc[0]
        return f"{int(wrong.sum())} of {len(frame)} scores are not between 0 and 1, the first is {first}"
    for name, kind in SAMPLE_FIELDS.items():
        if kind != "string" and (frame[name] < 0).any():
            return f"{name} is negative in {int((frame[name] < 0).sum())} of {len(frame)} samples"
    if (frame["step"] != step).any():
        return f"holds samples of step {frame['step'][frame['step'] != step].iloc[0]}"
    twice = int(frame.duplicated(["problem_id", "sample_index"]).sum())
    return f"has {twice} samples twice" if twice else ""


def _schema() -> Any:
    import pyarrow

    return pyarrow.schema([(field, pyarrow.type_for_alias(kind)) for field, kind in SAMPLE_FIELDS.items()])
