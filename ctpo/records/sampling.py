"""How an evaluation draws its samples: the settings that an accuracy must be told with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctpo.records.files import RecordError

#: Settings of the draw. Accuracies that differ in one of them answer different questions and are never compared.
DRAW = ("temperature", "top_p", "top_k", "k")
_WORDS = {"temperature": "temperature {}", "top_p": "top_p {}", "top_k": "top_k {}", "k": "k = {}"}
_WORDS |= {"tir.max_turns": "at most {} turns", "data.max_response_length": "{} tokens"}
#: Fields of `tir.sandbox` that bound how many calls run at once, which decides no sample.
_CAPACITY = ("concurrency", "sessions")


@dataclass(frozen=True)
class Sampling:
    """`values` by name: those of `DRAW`, then the limits by their config fields. What was not recorded is absent."""

    values: Mapping[str, Any]

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Sampling:
        """From the resolved config of a training run or of an evaluation, which keep these settings in one place."""
        drawn = _node(config, "actor_rollout_ref", "rollout", "val_kwargs")
        draw = {"k" if name == "n" else name: drawn.get(name) for name in ("temperature", "top_p", "top_k", "n")}
        data = _node(config, "data")
        return cls._of(
            draw, _node(config, "tir"), data.get("max_response_length"), _node(data, "apply_chat_template_kwargs")
        )

    @classmethod
    def of_samples(cls, run: Path, config: Mapping[str, Any], benchmark: str, step: int) -> Sampling:
        """Of one file of samples in the run directory `run`: as recorded beside it, else as `config` says.

        Each job of an evaluation records its own settings there, while `config` is that of the first job.

        Raises:
            RecordError: the file beside the samples cannot be read.
        """
        path = run / "samples" / benchmark / f"step_{step}.settings.json"
        try:
            settings = json.loads(path.read_text())
            draw, template = {"top_k": settings.get("top_k"), **settings["evaluation"]}, settings["chat_template"]
            found = cls._of(draw, settings["tir"], draw["max_response_length"], template)
        except FileNotFoundError:
            return cls.of_config(config)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{path}: not the settings of an evaluation ({type(error).__name__})") from None
        return cls({**cls.of_config(config).values, **found.values})

    @classmethod
    def _of(cls, draw: Mapping[str, Any], tir: Mapping[str, Any], tokens: Any, template: Mapping[str, Any]) -> Sampling:
        sandbox = {name: value for name, value in _node(tir, "sandbox").items() if name not in _CAPACITY}
        values = {name: draw.get(name) for name in DRAW}
        # A bound of -1 or 0 is none.
        values["top_k"] = max(values["top_k"] or 0, 0) or None
        values |= {"tir.max_turns": tir.get("max_turns"), "data.max_response_length": tokens}
        values |= {f"tir.{name}": value for name, value in sorted(tir.items()) if name not in ("sandbox", "max_turns")}
        values |= {f"tir.sandbox.{name}": value for name, value in sorted(sandbox.items())}
        values |= {f"data.apply_chat_template_kwargs.{name}": value for name, value in sorted(template.items())}
        return cls({name: value for name, value in values.items() if value is not None})

    def words(self, besides: Sequence[str] = ()) -> str:
        """`temperature 0.7, top_p 1, k = 32, at most 5 turns, 8000 tokens`, without those named in `besides`."""
        return self.only([n for n in _WORDS if n not in besides and (n in self.values or n != "top_k")])

    def only(self, names: Sequence[str]) -> str:
        """The named settings in words."""
        return ", ".join(self._word(name) for name in names)

    def apart_from(self, other: Sampling) -> str:
        """The settings in which this one differs from `other`, in words; empty if it does not."""
        return self.only(self.differing(other))

    def differing(self, other: Sampling) -> list[str]:
        """Names of the settings in which the two differ."""
        names = dict.fromkeys([*_WORDS, *self.values, *other.values])
        return [name for name in names if self.values.get(name) != other.values.get(name)]

    def _word(self, name: str) -> str:
        value = self.values.get(name)
        text = f"{value:g}" if isinstance(value, float) else str(value)
        word = _WORDS.get(name, f"{name} {{}}")
        return word.format(text) if value is not None else f"{name} not recorded"


def _node(config: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """A node of a config; empty where there is none."""
    for name in names:
        config = config.get(name) or {}
    return config
