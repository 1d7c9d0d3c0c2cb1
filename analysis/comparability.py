"""Which runs may be averaged or compared, read from their recorded configs.

Seeds of one cell (model and method) must share everything but the seed: others are left out, by name. What
else differs between the cells of a sweep is either what the sweep varies, or something a reader must know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ctpo.records import RunRecord, config_hash, varying_fields

#: Fields that say which method a run is of, and where it lies.
METHOD_FIELDS = (
    "method.name",
    "method.import_path",
    "run.method",
    "run.variant",
    "actor_rollout_ref.actor.policy_loss.loss_mode",
)
#: Copies of other fields, which interpolation makes in every config.
_COPIES = ("actor_rollout_ref.actor.method.",)
_RUN_FIELDS = ("run.sweep", "run.model", "run.seed", *METHOD_FIELDS)
#: Of an evaluation: whose weights it took, and how its work was cut. What else decides its samples is compared.
_EVALUATION_FIELDS = (
    "actor_rollout_ref.model.path",
    "actor_rollout_ref.rollout.prometheus.served_model_name",
    "data.val_files",
    "evaluation.benchmarks",
    "evaluation.checkpoint",
    "evaluation.concurrency",
    "evaluation.shard",
)
#: How the run of an evaluated checkpoint had evaluated itself.
_IN_TRAINING = "in_training"


@dataclass(frozen=True)
class Axis:
    """A field that a sweep varies. `values`: by the run's name; `others`: fields that change along with it."""

    field: str
    values: dict[str, Any]
    others: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether it can be an axis of numbers."""
        kinds = (int, float)
        return all(isinstance(value, kinds) and not isinstance(value, bool) for value in self.values.values())

    @property
    def label(self) -> str:
        """Last part of the field's name, in words."""
        return self.field.rsplit(".", 1)[-1].replace("_", " ")


def of_other_config(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Names of the runs of one cell that are not of the config most of them share, and what differs.

    Where no config is in the majority, the one of the lowest seed counts.
    """
    fields = _varying(runs)
    if not fields:
        return {}
    keys = {run.name: str([values[index] for values in fields.values()]) for index, run in enumerate(runs)}
    counts = Counter(keys.values())
    shared = max(counts, key=lambda key: (counts[key], -list(keys.values()).index(key)))
    reference = next(index for index, run in enumerate(runs) if keys[run.name] == shared)
    found = {}
    for index, run in enumerate(runs):
        if keys[run.name] != shared:
            name, values = next((n, v) for n, v in fields.items() if v[index] != v[reference])
            found[run.name] = (
                f"run of another config than {runs[reference].name}: {name} is {values[index]!r}, there "
                f"{values[reference]!r}: left out"
            )
    return found


def swept_axes(runs: Sequence[RunRecord]) -> list[Axis]:
    """What differs between runs of one model besides model, method and seed, one axis per independent field.

    Fields that change together count once, under the shortest name.
    """
    fields = {name: values for name, values in _varying(runs).items() if not name.startswith(_COPIES)}
    groups: dict[str, list[str]] = {}
    for name in sorted(fields, key=lambda name: (name.count("."), len(name), name)):
        groups.setdefault(_partition(fields[name]), []).append(name)
    names = [run.name for run in runs]
    return [
        Axis(first, dict(zip(names, fields[first], strict=True)), tuple(others)) for first, *others in groups.values()
    ]


def differ_besides_method(runs: Sequence[RunRecord]) -> list[str]:
    """Fields outside of `method` in which runs of several methods differ: what a comparison of them also compares."""
    return sorted(
        name for name in _varying(runs) if not name.startswith(("method.", *_COPIES)) and name not in METHOD_FIELDS
    )


def _varying(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Varying fields without those that name the run or hold its seed."""
    # Equal configs are the common case, and comparing thousands of fields is not free.
    if len({config_hash(run.config) for run in runs}) < 2:
        return {}
    own: tuple[str, ...] = _RUN_FIELDS
    if all("evaluation" in run.config for run in runs):
        own += _EVALUATION_FIELDS
    seeds = [run.seed for run in runs]

    def names_the_run(name: str, values: list[Any]) -> bool:
        # By name as well as by value: False and True, or 0.0 and 1.0, equal the seeds 0 and 1.
        if name in own or name.startswith(_IN_TRAINING):
            return True
        return name.endswith(".experiment_name") or (name.endswith("seed") and values == seeds)

    varying = varying_fields([run.config for run in runs])
    return {name: values for name, values in varying.items() if not names_the_run(name, values)}


def _partition(values: Sequence[Any]) -> str:
    """Which values are equal to which: the same for two fields that change together."""
    order: dict[str, int] = {}
    return str([order.setdefault(repr(value), len(order)) for value in values])
