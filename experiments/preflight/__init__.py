"""What can be known to be wrong with a run before anything is started. All problems at once, each with its fix.

`check_request` needs nothing but the composed configuration (under 5 s, also for a model that is not here);
`check_inputs` looks at model and data once `prepare` has put them on disk. A problem is one message of at most two
lines: `field=value: what is wrong; the fix`.
"""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from experiments.preflight import data, disk, method_name, model_folder, services, settings, validators, versions
from experiments.preflight.hardware import gpu_problems, visible_gpus

__all__ = ["check_inputs", "check_request", "check_requests", "visible_gpus"]


def check_request(config: DictConfig) -> list[str]:
    """Problems of the configuration itself, of this machine, and of what is already on disk; empty when there are
    none."""
    return check_requests([config])[0]


def check_requests(configs: Sequence[DictConfig]) -> list[list[str]]:
    """`check_request` of each of a sweep's runs; what does not differ between them is looked at once."""
    # verl's validators load torch, which takes most of the time: in a process of its own, beside everything else.
    with validators.started(configs) as validation:
        machine = [*services.sandbox_problems(), *services.wandb_problems(configs[0]), *versions.version_problems()]
        own = [
            [
                *gpu_problems(config),
                *settings.value_problems(config),
                *method_name.name_problems(config),
                *settings.batch_problems(config),
                *services.tir_problems(config),
                *services.process_problems(config),
                *model_folder.request_problems(config),
                *data.request_problems(config),
                *disk.disk_problems(config),
            ]
            for config in configs
        ]
        return [
            list(dict.fromkeys([*problems, *found, *machine]))
            for problems, found in zip(own, validation.problems(), strict=True)
        ]


def check_inputs(config: DictConfig) -> list[str]:
    """Problems of the prepared model and data against the configuration; rows are checked where `prepare` reads."""
    return [*model_folder.folder_problems(config), *data.file_problems(config)]
