"""What can be chosen about the tiny model and its data. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ctpo.records.shapes import Seed, Shape, Share

Size = Annotated[int, Field(ge=1, le=10**6)]
Steps = Annotated[int, Field(ge=0, le=10**6)]
Rate = Annotated[float, Field(gt=0, le=1)]


class Quality(Shape):
    """Probability of each flaw: a step misread, no code at all, a failing first call, a second call."""

    misread: Share = 0.12
    mental: Share = 0.25
    failing_call: Share = 0.12
    second_call: Share = 0.3


class TinyModelSpec(Shape):
    """All that decides the bytes of the prepared model, `RECIPE_VERSION` apart; the defaults are the recipe.

    steps: warm-start steps of `batch_size` demonstrations; 0 leaves the random initialisation.
    clean_steps: so many of them, the first, show demonstrations without flaws.
    quality: the flaws of all later ones, hence of the model.
    muon_lr: of the weight matrices; adamw_lr: of embeddings and norms. Both fall as a cosine to 5 %.
    Raises ValueError naming the field when a value makes no model.
    """

    kind: Literal["tiny"] = "tiny"
    seed: Seed = 0
    vocab_size: Size = 576
    hidden_size: Size = 64
    layers: Size = 2
    heads: Size = 2
    kv_heads: Size = 1
    head_dim: Size = 32
    mlp_size: Size = 192
    max_positions: Size = 1024
    steps: Steps = 2000
    clean_steps: Steps = 1200
    batch_size: Size = 8
    muon_lr: Rate = 0.03
    adamw_lr: Rate = 8e-3
    tool_output_chars: Size = 256
    quality: Quality = Quality()

    @model_validator(mode="after")
    def _heads_fit(self) -> TinyModelSpec:
        if self.heads % self.kv_heads:
            raise ValueError(f"model_spec.kv_heads={self.kv_heads}: must divide heads={self.heads}")
        if self.head_dim % 2:
            raise ValueError(f"model_spec.head_dim={self.head_dim}: rotary embeddings need an even number")
        return self


class ArithmeticSpec(Shape):
    """Sizes and seed of the data set; its splits are disjoint whatever these are."""

    kind: Literal["arithmetic"] = "arithmetic"
    train_size: Size = 4096
    test_size: Annotated[int, Field(ge=1, le=50_000)] = 64  # there are 200,000 held-out problems
    seed: Seed = 0
