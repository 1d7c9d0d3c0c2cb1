"""Training and benchmark files: named files exist, prepared ones hold a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, ListConfig


def request_problems(config: DictConfig) -> Iterator[str]:
    """Files, folders and names of the catalogue that are not there. What comes from a hub is fetched later."""
    catalog = [name for name, entry in (config.get("data_catalog") or {}).items() if isinstance(entry, DictConfig)]
    for split in ("train", "test"):
        for item in _named(config.dataset_spec.get(split)):
            if item not in catalog and not Path(item).expanduser().exists():
                yield (
                    f"dataset_spec.{split}={item}: no such file or folder, and no name of the catalogue "
                    f"({', '.join(catalog)}); correct it"
                )


def _named(given: object) -> list[str]:
    items = given.split(",") if isinstance(given, str) else given if isinstance(given, list | ListConfig) else []
    return [item.strip() for item in items if isinstance(item, str) and item.strip()]


def file_problems(config: DictConfig) -> Iterator[str]:
    """Prepared files that do not hold one batch."""
    import pyarrow.parquet as pq

    rows = sum(pq.read_metadata(path).num_rows for path in config.data.train_files)
    if rows < config.data.train_batch_size:
        yield (
            f"data.train_batch_size={config.data.train_batch_size}: the training data has {rows} problems; "
            "use at most as many"
        )
