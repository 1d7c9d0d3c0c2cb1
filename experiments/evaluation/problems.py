"""Which samples an evaluation consists of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq


class SampleKey(NamedTuple):
    """Names one sample of an evaluation."""

    benchmark: str
    problem_id: str
    sample_index: int


@dataclass(frozen=True)
class Benchmark:
    """Problems of one benchmark in file order, each the prepared row in verl's format."""

    name: str
    rows: tuple[dict[str, Any], ...]

    @property
    def problem_ids(self) -> tuple[str, ...]:
        return tuple(str(row["extra_info"]["problem_id"]) for row in self.rows)

    @property
    def digest(self) -> str:
        """16 hex digits that change with any problem, gold answer or their order."""
        content = [(row["extra_info"]["problem_id"], row["prompt"], row["reward_model"]) for row in self.rows]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def keys(self, k: int) -> list[SampleKey]:
        """All samples: the first of every problem, then the second of every problem and so on."""
        return [SampleKey(self.name, problem, index) for index in range(k) for problem in self.problem_ids]


def load_benchmarks(files: Iterable[Path], limit: int | None) -> list[Benchmark]:
    """The benchmarks in `files` (prepared parquet), told apart by `data_source`; `limit`: the first so many problems
    of each."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        for row in pq.read_table(file).to_pylist():
            rows.setdefault(row["data_source"], []).append(row)
    return [Benchmark(name, tuple(found[:limit])) for name, found in rows.items()]


def parse_shard(text: object) -> tuple[int, int] | None:
    """`(i, n)` of `"i/n"`; None for `merge`.

    Raises:
        ValueError: it is neither, or i is not in 0..n-1.
    """
    if text == "merge":
        return None
    found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", str(text))
    if found and int(found[1]) < int(found[2]):
        return int(found[1]), int(found[2])
    raise ValueError("must be merge or i/n with i from 0 to n-1, for example 0/4")


def own_part(keys: Sequence[SampleKey], shard: int, shards: int) -> list[SampleKey]:
    """Every `shards`-th key from the `shard`-th on: parts do not overlap and together are all."""
    return list(keys[shard::shards])


def agent_loop_row(row: Mapping[str, Any], index: int) -> dict[str, Any]:
    """A prepared row as verl's dataset hands it to an agent loop."""
    return {
        "raw_prompt": row["prompt"],
        "data_source": row["data_source"],
        "reward_model": row["reward_model"],
        "extra_info": row["extra_info"],
        "index": index,
    }
