"""How many tokens a run's model sees for a problem: its chat template around it, its tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import BadRequest


class PromptLengths:
    """Counts with the tokenizer of a model folder, or not at all if there is no folder.

    `limit` is `data.max_prompt_length`; verl filters out longer prompts, of training and of evaluation.
    """

    def __init__(self, folder: Path | None, limit: int, template_arguments: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.limit = limit
        self.template_arguments = dict(template_arguments or {})

    def fingerprint(self) -> dict[str, Any]:
        """What decides the counts: contents, not where the folder is."""
        files = [] if self.folder is None else sorted(self.folder.glob("token*.json"))
        files += [] if self.folder is None else sorted(self.folder.glob("chat_template*"))
        return {
            "limit": self.limit,
            "arguments": self.template_arguments,
            "tokenizer": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files},
        }

    def summary(self, prompts: Sequence[Sequence[Mapping[str, str]]]) -> dict[str, Any] | None:
        """Quantiles of the prompts' lengths in tokens and how many exceed the limit; None without a tokenizer.

        Raises:
            BadRequest: the tokenizer cannot be loaded, or has no chat template.
        """
        if self.folder is None:
            return None
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(self.folder))
        except (OSError, ValueError) as error:
            raise BadRequest(f"{self.folder}: its tokenizer cannot be loaded ({str(error).splitlines()[0]})") from error
        if not tokenizer.chat_template:
            raise BadRequest(
                f"{self.folder}: its tokenizer has no chat template, so no prompt can be made; use an "
                "instruction-tuned model, or put chat_template.jinja into that folder"
            )
        texts = [
            tokenizer.apply_chat_template(
                list(prompt), tokenize=False, add_generation_prompt=True, **self.template_arguments
            )
            for prompt in prompts
        ]
        counts = np.array([len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]])
        levels = {"min": 0, "median": 50, "p95": 95, "max": 100}
        return {
            **{name: int(np.percentile(counts, level)) for name, level in levels.items()},
            "limit": self.limit,
            "over_limit": int((counts > self.limit).sum()),
        }
