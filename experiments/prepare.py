"""Put a run's model and data on disk: ``python experiments/prepare.py [--model M] [--dataset D]``.

Finished parts are found again in the cache (`CTPO_CACHE`, else `.cache/` in the project).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from ctpo.tir.prompts import SYSTEM_PROMPTS
from experiments import resolvers
from experiments.tiny.cache import cached

T = TypeVar("T")

ROWS_VERSION = 2
"""Raise it with any change to `checked_row`, so that prepared files are written anew."""


class PrepareError(ValueError):
    """What was asked for is missing or malformed; the message names the field, the value and the fix."""


@dataclass(frozen=True)
class DatasetPaths:
    """Parquet files in verl's format, for `data.train_files` and `data.val_files`."""

    train: tuple[Path, ...]
    test: tuple[Path, ...]


def prepare_model(cfg: DictConfig) -> Path:
    """The model folder (Hugging Face format) that `cfg.model_spec` describes, built if need be.

    Raises PrepareError.
    """
    return _dispatch(cfg, "model_spec", {"tiny": _tiny_model, "folder": _model_folder})


def prepare_dataset(cfg: DictConfig) -> DatasetPaths:
    """The data files that `cfg.dataset_spec` describes, built if need be; rows from outside are all checked.

    Raises PrepareError.
    """
    return _dispatch(cfg, "dataset_spec", {"arithmetic": _arithmetic, "parquet": _parquet})


def _dispatch(cfg: DictConfig, field: str, kinds: Mapping[str, Callable[[dict[str, Any]], T]]) -> T:
    node = OmegaConf.select(cfg, field)
    if node is None:
        raise PrepareError(f"{field} is missing: give {field}.kind, one of {', '.join(kinds)}")
    spec: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    kind = spec.pop("kind", None)
    if kind not in kinds:
        raise PrepareError(f"{field}.kind={kind}: use one of {', '.join(kinds)}")
    try:
        return kinds[kind](spec)
    except PrepareError:
        raise
    except ValueError as error:
        raise PrepareError(str(error)) from error


def _tiny_model(spec: dict[str, Any]) -> Path:
    from experiments.tiny.build import tiny_model
    from experiments.tiny.demonstrations import Quality
    from experiments.tiny.model import TinyModelSpec

    quality = _known_fields(Quality, spec.pop("quality", {}), "model_spec.quality")
    return tiny_model(TinyModelSpec(**_known_fields(TinyModelSpec, spec, "model_spec"), quality=Quality(**quality)))


def _arithmetic(spec: dict[str, Any]) -> DatasetPaths:
    from experiments.tiny.build import ArithmeticSpec, arithmetic_dataset

    train, test = arithmetic_dataset(ArithmeticSpec(**_known_fields(ArithmeticSpec, spec, "dataset_spec")))
    return DatasetPaths((train,), (test,))


def _known_fields(spec_class: type, given: dict[str, Any], field: str) -> dict[str, Any]:
    known = {item.name: item.type for item in fields(spec_class)}
    for name, value in given.items():
        if name not in known:
            raise PrepareError(f"{field}.{name}={value}: no such field; there are {', '.join(known)}")
        wanted = (int, float) if known[name] == "float" else int
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise PrepareError(f"{field}.{name}={value!r}: give a number of type {known[name]}")
    return given


def _model_folder(spec: dict[str, Any]) -> Path:
    hub_id, given = spec.get("hub_id"), spec.get("path")
    get = f"run `hf download {hub_id} --local-dir DIR`, then set model_spec.path=DIR"
    if not given:
        raise PrepareError(f"model_spec.path is not set: {get}; or use model=tiny")
    folder = Path(given).expanduser().resolve()
    if not folder.is_dir():
        raise PrepareError(f"model_spec.path={given}: no such folder; {get}")
    wanted = {"config.json": "config.json", "tokenizer": "tokenizer*.json", "weights": "*.safetensors"}
    for what, pattern in wanted.items():
        if not any(folder.glob(pattern)):
            raise PrepareError(f"model_spec.path={given}: has no {what} ({pattern}); {get}")
    return folder


def _parquet(spec: dict[str, Any]) -> DatasetPaths:
    name = spec.get("system_prompt", "math")
    if name not in SYSTEM_PROMPTS:
        raise PrepareError(f"dataset_spec.system_prompt={name}: use one of {', '.join(SYSTEM_PROMPTS)}")
    return DatasetPaths(
        *(
            tuple(
                _checked_copy(path, split, SYSTEM_PROMPTS[name])
                for path in _parquet_files(spec.get(split), f"dataset_spec.{split}", spec.get("hub_id"))
            )
            for split in ("train", "test")
        )
    )


def _parquet_files(given: str | list[str] | None, field: str, hub_id: str | None) -> list[Path]:
    if not given:
        source = f" (made from {hub_id})" if hub_id else ""
        raise PrepareError(
            f"{field} is not set: name a parquet file or a folder of them in verl's format{source}; "
            "or use model=tiny dataset=arithmetic"
        )
    found: list[Path] = []
    for item in [given] if isinstance(given, str) else given:
        path = Path(item).expanduser().resolve()
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise PrepareError(f"{field}={item}: no parquet file there; correct the path")
        found += files
    return found


