"""Training and benchmark files: named files exist, prepared ones hold a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, ListConfig


def request_problems(config: DictConfig) -> Iterator[str]:
    """Files and folders that the data set names and that are not there. What comes from a hub is fetched later."""
    for split in ("train", "test"):
        for item in _named(config.dataset_spec.get(split)):
            path = Path(item).expanduser()
            if (path.is_absolute() or "/" in item or path.suffix) and not path.exists():
                yield f"dataset_spec.{split}={item}: no such file or folder; correct the path"


def _named(given: object) -> list[str]:
    items = list(given) if isinstance(given, list | ListConfig) else [given]
    return [item for item in items if isinstance(item, str)]


def file_problems(config: DictConfig) -> Iterator[str]:
    """Prepared files that do not hold one batch."""
    import pyarrow.parquet as pq

    rows = sum(pq.read_metadata(path).num_rows for path in config.data.train_files)
    if rows < config.data.train_batch_size:
        yield (
            f"data.train_batch_size={config.data.train_batch_size}: the training data has {rows} problems; "
            "use at most as many"
        )
