"""All runs of a sweep as jobs: checked together, submitted all or none, and never twice.

What a run's directory and its newest job say decides: a finished run is skipped, one that waits or runs is left alone,
any other is submitted. The same call again, or two at once, therefore ends in one job a run.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from ctpo.records import RecordError, RunDirectory, Submission, config_hash, read_submission, write_submission
from ctpo.records.locks import acquire
from ctpo.records.manifest import now
from ctpo.records.progress import set_phase
from experiments.command import refuse
from experiments.errors import BadRequest
from experiments.launch import filled_in, request_problems, requested
from experiments.request import MADE_LATER
from experiments.submission import executor, queue
from experiments.submission.executor import JobRequest
from experiments.submission.job import TrainingJob
from experiments.submission.profile import Profile, profile_of


@dataclass(frozen=True)
class PlannedRun:
    """A run of the sweep. `wanted`: its resolved configuration; `action`: submit, skip or leave; `why`, and its job."""

    config: DictConfig
    directory: Path
    wanted: dict[str, Any]
    action: str = "submit"
    why: str = "new"
    job_id: str = ""

    @property
    def name(self) -> str:
        return str(self.config.trainer.experiment_name)


def submit(configs: Sequence[DictConfig]) -> int:
    """Submit the runs that `configs` describe, print what became of each, and return (`wait=true`: stay and watch).

    Returns:
        0, or 1 where a run that was waited for has not finished.

    Raises:
        BadRequest: something is wrong with any of them, each reason a line or two; nothing was submitted.
    """
    profile = _checked(configs)
    if configs[0].run.preflight == "only":
        print(f"preflight: {len(configs)} requests are in order; nothing was submitted")
        return 0
    root = Path(configs[0].run.root)
    folder = root / configs[0].run.sweep / ".jobs"
    if configs[0].dry_run:
        plan = _planned(configs, profile)
        _show(profile, plan, folder)
        return 0
    with _only_submitter(root):
        plan = _planned(configs, profile)
        chosen = [run for run in plan if run.action == "submit"]
        requests = [JobRequest(run.name, run.directory, _work(run, profile)) for run in chosen]
        for script in executor.batch_scripts(profile, folder, requests)[:1] if profile.executor == "slurm" else []:
            _accepted(script)
        job_ids: dict[Path, str] = {}
        try:
            executor.enqueue(profile, folder, requests, lambda request, job_id: _note(request, job_id, plan, job_ids))
        except queue.QueueError as error:
            _print_table(plan, job_ids, profile)
            raise BadRequest(f"{error}\n  the runs with a job above are queued") from None
    _print_table(plan, job_ids, profile)
    print(f"{len(job_ids)} submitted, {len(plan) - len(job_ids)} left as they are, of {len(plan)} runs")
    if configs[0].wait:
        from experiments.submission.watch import watch

        return watch(root, configs[0].run.sweep, [run.directory for run in plan], profile.executor)
    return 0


def _checked(configs: Sequence[DictConfig]) -> Profile:
    """The one profile of all runs, after every check that needs no queue."""
    profile = profile_of(configs[0])
    problems = request_problems(configs)
    if profile.executor == "slurm" and not queue.has_slurm() and not configs[0].dry_run:
        problems.insert(
            0,
            f"slurm={profile.profile}: this machine has no Slurm (no sbatch, no squeue).\n"
            "  Submit from a login node of the cluster, or start a local one with `make slurm-up`.",
        )
    model = next((config.run.model for config in configs if config.trainer.device == "cpu"), None)
    if profile.gpus_per_node and profile.executor == "slurm" and model:
        problems.append(
            f"slurm={profile.profile}: asks for {profile.gpus_per_node} GPUs, and model={model} trains on the CPU; use "
            "slurm=cpu_local, or slurm.gpus_per_node=null with a partition of your site, or another model"
        )
    refuse(problems)
    return profile


def _planned(configs: Sequence[DictConfig], profile: Profile) -> list[PlannedRun]:
    """What is to be done with each run.

    Raises:
        BadRequest: a directory holds, or a job is about to make, a run of another configuration.
    """
    runs = [PlannedRun(config, Path(config.run.dir), requested(config)) for config in configs]
    problems, plan = [], []
    try:
        submissions = [read_submission(run.directory) for run in runs]
        ids = [submission.job_id for submission in submissions if submission]
        has_queue = profile.executor == "local" or (queue.answers() if configs[0].dry_run else queue.has_slurm())
        alive = queue.live_jobs(profile.executor, ids) if has_queue else {}
    except (RecordError, queue.QueueError) as error:
        raise BadRequest(str(error)) from None
    for run, submission in zip(runs, submissions, strict=True):
        try:
            plan.append(_decided(run, submission, alive))
        except RecordError as error:
            problems.append(str(error))
    refuse(problems)
    return plan


def _decided(run: PlannedRun, submission: Submission | None, alive: dict[str, str]) -> PlannedRun:
    records = RunDirectory(run.directory)
    state = records.state
    if state is not None:
        recorded = OmegaConf.create(records.manifest()["config"])
        records.check_config(filled_in(run.config, {field: OmegaConf.select(recorded, field) for field in MADE_LATER}))
    if state == "finished":
        return replace(run, action="skip", why="finished", job_id=submission.job_id if submission else "")
    if submission is not None and submission.job_id in alive:
        if submission.config_hash != config_hash(run.wanted):
            raise RecordError(
                f"run.dir={run.directory}: job {submission.job_id} of other settings is {alive[submission.job_id]} for "
                f"it; end it first (scancel {submission.job_id}), or choose another run.sweep"
            )
        return replace(run, action="leave", why=alive[submission.job_id].lower(), job_id=submission.job_id)
    if records.is_busy():
        return replace(run, action="leave", why="training, not as a job")
    return run if state is None else replace(run, why=f"continues ({state})")


def _work(run: PlannedRun, profile: Profile) -> TrainingJob:
    plain: dict[str, Any] = OmegaConf.to_container(run.config, resolve=False)  # type: ignore[assignment]
    limit_s, grace_s = 60 * profile.timeout_min, profile.signal_delay_s
    return TrainingJob(plain, str(run.directory), limit_s, grace_s, profile.tasks)


def _note(request: JobRequest, job_id: str, plan: Sequence[PlannedRun], job_ids: dict[Path, str]) -> None:
    run = next(run for run in plan if run.directory == request.directory)
    submission = Submission(job_id, str(run.config.slurm.profile), now(), config_hash(run.wanted))
    write_submission(request.directory, submission)
    set_phase(request.directory, "submitted")
    job_ids[request.directory] = job_id


@contextlib.contextmanager
def _only_submitter(root: Path) -> Iterator[None]:
    """One submitter at a time below `root`; the next one then sees what the first has submitted."""
    root.mkdir(parents=True, exist_ok=True)
    file = root / ".submit.lock"
    lock = acquire(file, patience_s=0, mode=0o664)
    if lock is None:
        print(f"another submission is under way below {root}; waiting for it", file=sys.stderr)
        lock = acquire(file, patience_s=-1, mode=0o664)
    assert lock is not None
    if not lock.is_locked:
        print(f"warning: {root} is on a file system without locks; submit from one place", file=sys.stderr)
    try:
        yield
    finally:
        lock.release()


def _accepted(script: str) -> str:
    try:
        return queue.check_request(script)
    except queue.Unreachable as error:
        raise BadRequest(str(error)) from None
    except queue.QueueError as error:
        asked = "\n".join(f"  {line}" for line in script.splitlines() if line.startswith("#SBATCH"))
        raise BadRequest(
            f"Slurm refuses the request; nothing was submitted. It says:\n  {error}\nAsked for:\n{asked}\n"
            "Change it with slurm.<field>=..., for example slurm.partition=NAME slurm.gpus_per_node=8"
        ) from None


def _show(profile: Profile, plan: Sequence[PlannedRun], folder: Path) -> None:
    """The dry run: what each run is and what Slurm would say to its request; nothing is submitted.

    Whole configurations and batch scripts go to files, because they are thousands of lines that hardly differ.
    """
    chosen = [run for run in plan if run.action == "submit"]
    requests = [JobRequest(run.name, run.directory, _work(run, profile)) for run in chosen]
    scripts = executor.batch_scripts(profile, folder, requests) if profile.executor == "slurm" else []
    shown = folder.with_name(".dry_run")
    shown.mkdir(parents=True, exist_ok=True)
    for run in plan:
        (shown / f"{run.name}.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(run.wanted), sort_keys=True))
    for name, script in zip([run.name for run in chosen], scripts, strict=False):  # an array has one script
        (shown / f"{name}.sh").write_text(script)
    _print_table(plan, {}, profile)
    if scripts:
        print("the first request:", *(f"  {line}" for line in scripts[0].splitlines() if "#SBATCH" in line), sep="\n")
    if scripts and queue.answers():
        said = [_accepted(script) for script in dict.fromkeys(scripts)]
        print(f"sbatch --test-only takes {len(said)} of {len(said)} requests: {said[0]}")
    elif scripts:
        print("no Slurm answers here, so nobody was asked whether it would take these requests")
    print(f"whole configurations and batch scripts: {shown}")
    print(f"dry run: {len(chosen)} of {len(plan)} runs would be submitted; nothing was")


def _print_table(plan: Sequence[PlannedRun], job_ids: dict[Path, str], profile: Profile) -> None:
    table = Table(title=f"slurm={profile.profile}", title_justify="left")
    for column in ("job", "what", "why", "run directory"):
        table.add_column(column, overflow="fold")
    for run in plan:
        job = job_ids.get(run.directory)
        what = "submitted" if job else run.action
        table.add_row(job or run.job_id or "-", what, run.why, _short(run.directory))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
