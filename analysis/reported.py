"""The numbers that the paper reports, as data: shown beside ours, never mixed with them."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "results" / "paper" / "reported.csv"
FIELDS = ("model", "method", "benchmark", "metric", "value", "source", "retrieved", "note")


@dataclass(frozen=True)
class Reported:
    """One cell of the paper. `value` is NaN where it could not be recovered; `note` says why."""

    model: str
    method: str
    benchmark: str
    metric: str
    value: float
    source: str
    retrieved: str
    note: str


def load_reported(path: Path = FILE) -> list[Reported]:
    """All cells.

    Raises:
        ValueError: a column is missing or a value is no number; names the line.
    """
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise ValueError(f"{path.name}: columns must be {', '.join(FIELDS)}")
        return [_cell(row, reader.line_num, path.name) for row in reader]


def _cell(row: dict[str, str], line: int, name: str) -> Reported:
    text = row.pop("value")
    try:
        value = float(text) if text else math.nan
    except ValueError:
        raise ValueError(f"{name} line {line}: value {text!r} is no number; leave it empty if unknown") from None
    if math.isnan(value) and not row["note"]:
        raise ValueError(f"{name} line {line}: an empty value needs a note that says why")
    return Reported(value=value, **row)
