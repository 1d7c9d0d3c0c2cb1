"""From sources to checked parquet files in verl's format with their data card, each written whole or not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ctpo.records.shapes import shown
from experiments.data import card
from experiments.data.files import read_records
from experiments.data.golds import unreadable
from experiments.data.lengths import PromptLengths
from experiments.data.overlap import find_overlaps, wording
from experiments.data.rows import UnusableRow, asked_text, checked_row, verl_row
from experiments.data.sources import Source
from experiments.errors import BadRequest
from experiments.specs import Checks
from experiments.tiny.cache import cached

VERSION = 5
"""Raise it with any change that changes a prepared byte, so that prepared files are written anew."""

DUPLICATE, UNREADABLE, OVERLAP = "the same problem as another row", "unreadable reference answer", "in a benchmark"


def prepare_training(
    train: Sequence[Source], test: Sequence[Source], system_prompt: str, checks: Checks, lengths: PromptLengths
) -> tuple[list[Path], list[Path]]:
    """Files of the training sources, freed of the overlap with the test sources, and of the test sources.

    Raises BadRequest.
    """
    benchmarks = [prepare_benchmark(source, system_prompt, lengths) for source in test]
    settings = {
        "version": VERSION,
        "split": "train",
        "system_prompt": system_prompt,
        "checks": checks.model_dump(),
        "sources": [source.fingerprint() for source in train],
        "against": [path.parent.name for path in benchmarks],
        "lengths": lengths.fingerprint(),
    }

    def build(folder: Path) -> None:
        facts = card.Facts(lengths)
        kept: list[dict[str, Any]] = []
        seen: dict[Any, tuple[int, str]] = {}
        for source in train:
            kept += _rows(source, "train", system_prompt, facts, seen, drop=checks.unusable == "drop")
        bad = unreadable([row["reward_model"]["ground_truth"] for row in kept], "training answers")
        if bad and checks.unusable == "refuse":
            raise BadRequest(_unreadable_message(kept[min(bad)]))
        for index in bad:
            facts.drop(kept[index], UNREADABLE)
        kept = [row for index, row in enumerate(kept) if index not in bad]
        kept = _without_overlap(kept, benchmarks, checks, facts)
        if not kept:
            raise BadRequest(f"dataset_spec.train={[s.label for s in train]}: the checks leave no row; see {checks}")
        for index, row in enumerate(kept):
            row["extra_info"]["index"] = index
        _write(folder, "train", kept, [source.origin for source in train], facts)

    name = train[0].label
    return [cached("datasets", f"{name}-train", settings, build) / "train.parquet"], benchmarks


def prepare_benchmark(source: Source, system_prompt: str, lengths: PromptLengths) -> Path:
    """The file of one benchmark. Raises BadRequest."""
    settings = {
        "version": VERSION,
        "split": "test",
        "system_prompt": system_prompt,
        "sources": [source.fingerprint()],
        "lengths": lengths.fingerprint(),
    }

    def build(folder: Path) -> None:
        facts = card.Facts(lengths)
        rows = _rows(source, "test", system_prompt, facts, {}, drop=False)
        for index in unreadable([row["reward_model"]["ground_truth"] for row in rows], source.label):
            facts.note(rows[index], UNREADABLE)
        _write(folder, source.label, rows, [source.origin], facts)
        _refuse_long_prompts(folder, source.label, lengths.limit)

    return cached("datasets", f"{source.label}-test", settings, build) / f"{source.label}.parquet"


def _refuse_long_prompts(folder: Path, label: str, limit: int) -> None:
    """verl would drop them from the evaluations of training without a word, and avg@k would be of other problems."""
    counted = json.loads((folder / card.CARD_JSON).read_text())["prompt_tokens"]
    if counted and counted["over_limit"]:
        raise BadRequest(
            f"data.max_prompt_length={limit}: {counted['over_limit']} problems of {label} have more tokens, up to "
            f"{counted['max']}; use at least that many"
        )


def _rows(
    source: Source,
    split: str,
    system_prompt: str,
    facts: card.Facts,
    seen: dict[Any, tuple[int, str]],
    drop: bool,
) -> list[dict[str, Any]]:
    """All rows of a source, checked one by one and against each other."""
    records = [(f"{path} {place}", record) for path in source.files for place, record in read_records(path)]
    if not any("prompt" in record or source.columns["answer"] in record for _, record in records):
        raise BadRequest(
            f"{records[0][0]}: no row has {source.columns['answer']} or verl's columns (columns: "
            f"{', '.join(map(shown, records[0][1]))}); correct data_catalog.<name>.columns or convert the file to "
            "verl's format"
        )
    if source.rows is not None and len(records) != source.rows:
        raise BadRequest(
            f"{source.files[0]}: {len(records)} rows, but data_catalog.{source.name}.rows={source.rows}: "
            "half a file or another edition; get it again, or correct the number if it was published anew"
        )
    kept: list[dict[str, Any]] = []
    for where, record in tqdm(records, desc=f"checking {source.label}", disable=len(records) < 5000, leave=False):
        facts.read += 1
        try:
            given = verl_row(record, source.columns, source.name, source.label, where)
            row = checked_row(given, where, len(kept), split, system_prompt)
        except UnusableRow as error:
            if not drop:
                raise
            facts.drop(given, error.reason, where)
            continue
        twin = _twin(row, source.label, seen, where)
        if twin and not drop:
            raise BadRequest(f"{where}: the same problem (or problem_id) as {twin}; remove one of them")
        if twin:
            facts.drop(row, DUPLICATE, f"{where}, as {twin}")
            continue
        kept.append(row)
    return kept


def _twin(row: Mapping[str, Any], label: str, seen: dict[Any, tuple[int, str]], where: str) -> str | None:
    """Where the same problem stood before, if it did: the same text, or the same number in the same source."""
    gold = row["reward_model"]["ground_truth"].strip()
    for key in ((label, row["extra_info"]["problem_id"]), wording(asked_text(row))):
        before = seen.setdefault(key, (gold, where))
        if before[1] != where:
            return before[1] + ("" if before[0] == gold else f" (whose answer is {before[0]!r:.60}, not {gold!r:.60})")
    return None


def _without_overlap(
    rows: list[dict[str, Any]], benchmarks: Sequence[Path], checks: Checks, facts: card.Facts
) -> list[dict[str, Any]]:
    held = [(path.stem, row) for path in benchmarks for row in pq.read_table(path).to_pylist()]
    found = find_overlaps(
        tqdm((asked_text(row) for row in rows), total=len(rows), desc="overlap with benchmarks",
             disable=len(rows) < 5000, leave=False),
        [asked_text(row) for _, row in held],
        checks.overlap_ngram,
        checks.overlap_share,
    )  # fmt: skip
    for overlap in found:
        name, row = held[overlap.test_index]
        how = "the same text" if overlap.exact else f"{overlap.share:.0%} of {checks.overlap_ngram}-grams"
        detail = f"{name} problem {row['extra_info']['index']} ({row['extra_info']['problem_id']}), {how}"
        (facts.drop if checks.overlap == "drop" else facts.note)(rows[overlap.train_index], OVERLAP, detail)
    if found:
        verb = "dropped" if checks.overlap == "drop" else "found (and kept)"
        print(f"overlap: {verb} {len(found)} training problems that are in a benchmark; see the card", file=sys.stderr)
    gone = {overlap.train_index for overlap in found} if checks.overlap == "drop" else set()
    return [row for index, row in enumerate(rows) if index not in gone]


def _unreadable_message(row: Mapping[str, Any]) -> str:
    gold, number = row["reward_model"]["ground_truth"], row["extra_info"]["problem_id"]
    return f"problem {number}: reward_model.ground_truth={gold!r:.80} cannot be read as an answer; correct it"


def _write(
    folder: Path, name: str, rows: list[dict[str, Any]], origins: Sequence[Mapping[str, str]], facts: card.Facts
) -> None:
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    card.write(folder, name, rows, origins, facts)
