"""Put a run's model and data on disk: ``python experiments/prepare.py [--model M] [--dataset D]``.

Finished parts are found again in the cache (`CTPO_CACHE`, else `.cache/` in the project).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

try:
    from experiments import command
except ModuleNotFoundError as missing:
    sys.exit(f"error: {sys.executable}: {missing}; run `make setup` once and start this with .venv/bin/python")
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from ctpo.tir.prompts import SYSTEM_PROMPTS
from experiments.compose import composed
from experiments.data import hub
from experiments.data.card import CARD_TEXT
from experiments.data.errors import PrepareError
from experiments.data.lengths import PromptLengths
from experiments.data.sources import Source, find

T = TypeVar("T")

ARITHMETIC = "arithmetic"


@dataclass(frozen=True)
class DatasetPaths:
    """Parquet files in verl's format, for `data.train_files` and `data.val_files`."""

    train: tuple[Path, ...]
    test: tuple[Path, ...]


def prepare_model(config: DictConfig) -> Path:
    """The model folder (Hugging Face format) that `config.model_spec` describes, built if need be.

    Raises PrepareError.
    """
    return _dispatch(config, "model_spec", {"tiny": _tiny_model, "folder": _model_folder})


def prepare_dataset(config: DictConfig) -> DatasetPaths:
    """The data files that `config.dataset_spec` describes, built if need be; rows from outside are all checked.

    Raises PrepareError.
    """
    kinds: dict[str, Callable[[dict[str, Any]], DatasetPaths]] = {
        ARITHMETIC: _arithmetic,
        "problems": partial(_problems, config),
    }
    return _dispatch(config, "dataset_spec", kinds)


def prepare_benchmarks(config: DictConfig, names: Sequence[str]) -> dict[str, Path]:
    """One checked file per benchmark, in verl's format, in the order of `names`.

    Args:
        config: a composed configuration (`data_catalog`; the tokenizer for the data card, if its model is here).
        names: entries of `data_catalog`; `arithmetic`, the tiny task's held-out problems; or paths of files or of
            folders of files, each called by its stem in the result.

    Raises:
        PrepareError: no such benchmark, or its file is not whole and in order.
    """
    from experiments.data.problem_sets import prepare_benchmark

    catalog = _catalog(config)
    spec = _plain(OmegaConf.select(config, "dataset_spec"))
    prepared: dict[str, Path] = {}
    for name in names:
        if name == ARITHMETIC:
            own = {k: v for k, v in spec.items() if k != "kind"} if spec.get("kind") == ARITHMETIC else {}
            prepared[name] = _arithmetic(own).test[0]
            continue
        for source in find(name, catalog, "benchmarks"):
            label = source.label
            if label in prepared:
                raise PrepareError(f"benchmarks={name}: a benchmark called {label} is there already; rename one file")
            prepared[label] = prepare_benchmark(source, _system_prompt(config), _prompt_lengths(config, make=False))
    return prepared


def _dispatch(config: DictConfig, field: str, kinds: Mapping[str, Callable[[dict[str, Any]], T]]) -> T:
    node = OmegaConf.select(config, field)
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


def _problems(config: DictConfig, spec: dict[str, Any]) -> DatasetPaths:
    from experiments.data.problem_sets import Checks, prepare_training

    sources: dict[str, list[Source]] = {}
    for split in ("train", "test"):
        names = _names(spec.get(split))
        if not names:
            raise PrepareError(
                f"dataset_spec.{split} is not set: name data sets of data_catalog, or files or folders; "
                "or use model=tiny dataset=arithmetic"
            )
        found = [find(name, _catalog(config), f"dataset_spec.{split}") for name in names]
        sources[split] = [source for each in found for source in each]
    train, test = prepare_training(
        sources["train"],
        sources["test"],
        _system_prompt(config),
        Checks.of(spec.get("checks")),
        _prompt_lengths(config),
    )
    return DatasetPaths(tuple(train), tuple(test))


