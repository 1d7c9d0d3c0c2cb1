"""Whether two configs describe the same run, and if not, where they first differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpo.records.files import RecordError, json_safe

#: Fields (with all below them) that do not change what a run computes: where it runs, where it writes, how
#: it is watched and how it resumes. A run may be continued with other values of these.
MAY_DIFFER = (
    "actor_rollout_ref.rollout.agent.agent_loop_config_path",
    "dry_run",
    "hydra",
    "method.search_path",
    "actor_rollout_ref.actor.method.search_path",
    "ray_kwargs",
    "records.allow_gaps",
    "run.dir",
    "run.preflight",
    "run.root",
    "slurm",
    "sweeps",
    "tir.sandbox.concurrency",
    "trainer.default_hdfs_dir",
    "trainer.default_local_dir",
    "trainer.del_local_ckpt_after_load",
    "trainer.experiment_name",
    "trainer.logger",
    "trainer.max_actor_ckpt_to_keep",
    "trainer.max_critic_ckpt_to_keep",
    "trainer.project_name",
    "trainer.ray_wait_register_center_timeout",
    "trainer.resume_from_path",
    "trainer.resume_mode",
    "trainer.rollout_data_dir",
    "trainer.save_freq",
    "trainer.v1.poll_interval_s",
    "trainer.val_before_train",
    "trainer.validation_data_dir",
    "wait",
)


class ConfigMismatch(RecordError):
    """The directory holds a run of another config; the message names the first field that differs."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested config's leaves, sorted; an empty mapping is a leaf."""
    for key in sorted(config, key=str):
        name, value = f"{prefix}{key}", config[key]
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def _identity(config: Mapping[str, Any], may_differ: Sequence[str]) -> dict[str, Any]:
    def free(name: str) -> bool:
        return any(name == field or name.startswith(f"{field}.") for field in may_differ)

    return {name: _portable(json_safe(value, name)) for name, value in flatten(config) if not free(name)}


def _portable(value: Any) -> Any:
    """Of an absolute path only the last two parts, so that a checkout or cache may move in between."""
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if isinstance(value, str) and value.startswith("/"):
        return "/".join(Path(value).parts[-2:])
    return value


def config_hash(config: Mapping[str, Any], may_differ: Sequence[str] = MAY_DIFFER) -> str:
    """sha256 over the fields that determine the run."""
    canonical = json.dumps(_identity(config, may_differ), sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def first_difference(
    recorded: Mapping[str, Any], wanted: Mapping[str, Any], may_differ: Sequence[str] = MAY_DIFFER
) -> str | None:
    """`"field: recorded ..., now ..."` for the first field that differs, or None."""
    old, new = _identity(recorded, may_differ), _identity(wanted, may_differ)
    shown_old, shown_new = dict(flatten(recorded)), dict(flatten(wanted))
    # The shortest name first: others may only interpolate it.
    for name in sorted(old.keys() | new.keys(), key=lambda name: (name.count("."), name)):
        if name not in old or name not in new or old[name] != new[name]:
            before, after = (repr(shown[name]) if name in shown else "absent" for shown in (shown_old, shown_new))
            return f"{name} (recorded {before}, now {after})"
    return None


def varying_fields(
    configs: Sequence[Mapping[str, Any]], may_differ: Sequence[str] = MAY_DIFFER
) -> dict[str, list[Any]]:
    """Dotted fields in which not all of `configs` agree, each with its value in every one (None: absent)."""
    identities = [_identity(config, may_differ) for config in configs]
    names = sorted(set().union(*identities))
    values = {name: [identity.get(name) for identity in identities] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}
