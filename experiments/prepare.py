"""Put a run's model and data on disk: ``python experiments/prepare.py [--model M] [--dataset D]``.

Finished parts are found again in the cache (`CTPO_CACHE`, else `.cache/` in the project).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from experiments.data.lengths import PromptLengths
from experiments.data.sources import Source, find
from experiments.errors import BadRequest
from experiments.specs import FolderSpec, ProblemsSpec, catalog_of, names, spec_of, unset
from experiments.tiny.spec import ArithmeticSpec, TinyModelSpec

ARITHMETIC = "arithmetic"


@dataclass(frozen=True)
class DatasetPaths:
    """Parquet files in verl's format, for `data.train_files` and `data.val_files`."""

    train: tuple[Path, ...]
    test: tuple[Path, ...]


def prepare_model(config: DictConfig) -> Path:
    """The model folder (Hugging Face format) that `config.model_spec` describes, built if need be.

    Raises BadRequest.
    """
    spec = spec_of(config, "model_spec")
    return _model_folder(spec) if isinstance(spec, FolderSpec) else _tiny_model(spec)


def prepare_dataset(config: DictConfig) -> DatasetPaths:
    """The data files that `config.dataset_spec` describes, built if need be; rows from outside are all checked.

    Raises BadRequest.
    """
    spec = spec_of(config, "dataset_spec")
    return _problems(config, spec) if isinstance(spec, ProblemsSpec) else _arithmetic(spec)


def prepare_benchmarks(config: DictConfig, names: Sequence[str]) -> dict[str, Path]:
    """One checked file per benchmark, in verl's format, in the order of `names`.

    Args:
        config: a composed configuration (`data_catalog`; the tokenizer for the data card, if its model is here).
        names: entries of `data_catalog`; `arithmetic`, the tiny task's held-out problems; or paths of files or of
            folders of files, each called by its stem in the result.

    Raises:
        BadRequest: no such benchmark, or its file is not whole and in order.
    """
    from experiments.data.problem_sets import prepare_benchmark

    catalog, spec = catalog_of(config), spec_of(config, "dataset_spec")
    prepared: dict[str, Path] = {}
    for name in names:
        if name == ARITHMETIC:
            own = spec if isinstance(spec, ArithmeticSpec) else ArithmeticSpec()
            prepared[name] = _arithmetic(own).test[0]
            continue
        for source in find(name, catalog, "benchmarks"):
            label = source.label
            if label in prepared:
                raise BadRequest(f"benchmarks={name}: a benchmark called {label} is there already; rename one file")
            prepared[label] = prepare_benchmark(
                source, _system_prompt(config, spec), _prompt_lengths(config, make=False)
            )
    return prepared


def _tiny_model(spec: TinyModelSpec) -> Path:
    from experiments.tiny.build import tiny_model

    try:
        return tiny_model(spec)
    except ValueError as error:  # a vocabulary too small or too large for the tokenizer's text
        raise BadRequest(str(error)) from error


def _arithmetic(spec: ArithmeticSpec) -> DatasetPaths:
    from experiments.tiny.build import arithmetic_dataset

    train, test = arithmetic_dataset(spec)
    return DatasetPaths((train,), (test,))


def _model_folder(spec: FolderSpec) -> Path:
    given = spec.path
    get = f"run `hf download {spec.hub_id} --local-dir DIR`, then set model_spec.path=DIR"
    if not given:
        raise BadRequest(f"model_spec.path is not set: {get}; or use model=tiny")
    folder = Path(given).expanduser().resolve()
    if not folder.is_dir():
        raise BadRequest(f"model_spec.path={given}: no such folder; {get}")
    wanted = {"config.json": "config.json", "tokenizer": "tokenizer*.json", "weights": "*.safetensors"}
    for what, pattern in wanted.items():
        if not any(folder.glob(pattern)):
            raise BadRequest(f"model_spec.path={given}: has no {what} ({pattern}); {get}")
    return folder


def _problems(config: DictConfig, spec: ProblemsSpec) -> DatasetPaths:
    from experiments.data.problem_sets import prepare_training

    catalog = catalog_of(config)
    sources: dict[str, list[Source]] = {}
    for split, given in (("train", spec.train), ("test", spec.test)):
        if not given:
            raise BadRequest(unset(split))
        sources[split] = [source for name in given for source in find(name, catalog, f"dataset_spec.{split}")]
    train, test = prepare_training(
        sources["train"], sources["test"], _system_prompt(config, spec), spec.checks, _prompt_lengths(config)
    )
    return DatasetPaths(tuple(train), tuple(test))


def benchmark_names(config: DictConfig) -> list[str]:
    """What the data set evaluates on, as `prepare_benchmarks` takes it."""
    spec = spec_of(config, "dataset_spec")
    return list(spec.test) if isinstance(spec, ProblemsSpec) else [ARITHMETIC]


def _system_prompt(config: DictConfig, spec: ArithmeticSpec | ProblemsSpec) -> str:
    given = spec.system_prompt if isinstance(spec, ProblemsSpec) else None
    name = given or ("short" if OmegaConf.select(config, "model_spec.kind") == "tiny" else "math")
    return SYSTEM_PROMPTS.get(name, name)


def _prompt_lengths(config: DictConfig, make: bool = True) -> PromptLengths:
    """With the run's tokenizer where its model is at hand, or can be made here (unless `make` is False); data can be
    prepared on a machine without it."""
    named = [OmegaConf.select(config, field) for field in ("actor_rollout_ref.model.path", "model_spec.path")]
    folder = next((path for item in named if item and (path := Path(item).expanduser()).is_dir()), None)
    if make and folder is None and OmegaConf.select(config, "model_spec.kind") == "tiny":
        folder = prepare_model(config)
    node = OmegaConf.select(config, "data.apply_chat_template_kwargs")
    arguments: Any = {} if node is None else OmegaConf.to_container(node, resolve=True)
    limit = OmegaConf.select(config, "data.max_prompt_length") or 2048
    return PromptLengths(folder, limit, arguments)


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
    groups = [f"model={options.model}", *([f"dataset={options.dataset}"] if options.dataset else [])]
    config = composed([*groups, *options.overrides])
    try:
        known = [name for name in catalog_of(config) if name != "folder"]
        for name in names(options.pin):
            if name not in known:
                raise BadRequest(f"--pin {name}: no such data set; data_catalog has {', '.join(known)}")
            hub.forget(name)
        if options.benchmarks:
            prepared = prepare_benchmarks(config, names(options.benchmarks))
            _show({name: (path,) for name, path in prepared.items()})
            print(f"ready: {', '.join(prepared)}")
            return 0
        print(f"preparing model={options.model} and its data ...", flush=True)
        data = prepare_dataset(config)
        _show({"train": data.train, "test": data.test})
        model = prepare_model(config)
    except BadRequest as error:
        print(error.report(), file=sys.stderr)
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
