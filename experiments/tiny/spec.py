"""What can be chosen about the tiny model and its data. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class Quality:
    """Probability of each flaw: a step misread, no code at all, a failing first call, a second call."""

    misread: float = 0.12
    mental: float = 0.25
    failing_call: float = 0.12
    second_call: float = 0.3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"model_spec.{name}={value}: a probability, give a number from 0 to 1")


@dataclass(frozen=True)
class TinyModelSpec:
    """All that decides the bytes of the prepared model, `RECIPE_VERSION` apart; the defaults are the recipe.

    steps: warm-start steps of `batch_size` demonstrations; 0 leaves the random initialisation.
    clean_steps: so many of them, the first, show demonstrations without flaws.
    quality: the flaws of all later ones, hence of the model.
    muon_lr: of the weight matrices; adamw_lr: of embeddings and norms. Both fall as a cosine to 5 %.
    Raises ValueError naming the field when a value makes no model.
    """

    seed: int = 0
    vocab_size: int = 576
    hidden_size: int = 64
    layers: int = 2
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 32
    mlp_size: int = 192
    max_positions: int = 1024
    steps: int = 2000
    clean_steps: int = 1200
    batch_size: int = 8
    muon_lr: float = 0.03
    adamw_lr: float = 8e-3
    tool_output_chars: int = 256
    quality: Quality = field(default_factory=Quality)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("quality", "seed"):
                continue
            if value < 0 or (value == 0 and item.name not in ("steps", "clean_steps")):
                raise ValueError(f"model_spec.{item.name}={value}: must be positive")
        if self.heads % self.kv_heads:
            raise ValueError(f"model_spec.kv_heads={self.kv_heads}: must divide heads={self.heads}")
        if self.head_dim % 2:
            raise ValueError(f"model_spec.head_dim={self.head_dim}: rotary embeddings need an even number")


@dataclass(frozen=True)
class ArithmeticSpec:
    """Sizes and seed of the data set; its splits are disjoint whatever these are.

    Raises ValueError naming the field when a size is not positive.
    """

    train_size: int = 4096
    test_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train_size", "test_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"dataset_spec.{name}={getattr(self, name)}: must be at least 1")
