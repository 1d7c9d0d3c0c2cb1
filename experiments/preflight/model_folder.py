"""Files of a model: complete, of the architecture that is trained, with a tokenizer that fits and a chat template.

Weights are judged by their safetensors headers: names, shapes and file sizes, without reading a tensor.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.errors import BadRequest
from experiments.planner.shapes import published_settings
from experiments.specs import FolderSpec, spec_of

ARCHITECTURE = "Qwen3ForCausalLM"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
#: Fields of `config.json` that decide the shapes of its weights.
SHAPE_FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "tie_word_embeddings",
)  # fmt: skip
_MAX_HEADER = 100_000_000


def request_problems(config: DictConfig) -> Iterator[str]:
    """Problems of the folder that the request names itself (`model_spec.kind=folder`)."""
    try:
        spec = spec_of(config, "model_spec")
    except BadRequest as error:
        yield from error.args
        return
    if not isinstance(spec, FolderSpec):
        return
    given = spec.path
    get = f"run `hf download {spec.hub_id} --local-dir DIR`, then set model_spec.path=DIR"
    if not given:
        yield f"model_spec.path is not set: {get}; or use model=tiny"
    elif not Path(given).expanduser().is_dir():
        yield f"model_spec.path={given}: no such folder; {get}"
    else:
        yield from _problems(config, Path(given).expanduser(), "model_spec.path", spec.hub_id)


def folder_problems(config: DictConfig) -> Iterator[str]:
    """Problems of the prepared model."""
    path = Path(config.actor_rollout_ref.model.path)
    if path.is_dir():  # otherwise a hub id: verl downloads it
        yield from _problems(config, path, "actor_rollout_ref.model.path", None)


def _problems(config: DictConfig, folder: Path, field: str, hub_id: str | None) -> Iterator[str]:
    where = f"{field}={folder}"
    settings = _json(folder / "config.json")
    if settings is None:
        yield f"{where}: has no readable config.json; name a complete Hugging Face folder"
        return
    architectures = settings.get("architectures")
    if architectures != [ARCHITECTURE]:
        yield f"{where}: its architectures are {architectures}; name a checkpoint of {ARCHITECTURE}"
        return
    yield from _not_the_published(where, settings, hub_id)
    yield from _context(config, settings)
    yield from weight_problems(where, folder, settings)
    yield from _tokenizer(where, folder, settings)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _not_the_published(where: str, settings: dict[str, Any], hub_id: str | None) -> Iterator[str]:
    try:
        published = published_settings(hub_id)
    except BadRequest:
        return
    for field in SHAPE_FIELDS:
        if settings.get(field) != published[field]:
            yield (
                f"{where}: its {field} is {settings.get(field)}, that of {hub_id} is {published[field]}; name that "
                "checkpoint, or say in model_spec.hub_id which one it is"
            )
            return


def _context(config: DictConfig, settings: dict[str, Any]) -> Iterator[str]:
    context = settings.get("max_position_embeddings")
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    if context is not None and prompt + response > context:
        yield (
            f"data.max_response_length={response}: with data.max_prompt_length={prompt} a sequence can reach "
            f"{prompt + response} tokens, beyond the model's context of {context}; use at most {context - prompt}"
        )


# ---------------------------------------------------------------------- weights


def weight_problems(where: str, folder: Path, settings: dict[str, Any]) -> Iterator[str]:
    """Shards that are missing, cut short or hold other tensors than the model of `settings` has."""
    index = _json(folder / INDEX)
    names = sorted(set(index["weight_map"].values())) if index else [SINGLE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        yield f"{where}: lacks {', '.join(missing)}; download the folder again, `hf download` resumes"
        return
    tensors: dict[str, list[int]] = {}
    broken = False
    for name in names:
        header, problem = read_header(folder / name)
        tensors |= header
        if problem:
            broken = True
            yield f"{where}: {name} {problem}; delete that file and download it again, `hf download` resumes"
    if broken:
        return
    wanted = expected_tensors(settings)
    absent = [name for name in wanted if name not in tensors]
    if absent:
        yield f"{where}: lacks {len(absent)} tensors, first {absent[0]}; these are not the weights of its config.json"
    for name in wanted:
        if name in tensors and tensors[name] != wanted[name]:
            yield (
                f"{where}: {name} has shape {tensors[name]}, config.json says {wanted[name]}; these are not the "
                "weights of its config.json"
            )
            return


def read_header(path: Path) -> tuple[dict[str, list[int]], str | None]:
    """`({tensor: shape}, what is wrong)` of a safetensors file, from its header and its size alone."""
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _MAX_HEADER):
                return {}, f"is cut short within its header ({size:,} bytes)"
            header = json.loads(file.read(length))
    except (OSError, ValueError, struct.error):
        return {}, "is not a safetensors file"
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size != end:
        return {}, f"has {size:,} bytes, its header says {end:,}"
    return {name: entry["shape"] for name, entry in header.items()}, None


def expected_tensors(settings: dict[str, Any]) -> dict[str, list[int]]:
    """Names and shapes of a Qwen3 checkpoint of these settings."""
    hidden, mlp, vocabulary, dim, query, keys = (
        settings["hidden_size"], settings["intermediate_size"], settings["vocab_size"], settings["head_dim"],
        settings["num_attention_heads"] * settings["head_dim"], settings["num_key_value_heads"] * settings["head_dim"],
    )  # fmt: skip
    layer = {
        "input_layernorm": [hidden],
        "post_attention_layernorm": [hidden],
        "self_attn.q_proj": [query, hidden],
        "self_attn.k_proj": [keys, hidden],
        "self_attn.v_proj": [keys, hidden],
        "self_attn.o_proj": [hidden, query],
        "self_attn.q_norm": [dim],
        "self_attn.k_norm": [dim],
        "mlp.gate_proj": [mlp, hidden],
        "mlp.up_proj": [mlp, hidden],
        "mlp.down_proj": [hidden, mlp],
    }
    tensors = {"model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden]}
    if not settings.get("tie_word_embeddings"):
        tensors["lm_head.weight"] = [vocabulary, hidden]
    for i in range(settings["num_hidden_layers"]):
        tensors |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return tensors


# ---------------------------------------------------------------------- tokenizer


def _tokenizer(where: str, folder: Path, settings: dict[str, Any]) -> Iterator[str]:
    described, tokenizer = _json(folder / "tokenizer_config.json"), _json(folder / "tokenizer.json")
    absent = [
        name for name, found in (("tokenizer_config.json", described), ("tokenizer.json", tokenizer)) if found is None
    ]
    if absent:
        yield f"{where}: has no readable {' and no '.join(absent)}; name a complete Hugging Face folder"
        return
    assert described is not None
    assert tokenizer is not None
    if not described.get("chat_template") and not (folder / "chat_template.jinja").is_file():
        yield (
            f"{where}: its tokenizer has no chat template (chat_template.jinja, or in tokenizer_config.json); use the "
            "instruction-tuned checkpoint, or add the template"
        )
    ids = [*tokenizer.get("model", {}).get("vocab", {}).values()]
    ids += [token["id"] for token in tokenizer.get("added_tokens", [])]
    vocabulary = settings.get("vocab_size", 0)
    if ids and max(ids) >= vocabulary:
        yield (
            f"{where}: its tokenizer has ids up to {max(ids)}, its weights a vocabulary of {vocabulary}; name a folder "
            "whose tokenizer and weights belong together"
        )
