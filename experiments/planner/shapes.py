"""What a model is made of, from its `config.json`: exact parameter counts, without a single weight in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.errors import BadRequest

#: `config.json` of the paper's models as their authors published them, for a plan where no model folder is at hand.
PUBLISHED = Path(__file__).parent / "published"


@dataclass(frozen=True)
class Shapes:
    """Parameter counts of a causal language model: `layer` of one decoder layer, `embedding` and `head` (0 where tied
    to the embedding), `total` of the whole model."""

    total: int
    layer: int
    layers: int
    embedding: int
    head: int
    hidden: int
    vocabulary: int
    kv_heads: int
    head_dim: int
    query_heads: int

    @property
    def root(self) -> int:
        """Parameters outside the decoder layers: FSDP keeps them gathered through forward and backward."""
        return self.total - self.layer * self.layers

    def kv_bytes_per_token(self, bytes_each: int = 2) -> int:
        """Bytes that one token takes in a KV cache over all layers, before tensor parallelism."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_each


def model_settings(config: DictConfig) -> dict[str, Any]:
    """`config.json` of the model that a composed configuration trains: from its folder where there is one, else as
    published.

    Raises:
        BadRequest: neither is known.
    """
    spec = config.model_spec
    if spec.kind == "tiny":
        return _tiny_settings(spec)
    for path in (spec.get("path"), OmegaConf.select(config, "actor_rollout_ref.model.path")):
        if path and (Path(path).expanduser() / "config.json").is_file():
            return json.loads((Path(path).expanduser() / "config.json").read_text())
    return published_settings(spec.get("hub_id"))


def published_settings(hub_id: str | None) -> dict[str, Any]:
    """`config.json` of `hub_id` as published. Raises BadRequest for a model that is not among them."""
    name = (hub_id or "").rpartition("/")[2]
    known = sorted(path.stem for path in PUBLISHED.glob("*.json"))
    if name not in known:
        raise BadRequest(
            f"model_spec.hub_id={hub_id}: its config.json is not here; set model_spec.path to a folder that has one, "
            f"or use one of {', '.join(known)}"
        )
    return json.loads((PUBLISHED / f"{name}.json").read_text())


def _tiny_settings(spec: DictConfig) -> dict[str, Any]:
    from experiments.tiny.spec import TinyModelSpec

    given: Any = OmegaConf.to_container(spec, resolve=True)
    tiny = TinyModelSpec.model_validate(given)
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": tiny.vocab_size,
        "hidden_size": tiny.hidden_size,
        "intermediate_size": tiny.mlp_size,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "head_dim": tiny.head_dim,
        "max_position_embeddings": tiny.max_positions,
        "tie_word_embeddings": True,
    }


def empty_model(settings: dict[str, Any], attention: str = "eager") -> Any:
    """The model of `settings` on the meta device: every tensor's shape, no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type = settings.get("model_type")
    if model_type != "qwen3":
        raise BadRequest(f"model_type={model_type}: this project trains qwen3; name a Qwen3 checkpoint")
    fields = {name: value for name, value in settings.items() if name not in ("model_type", "torch_dtype", "dtype")}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(model_type, **fields), attn_implementation=attention, dtype=torch.float32
        )


def shapes_of(settings: dict[str, Any]) -> Shapes:
    """Exact counts, from the parameters of the model on the meta device."""
    model = empty_model(settings)
    layers = model.model.layers
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    return Shapes(
        total=sum(parameter.numel() for parameter in model.parameters()),
        layer=sum(parameter.numel() for parameter in layers[0].parameters()),
        layers=len(layers),
        embedding=embedding.numel(),
        head=0 if head is embedding else head.numel(),
        hidden=model.config.hidden_size,
        vocabulary=model.config.vocab_size,
        kv_heads=model.config.num_key_value_heads,
        head_dim=model.config.head_dim,
        query_heads=model.config.num_attention_heads,
    )