def _checked_copy(path: Path, split: str, system_prompt: str) -> Path:
    settings = {
        "rows": ROWS_VERSION,
        "content": hashlib.sha256(path.read_bytes()).hexdigest(),
        "split": split,
        "system_prompt": system_prompt,
    }

    def build(folder: Path) -> None:
        try:
            rows = pq.read_table(path).to_pylist()
        except pa.ArrowException as error:
            raise PrepareError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from error
        if not rows:
            raise PrepareError(f"{path}: holds no row; write at least one problem to it")
        checked = [checked_row(row, f"{path} row {i}", i, split, system_prompt) for i, row in enumerate(rows)]
        _refuse_duplicates(checked, path)
        pq.write_table(pa.Table.from_pylist(checked), folder / path.name)

    return cached("datasets", path.stem, settings, build) / path.name


def _refuse_duplicates(rows: list[dict[str, Any]], path: Path) -> None:
    seen: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        key = (row["data_source"], row["extra_info"]["problem_id"])
        if key in seen:
            raise PrepareError(
                f"{path} row {i}: the same problem (or problem_id) as row {seen[key]}; remove one of them"
            )
        seen[key] = i


def checked_row(row: Mapping[str, Any], where: str, index: int, split: str, system_prompt: str) -> dict[str, Any]:
    """One row in verl's format as every part of this project expects it.

    Puts `system_prompt` first if the row has no system message, and gives the problem an id (a hash of its
    text) if it has none. Columns that nothing reads are dropped, so that files of any origin go together.

    Raises PrepareError naming `where`, the field and the fix.
    """

    def text(value: Any, field: str, fix: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise PrepareError(f"{where}: {field}={value!r:.80} must be a non-empty text; {fix}")
        return value

    prompt = row.get("prompt")
    if not isinstance(prompt, list) or not prompt or not all(isinstance(turn, dict) for turn in prompt):
        raise PrepareError(f"{where}: prompt={prompt!r:.80} must be a list of {{role, content}} messages")
    messages = []
    for i, turn in enumerate(prompt):
        role = turn.get("role")
        if role not in ("system", "user", "assistant") or (role == "system" and i):
            raise PrepareError(f"{where}: prompt[{i}].role={role!r}: use an optional system, then user messages")
        content = text(turn.get("content"), f"prompt[{i}].content", "give the message's text")
        messages.append({"role": role, "content": content})
    if messages[-1]["role"] != "user":
        raise PrepareError(f"{where}: prompt[-1].role={messages[-1]['role']!r}: the last message must be user's")
    asked = "\n".join(turn["content"] for turn in messages if turn["role"] != "system")
    if messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})

    reward_model, extra = row.get("reward_model") or {}, row.get("extra_info") or {}
    truth = text(reward_model.get("ground_truth"), "reward_model.ground_truth", "give the reference answer")
    return {
        "data_source": benchmark_name(text(row.get("data_source"), "data_source", "name where the problem comes from")),
        "prompt": messages,
        "ability": row.get("ability") or "math",
        "reward_model": {"ground_truth": truth, "style": reward_model.get("style") or "rule"},
        "extra_info": {
            "index": index,
            "split": split,
            "problem_id": extra.get("problem_id") or hashlib.sha256(asked.encode()).hexdigest()[:16],
        },
    }


def benchmark_name(data_source: str) -> str:
    """`data_source` as a folder name of `samples/`: other characters than letters, digits, '.', '_', '-' become '-'."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", data_source).lstrip("._-") or "unnamed"


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 if everything is there at the end."""
    parser = argparse.ArgumentParser(prog="experiments/prepare.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="config group experiments/configs/model (default: tiny)")
    parser.add_argument("--dataset", help="config group experiments/configs/dataset (default: the model's)")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. dataset_spec.test_size=256")
    options = parser.parse_args(arguments)
    try:
        cfg = _compose(options.model, options.dataset, options.overrides)
        print(f"preparing model={options.model} and its data ...", flush=True)
        data = prepare_dataset(cfg)
        for split in ("train", "test"):
            for path in getattr(data, split):
                print(f"{split + ' data:':12s}{path} ({pq.read_metadata(path).num_rows} problems)", flush=True)
        model = prepare_model(cfg)
    except PrepareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"ready: {model}")
    return 0


def _compose(model: str, dataset: str | None, overrides: list[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    resolvers.register()
    groups = [f"model={model}", *([f"dataset={dataset}"] if dataset else [])]
    try:
        with initialize_config_dir(str(Path(__file__).parent / "configs"), version_base="1.3"):
            return compose("run", overrides=[*groups, *overrides])
    except HydraException as error:
        # Hydra's message goes on with a long search path.
        raise PrepareError(" ".join(str(error).split("Config search path")[0].split())) from error


if __name__ == "__main__":
    sys.exit(main())