def benchmark_names(config: DictConfig) -> list[str]:
    """What the data set evaluates on, as `prepare_benchmarks` takes it."""
    spec = config.dataset_spec
    return [ARITHMETIC] if spec.kind == ARITHMETIC else _names(_plain(spec).get("test"))


def _names(given: str | list[str] | None) -> list[str]:
    """A list as it is; a text (an environment variable) at its commas."""
    items = given.split(",") if isinstance(given, str) else given or []
    return [item.strip() for item in items if item.strip()]


def _catalog(config: DictConfig) -> dict[str, Any]:
    return _plain(OmegaConf.select(config, "data_catalog"))


def _plain(node: DictConfig | None) -> dict[str, Any]:
    return {} if node is None else OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def _system_prompt(config: DictConfig) -> str:
    """The prompt that `dataset_spec.system_prompt` names."""
    name = _plain(OmegaConf.select(config, "dataset_spec")).get("system_prompt", "math")
    if name not in SYSTEM_PROMPTS:
        raise PrepareError(f"dataset_spec.system_prompt={name}: use one of {', '.join(SYSTEM_PROMPTS)}")
    return SYSTEM_PROMPTS[name]


def _prompt_lengths(config: DictConfig, make: bool = True) -> PromptLengths:
    """With the run's tokenizer where its model is at hand, or can be made here (unless `make` is False); data can be
    prepared on a machine without it."""
    named = [OmegaConf.select(config, field) for field in ("actor_rollout_ref.model.path", "model_spec.path")]
    folder = next((path for item in named if item and (path := Path(item).expanduser()).is_dir()), None)
    if make and folder is None and OmegaConf.select(config, "model_spec.kind") == "tiny":
        folder = prepare_model(config)
    arguments = OmegaConf.select(config, "data.apply_chat_template_kwargs")
    return PromptLengths(
        folder,
        OmegaConf.select(config, "data.max_prompt_length") or 2048,
        _plain(arguments),
    )


def main(arguments: list[str]) -> int:
    """Command line; 0 if everything is there at the end."""
    parser = argparse.ArgumentParser(prog="experiments/prepare.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="config group experiments/configs/model (default: tiny)")
    parser.add_argument("--dataset", help="config group experiments/configs/dataset (default: the model's)")
    parser.add_argument("--benchmarks", metavar="A,B", help="prepare these benchmarks and nothing else")
    parser.add_argument(
        "--pin", metavar="A,B", help="first forget the pinned revision of these data sets: take what the hub has now"
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. dataset_spec.test_size=256")
    options = parser.parse_intermixed_args(arguments)
    try:
        groups = [f"model={options.model}", *([f"dataset={options.dataset}"] if options.dataset else [])]
        config = composed([*groups, *options.overrides])
        known = [name for name, entry in _catalog(config).items() if isinstance(entry, Mapping)]
        for name in _names(options.pin):
            if name not in known:
                raise PrepareError(f"--pin {name}: no such data set; data_catalog has {', '.join(known)}")
            hub.forget(name)
        if options.benchmarks:
            prepared = prepare_benchmarks(config, _names(options.benchmarks))
            _show({name: (path,) for name, path in prepared.items()})
            print(f"ready: {', '.join(prepared)}")
            return 0
        print(f"preparing model={options.model} and its data ...", flush=True)
        data = prepare_dataset(config)
        _show({"train": data.train, "test": data.test})
        model = prepare_model(config)
    except PrepareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"ready: {model}")
    return 0


def _show(files: Mapping[str, Sequence[Path]]) -> None:
    for name, paths in files.items():
        for path in paths:
            print(f"{name + ' data:':12s}{path} ({pq.read_metadata(path).num_rows} problems)", flush=True)
            card = path.with_name(CARD_TEXT)
            if card.is_file():
                print(f"{'':12s}card: {card}")


if __name__ == "__main__":
    sys.exit(command.ended(main))
