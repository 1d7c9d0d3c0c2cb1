"""Evaluated samples: one parquet file per benchmark and step, one row per sample."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpo.records.files import RecordError, write_whole

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
_CASTS = {"int64": int, "float64": float, "string": str}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_benchmark(name: str) -> str:
    """`name`, if it can be a folder.

    Raises:
        RecordError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise RecordError(f"benchmark: {name!r} must consist of letters, digits, '.', '_' and '-'")
    return name


def _column(field: str, kind: str, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    values = []
    for index, row in enumerate(rows):
        if field not in row:
            raise RecordError(f"samples row {index}: {field} is missing; a row needs {', '.join(SAMPLE_FIELDS)}")
        value = row[field]
        try:
            missing = value is None or (isinstance(value, float) and math.isnan(value) and kind != "float64")
            values.append(None if missing else _CASTS[kind](value))
        except (TypeError, ValueError):
            raise RecordError(f"samples row {index}: {field}={value!r} is not a {kind}") from None
    return values


def write_samples(path: Path, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes `rows` (mappings with `SAMPLE_FIELDS`; `step` may be left out) to the parquet file `path`.

    Raises:
        RecordError: no rows, a missing or unknown column, a value of another type, or a sample given twice.
    """
    import pyarrow
    import pyarrow.parquet

    table = [{**row, "step": step} for row in rows]
    if not table:
        raise RecordError(f"samples: no rows for step {step}; an evaluation without samples is not recorded")
    unknown = sorted(set().union(*table) - SAMPLE_FIELDS.keys())
    if unknown:
        raise RecordError(f"samples: unknown column {unknown[0]!r}; columns are {', '.join(SAMPLE_FIELDS)}")
    columns = {field: _column(field, kind, table) for field, kind in SAMPLE_FIELDS.items()}
    keys = list(zip(columns["problem_id"], columns["sample_index"], strict=True))
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RecordError(f"samples: problem_id={twice[0]!r} sample_index={twice[1]} is given twice in step {step}")
    schema = pyarrow.schema([(field, pyarrow.type_for_alias(kind)) for field, kind in SAMPLE_FIELDS.items()])
    arrow = pyarrow.table(columns, schema=schema)
    write_whole(path, lambda file: pyarrow.parquet.write_table(arrow, file, compression="zstd"))
