"""Training and benchmark files: named files exist, prepared ones hold a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from omegaconf import DictConfig

from experiments.data.sources import Source, find_here
from experiments.errors import BadRequest
from experiments.specs import catalog_of, spec_of, unset
from experiments.tiny.spec import ArithmeticSpec


def request_problems(config: DictConfig) -> Iterator[str]:
    """What `dataset_spec` and `data_catalog` name and cannot be, is not here, or holds less than a batch. What comes
    from a hub is fetched later."""
    try:
        spec, catalog = spec_of(config, "dataset_spec"), catalog_of(config)
    except BadRequest as error:
        yield from error.args
        return
    evaluates = "evaluation" in config
    if isinstance(spec, ArithmeticSpec):
        if not evaluates:
            yield from _less_than_a_batch(config, spec.train_size, "dataset_spec.train_size")
        return
    rows: int | None = 0
    for split, given in (("train", [] if evaluates else spec.train), ("test", spec.test)):
        if not given and not evaluates:
            yield unset(split)
        for name in given:
            try:
                found = find_here(name, catalog, f"dataset_spec.{split}")
            except BadRequest as error:
                yield str(error)
                return
            if split == "train":
                rows = None if found is None or rows is None else rows + sum(map(_at_most, found))
    if rows is not None and spec.train and not evaluates:
        yield from _less_than_a_batch(config, rows, "the training data")


def _at_most(source: Source) -> int:
    """Rows of a source's files, or more, without reading a text whole: a row takes at least 4 bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = 0
    for path in source.files:
        with contextlib.suppress(pa.ArrowException, OSError):  # `prepare` says what is wrong with such a file
            total += pq.read_metadata(path).num_rows if path.suffix == ".parquet" else path.stat().st_size // 4
    return total


def _less_than_a_batch(config: DictConfig, rows: int, what: str) -> Iterator[str]:
    batch = config.data.train_batch_size
    if rows < batch:
        yield f"data.train_batch_size={batch}: {what} has {rows} problems; use at most as many"


def file_problems(config: DictConfig) -> Iterator[str]:
    """Prepared files that do not hold one batch."""
    import pyarrow.parquet as pq

    rows = sum(pq.read_metadata(path).num_rows for path in config.data.train_files)
    yield from _less_than_a_batch(config, rows, "the training data")
