"""What can be known to be wrong with a run before anything is started. All problems at once, each with its fix.

`check_request` needs only the composed configuration, also for a model that is not here; `check_inputs` looks at model
and data once `prepare` has put them on disk. A problem is one message of at most two lines:
`field=value: what is wrong; the fix`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from omegaconf import DictConfig

from experiments.errors import BadRequest
from experiments.preflight import data, disk, method_name, model_folder, services, settings, versions
from experiments.preflight.hardware import gpu_problems, visible_gpus
from experiments.preflight.verl_checks import Checking
from experiments.request import resolved, value_problems

__all__ = ["check_inputs", "check_request", "check_requests", "visible_gpus"]

Check = Callable[[DictConfig], Iterable[str]]
#: Of one configuration each.
CHECKS: tuple[Check, ...] = (
    gpu_problems, method_name.name_problems, settings.batch_problems, settings.sampling_problems,
    services.process_problems, model_folder.request_problems, data.request_problems, disk.disk_problems,
)  # fmt: skip


def check_request(config: DictConfig) -> list[str]:
    """Problems of the configuration itself, of this machine, and of what is already on disk; empty when there are
    none."""
    return check_requests([config])[0]


def check_requests(configs: Sequence[DictConfig]) -> list[list[str]]:
    """`check_request` of each of a sweep's runs; what does not differ between them is looked at once."""
    plain = [_resolved_or_why(config) for config in configs]
    # Importing verl takes most of the time: in a process of its own, beside everything else.
    with Checking([each for each in plain if not isinstance(each, str)]) as checking:
        own = [
            [each] if isinstance(each, str) else _own_problems(config, each)
            for config, each in zip(configs, plain, strict=True)
        ]
        machine = [*services.sandbox_problems(), *versions.version_problems()]
        machine += _checked(services.wandb_problems, configs[0], bool(own[0]))
        verl = iter(checking.problems())
    judged = [[] if isinstance(each, str) else next(verl) for each in plain]
    return [
        list(dict.fromkeys([*problems, *_not_named(found, problems), *machine]))
        for problems, found in zip(own, judged, strict=True)
    ]


def check_inputs(config: DictConfig) -> list[str]:
    """Problems of the prepared model and data against the configuration; rows are checked where `prepare` reads."""
    return [*model_folder.folder_problems(config), *data.file_problems(config)]


def _resolved_or_why(config: DictConfig) -> Any:
    try:
        return resolved(config)
    except BadRequest as error:
        return str(error)


def _own_problems(config: DictConfig, request: Any) -> list[str]:
    found = value_problems(config, request)
    for check in CHECKS:
        found += _checked(check, config, bool(found))
    return found


def _checked(check: Check, config: DictConfig, wrong: bool) -> list[str]:
    try:
        return list(check(config))
    except Exception:
        if wrong:  # the check met a value of the wrong kind, which is named already
            return []
        raise


def _not_named(found: Sequence[str], before: Sequence[str]) -> list[str]:
    """What verl found about other fields; its validators' own words only where nothing else is wrong."""
    named = {problem.partition("=")[0] for problem in before}
    return [each for each in found if each.partition("=")[0] not in named and not (before and each.startswith("verl"))]
