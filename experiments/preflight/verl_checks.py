"""A process that puts composed configurations through verl's own dataclasses and validators.

``python -m experiments.preflight.verl_checks``: a JSON list of resolved configurations comes on standard input, a JSON
list of their problems goes to standard output.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

#: Nodes that verl makes objects of in every run. `critic` and `ref` only where they are used.
NODES = ("actor_rollout_ref.actor", "actor_rollout_ref.rollout", "algorithm")
_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")


def problems_of(config: DictConfig, verl_config: Any) -> list[str]:
    """What verl (and this project's `MethodActorConfig`) refuses about one configuration."""
    reference = bool(config.algorithm.use_kl_in_reward or config.actor_rollout_ref.actor.use_kl_loss)
    critic = bool(config.critic.enable) or config.algorithm.adv_estimator == "gae"
    nodes = [*NODES, *(["actor_rollout_ref.ref"] if reference else []), *(["critic"] if critic else [])]
    found: list[str] = []
    for node in nodes:
        found += _refused(config, node, verl_config.omega_conf_to_dataclass)
    found += _model_fields(config.actor_rollout_ref.model)
    if not found:
        found += _advantages(config)
        found += _refused_by_validator(config, verl_config, reference, critic)
    return found


def _refused(config: DictConfig, node: str, convert: Any) -> Iterator[str]:
    value = OmegaConf.select(config, node)
    try:
        convert(value)
    except Exception as error:
        yield _message(node, value, error)


def _message(node: str, value: DictConfig, error: BaseException) -> str:
    from ctpo.methods import MethodError

    cause = error.__cause__ or error
    text = " ".join(str(cause).split())
    if isinstance(cause, MethodError):
        return text
    unknown = _UNKNOWN.search(text)
    if unknown:
        name = unknown[1]
        # Hydra names the innermost node that it was making.
        inner = re.search(r"full_key: (\S+)", str(error))
        owner = inner[1] if inner and inner[1].startswith(node) else node
        shown = OmegaConf.select(value, f"{owner}.{name}"[len(node) + 1 :])
        return f"{owner}.{name}={shown}: verl has no such field there; remove it or correct its name"
    return f"{node}: verl refuses it: {text}; correct what it names"


def _advantages(config: DictConfig) -> Iterator[str]:
    """The part of a method that is not the actor's business: verl's estimator computes the advantages."""
    from ctpo.training.actor_config import method_from_config

    method = method_from_config(config.actor_rollout_ref.actor.method)
    chosen = config.algorithm.norm_adv_by_std_in_grpo
    if chosen != method.std_normalised:
        yield (
            f"algorithm.norm_adv_by_std_in_grpo={chosen}: method {method.name} is defined with "
            f"{method.std_normalised}; leave the field to the method"
        )


def _model_fields(model: DictConfig) -> Iterator[str]:
    """The model node by its fields alone: making the object would load the model's tokenizer."""
    from verl.workers.config import HFModelConfig

    assert is_dataclass(HFModelConfig)
    known = {item.name for item in fields(HFModelConfig)} | {"_target_"}
    for name in map(str, model):
        if name not in known:
            yield (
                f"actor_rollout_ref.model.{name}={model[name]}: verl has no such field there; remove it or correct its "
                "name"
            )


def _refused_by_validator(config: DictConfig, verl_config: Any, reference: bool, critic: bool) -> Iterator[str]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            verl_config.validate_config(config, use_reference_policy=reference, use_critic=critic)
    except Exception as error:
        text = " ".join(str(error).split())
        yield f"verl's validate_config refuses the request: {text}; correct what it names"


def main() -> None:
    from experiments.preflight import light_verl

    configs = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        verl_config = light_verl.load()
        found = [problems_of(OmegaConf.create(config), verl_config) for config in configs]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
