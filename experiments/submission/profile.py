"""A cluster profile: the `slurm` node of a composed configuration, checked, as submitit's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.errors import BadRequest

#: Lines of the batch script after the run. A supervisor that a signal ended (137: out of memory, or a person; 140 and
#: 143: told to make room before it listened) could not ask to be queued again; the script does it, unless the job is
#: being ended from outside or keeps dying.
REQUEUE_AFTER_KILL = (
    "code=$?",
    'if [ "$code" -gt 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ] &&'
    ' [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then',
    '  scontrol requeue "$SLURM_JOB_ID"',
    "fi",
    'exit "$code"',
    "",
)


@dataclass(frozen=True)
class Profile:
    """What one job asks for. None leaves a thing to the cluster; `mem_gb` 0 means all of a node's memory."""

    profile: str
    executor: str
    submits: bool
    nodes: int = 1
    tasks_per_node: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: int | None = None
    timeout_min: int = 60
    signal_delay_s: int = 60
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclusive: bool = False
    array_parallelism: int | None = None
    setup: tuple[str, ...] = ()
    sbatch: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> int:
        """Tasks of a job, over all its nodes."""
        return self.nodes * self.tasks_per_node

    def submitit_parameters(self, job_name: str) -> dict[str, Any]:
        """Keyword arguments of submitit's `update_parameters` for the executor of this profile."""
        common = {"timeout_min": self.timeout_min, "tasks_per_node": self.tasks_per_node, "nodes": self.nodes}
        if self.executor == "local":
            # submitit hides the GPUs that were not asked for.
            own = {"gpus_per_node": self.gpus_per_node or 0, "setup": list(self.setup)}
            return {**common, **own, "signal_delay_s": self.signal_delay_s}
        given = {
            "gpus_per_node": self.gpus_per_node,
            "cpus_per_task": self.cpus_per_task,
            "mem": None if self.mem_gb is None else f"{self.mem_gb}GB" if self.mem_gb else "0",
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "exclusive": self.exclusive or None,
            "array_parallelism": self.array_parallelism,
            "setup": list(self.setup) or None,
        }
        return {
            "job_name": job_name,
            "time": self.timeout_min,
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks_per_node,
            "signal_delay_s": self.signal_delay_s,
            **{name: value for name, value in given.items() if value is not None},
            "srun_args": self._srun_arguments(),
            "teardown": list(REQUEUE_AFTER_KILL),
            "additional_parameters": {"requeue": True, **self.sbatch},
        }

    def _srun_arguments(self) -> list[str]:
        # One task that ends badly ends the others: a Ray head without its workers trains nothing.
        arguments = ["--kill-on-bad-exit=1"]
        # Since 22.05 srun does not take this from sbatch, and would bind a task to a single core.
        return arguments + ([f"--cpus-per-task={self.cpus_per_task}"] if self.cpus_per_task else [])


def profile_of(config: DictConfig) -> Profile:
    """The profile of a composed configuration.

    Raises:
        BadRequest: an unknown field, or a value that no cluster could take.
    """
    node: dict[str, Any] = OmegaConf.to_container(config.slurm, resolve=True)  # type: ignore[assignment]
    known = [item.name for item in fields(Profile)]
    for name in node:
        if name not in known:
            raise BadRequest(f"slurm.{name}: no such field; there are {', '.join(known)}")
    setup = node.get("setup") or ()
    profile = Profile(**{**node, "setup": (setup,) if isinstance(setup, str) else tuple(setup)})
    for name in ("nodes", "tasks_per_node", "timeout_min", "signal_delay_s"):
        _at_least_one(name, getattr(profile, name))
    for name in ("gpus_per_node", "cpus_per_task", "array_parallelism"):
        if getattr(profile, name) is not None:
            _at_least_one(name, getattr(profile, name))
    if profile.signal_delay_s >= profile.timeout_min * 60:
        raise BadRequest(
            f"slurm.signal_delay_s={profile.signal_delay_s}: must be shorter than the time limit, "
            f"slurm.timeout_min={profile.timeout_min}; give a run time to train before it is told to save"
        )
    return profile


def _at_least_one(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise BadRequest(f"slurm.{name}={value}: must be a whole number of at least 1")
