"""What is evaluated: from what `evaluation.checkpoint` names to a Hugging Face folder that vLLM loads."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ctpo.records import Sampling
from ctpo.records.evaluation import run_of_checkpoint
from experiments import prepare
from experiments.errors import BadRequest
from experiments.export import export, find_checkpoint, weight_files
from experiments.tiny.cache import cached

BASE = "base"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
#: What makes an architecture, of config.json.
ARCHITECTURE = (
    "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "vocab_size",
)  # fmt: skip
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
_BLOCKS, _BLOCK = 64, 65536


@dataclass(frozen=True)
class Checkpoint:
    """A model to evaluate.

    path: Hugging Face folder.
    sweep, model, method, seed, step: where its samples are recorded. Of a model that no run here has trained the
        method is `base` or the folder's name, and the step 0.
    in_training: how the run's own evaluations drew their samples; None without a run.
    """

    path: Path
    sweep: str
    model: str
    method: str
    seed: int
    step: int
    in_training: Sampling | None = None

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the model's shape or weights, wherever it lies."""
        settings = json.loads((self.path / "config.json").read_text())
        hashed = hashlib.sha256(repr([settings.get(name) for name in ARCHITECTURE]).encode())
        for file in sorted(self.path.glob("*.safetensors")):
            size = file.stat().st_size
            hashed.update(f"{file.name} {size}".encode())
            with open(file, "rb") as content:
                # Of large files blocks spread over all of it: training moves every weight.
                for block in range(_BLOCKS):
                    content.seek(block * max(size - _BLOCK, 0) // max(_BLOCKS - 1, 1))
                    hashed.update(content.read(_BLOCK))
        return hashed.hexdigest()[:16]


def find(config: DictConfig) -> Checkpoint:
    """The model that `config.evaluation.checkpoint` names, exported or fetched if need be.

    Raises:
        BadRequest: there is none, it is not of the architecture of `config.model_spec`, or, without a checkpoint, the
            model itself cannot be prepared.
    """
    given = config.evaluation.checkpoint
    if given is None:
        return Checkpoint(prepare.prepare_model(config), "eval", config.run.model, BASE, config.evaluation.seed, 0)
    try:
        return _given(config, str(given))
    except BadRequest as error:
        raise BadRequest(f"evaluation.checkpoint={given}: {error}") from error


def _given(config: DictConfig, given: str) -> Checkpoint:
    path = Path(given).expanduser()
    if path.exists():
        path = path.resolve()
        if (found := find_checkpoint(path)) is not None:
            return _of_verl(config, *found)
        _check_complete(path)
        name = path.name
    else:
        if path.is_absolute() or not HUB_ID.fullmatch(given):
            raise BadRequest("no such folder; correct the path")
        path, name = _from_hub(given), given
    _check_architecture(config, path)
    return Checkpoint(path, "eval", config.run.model, _label(name), config.evaluation.seed, 0)


def _of_verl(config: DictConfig, actor: Path, step: int) -> Checkpoint:
    run = run_of_checkpoint(actor)
    recorded = run[1]["run"] if run else {}
    if recorded.get("model", config.run.model) != config.run.model:
        raise BadRequest(
            f"it was trained with model={recorded['model']}, not with "
            f"model={config.run.model}; give model={recorded['model']}"
        )
    files = weight_files(actor)
    _check_architecture(config, actor / "huggingface")
    name = "-".join(str(recorded[key]) for key in ("sweep", "model", "method", "seed")) if run else _label(actor.name)
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    settings = {"checkpoint": str(actor), "files": stats}

    def build(folder: Path) -> None:
        export(actor, folder)

    path = cached("exports", f"{name}-step{step}", settings, build)
    if run is None:
        return Checkpoint(path, "eval", config.run.model, _label(actor.parent.name), config.evaluation.seed, step)
    sweep = f"{recorded['sweep']}-eval"
    return Checkpoint(
        path, sweep, recorded["model"], recorded["method"], int(recorded["seed"]), step, Sampling.of_config(run[1])
    )


def _label(name: str) -> str:
    """`name` as a folder of run records."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or "model"


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # of many kinds: no network, no such model, no permission
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadRequest(
            f"no such folder, and not to be had from the Hugging Face hub ({reason}); "
            f"correct the name, or run `hf download {hub_id} --local-dir DIR` elsewhere and name DIR"
        ) from error


def _check_complete(path: Path) -> None:
    missing = [name for name in ("config.json", "*.safetensors", "tokenizer*.json") if not any(path.glob(name))]
    if missing:
        raise BadRequest(
            f"lacks {', '.join(missing)}; name a complete Hugging Face folder, or a global_step_<n> folder of verl"
        )


def _check_architecture(config: DictConfig, path: Path) -> None:
    """Raises BadRequest if the checkpoint is of another architecture than `config.model_spec`, where known."""
    found, wanted = json.loads((path / "config.json").read_text()), _expected(config)
    for name in ARCHITECTURE:
        if name in wanted and found.get(name) != wanted[name]:
            raise BadRequest(
                f"of another architecture than model={config.run.model}: {name} is "
                f"{found.get(name)}, not {wanted[name]}; choose the model it was made from (model=...), or evaluate "
                f"the folder as a model of its own with model_spec.kind=folder model_spec.path={path}"
            )


def _expected(config: DictConfig) -> Mapping[str, Any]:
    """config.json of the model that the configuration names; empty where that is not on this disk."""
    spec = config.model_spec
    if spec.kind == "tiny":
        folder = prepare.prepare_model(config)
    else:
        folder = Path(str(spec.get("path") or "/nonexistent")).expanduser()
    file = folder / "config.json"
    return json.loads(file.read_text()) if file.is_file() else {}
