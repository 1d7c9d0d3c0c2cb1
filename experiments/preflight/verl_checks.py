"""verl's own judgement of composed configurations: names and kinds of its fields, its dataclasses, its validator.

``python -m experiments.preflight.verl_checks``: a JSON list of resolved configurations comes on standard input, a JSON
list of their problems goes to standard output. A process of its own, because importing verl takes seconds, prints, and
looks for a device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from ctpo.records.shapes import nearest, shown
from ctpo.training.platforms import environment
from experiments.resolvers import PROJECT_ROOT, package_dir

TIMEOUT_S = 180.0
#: Nodes that verl makes objects of in every run. Making `actor_rollout_ref.model` would load the model's tokenizer.
NODES = ("actor_rollout_ref.actor", "actor_rollout_ref.rollout", "algorithm")
#: Arguments of `ray.init`, and nodes that are this project's own and checked elsewhere.
FREE = ("ray_kwargs.ray_init", "run", "tir", "records", "method", "preflight", "dry_run", "wait", "model_spec",
        "hardware", "dataset_spec", "data_catalog", "slurm", "evaluation", "model_engine")  # fmt: skip


class Checking:
    """The process, begun with some resolved configurations, and what it finds."""

    def __init__(self, requests: Sequence[Any]) -> None:
        self._given, self._number = json.dumps(requests), len(requests)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.preflight.verl_checks"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT_ROOT,
            # What is checked here does not depend on the device, and there may be none.
            env=os.environ | environment.for_device("cpu"),
        )  # fmt: skip

    def __enter__(self) -> Checking:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def problems(self) -> list[list[str]]:
        """Of each configuration, once verl has judged all of them."""
        try:
            output, log = self._process.communicate(self._given, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return [[f"verl's validators did not end within {TIMEOUT_S:.0f} s; try again"]] * self._number
        if self._process.returncode != 0:
            last = next((line for line in reversed(log.splitlines()) if line.strip()), "")
            return [[f"verl's validators did not run: {last.strip()}; run `make setup`"]] * self._number
        found: list[list[str]] = json.loads(output)
        return found


def problems_of(request: dict[str, Any]) -> list[str]:
    """What verl (and this project's `MethodActorConfig`) refuses about one resolved configuration."""
    found = list(_unlike(request, _reference(), ""))
    # Taken out above: fields that a dataclass would refuse once more, in other words.
    config = OmegaConf.create(request)
    reference = bool(config.algorithm.use_kl_in_reward or config.actor_rollout_ref.actor.use_kl_loss)
    refused = [problem for node in NODES for problem in _refused(config, node)]
    return [*found, *(refused or [*_advantages(config), *_refused_by_validator(config, reference)])]


@functools.cache
def _reference() -> dict[str, Any]:
    """verl's fields with their defaults, as it ships them, under what `run.yaml` adds; not resolved."""
    verl = OmegaConf.load(package_dir("verl") / "trainer" / "config" / "_generated_ppo_trainer.yaml")
    own = OmegaConf.load(PROJECT_ROOT / "experiments" / "configs" / "run.yaml")
    plain: Any = OmegaConf.to_container(OmegaConf.merge(own, verl))  # verl's kind of a default counts
    return {**plain, **dict.fromkeys(FREE)}


def _unlike(given: dict[str, Any], known: dict[str, Any], path: str) -> Iterator[str]:
    """Fields of `given` that are not in `known`, which are then taken out, and values of another kind than the
    default there."""
    kinds = _dataclass_fields(given.get("_target_"))
    for name in list(given):
        field, value = f"{path}{name}", given[name]
        if name not in known and name not in kinds and name != "_target_":
            yield f"{field}={shown(value)}: verl has no such field there; {nearest(name, [*known, *kinds])}"
            del given[name]
            continue
        default = known.get(name)
        if field in FREE or default is None or (isinstance(default, str) and default.startswith(("${", "???"))):
            continue
        if isinstance(default, dict) and isinstance(value, dict):
            if default:
                yield from _unlike(value, default, f"{field}.")
        elif wanted := _other_kind(value, default, fraction="float" in str(kinds.get(name))):
            yield f"{field}={shown(value)}: must be {wanted}, as verl's default {shown(default)}"


def _dataclass_fields(target: str | None) -> dict[str, Any]:
    """Names and types of the fields of the dataclass `target`; none for anything else."""
    try:
        module, _, name = str(target).rpartition(".")
        found = getattr(importlib.import_module(module), name)
        return {item.name: item.type for item in dataclasses.fields(found) if item.init}
    except (ImportError, AttributeError, TypeError, ValueError):
        return {}


def _other_kind(value: Any, default: Any, fraction: bool) -> str | None:
    """What `value` must be and is not; None where it is of `default`'s kind. A whole default admits fractions where
    the dataclass says so."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if isinstance(default, float) or fraction:
            return None if number else "a finite number"
        return None if number and value == int(value) else "a whole number"
    for kind, word in ((str, "a text"), (list, "a list"), (dict, "a group of fields")):
        if isinstance(default, kind) and not isinstance(value, kind):
            return word
    return None


def _refused(config: Any, node: str) -> Iterator[str]:
    from verl.utils.config import omega_conf_to_dataclass

    from ctpo.methods import MethodError

    try:
        omega_conf_to_dataclass(OmegaConf.select(config, node))
    except Exception as error:
        cause = error.__cause__ or error
        text = " ".join(str(cause).split())
        yield text if isinstance(cause, MethodError) else f"verl refuses {node}: {text}; correct what it names"


def _advantages(config: Any) -> Iterator[str]:
    """The part of a method that is not the actor's business: verl's estimator computes the advantages."""
    from ctpo.training.actor_config import method_from_config

    method = method_from_config(config.actor_rollout_ref.actor.method)
    chosen = config.algorithm.norm_adv_by_std_in_grpo
    if chosen != method.std_normalised:
        yield (
            f"algorithm.norm_adv_by_std_in_grpo={chosen}: method {method.name} is defined with "
            f"{method.std_normalised}; leave the field to the method"
        )


def _refused_by_validator(config: Any, reference: bool) -> Iterator[str]:
    from verl.utils.config import validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            validate_config(config, use_reference_policy=reference, use_critic=False)
    except Exception as error:
        text = " ".join(str(error).split())
        yield f"verl's validate_config refuses the request: {text}; correct what it names"


def main() -> None:
    requests = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        import verl.workers.config  # noqa: F401

        found = [problems_of(request) for request in requests]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
