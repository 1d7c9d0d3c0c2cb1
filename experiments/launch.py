"""One run from a composed configuration: check, prepare, train, record how it ended."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ctpo.records import RecordError, RunDirectory, Stopped, clear_stop, config_hash, method_code
from ctpo.records.identity import flatten
from ctpo.records.progress import read_progress, set_phase
from ctpo.tir.config import TirConfig
from ctpo.tir.tools import tool_server
from ctpo.training import resume
from ctpo.training.platforms import environment
from experiments import preflight, prepare
from experiments.command import Interrupted, RunFailed, refuse
from experiments.errors import BadRequest
from experiments.progress import ProgressLine, captured_output
from experiments.request import MADE_LATER
from experiments.surroundings import of_a_run, ray_settings

#: The last line of a traceback, after the process' name that Ray puts before it.
FIRST_ERROR = re.compile(r"^(?:\S*\([^)]*\)\S*\s+)?(?P<message>(?:\w+\.)*\w+(?:Error|Exception): .+)$", re.MULTILINE)


def launch(configs: Sequence[DictConfig]) -> None:
    """Check all runs, prepare all of them, then train one after another.

    A finished run is left alone. A run that was interrupted continues. A run that fails does not keep the next one from
    training.

    Raises:
        BadRequest: something is wrong with a request; nothing was started.
        Stopped: training was asked to end early and did, with its state saved.
        RunFailed: a training failed; its run directory has the log.
        Interrupted: Ctrl-C.
    """
    refuse(request_problems(configs))
    if configs[0].run.preflight == "only" or configs[0].dry_run:
        print("preflight: the request is in order (model and data are checked when a run prepares them)")
        if configs[0].dry_run:
            for config in configs:
                print(f"dry run: {config.trainer.experiment_name} would train here, in {config.run.dir}")
            print("dry run: nothing was done")
        return
    for config in configs:
        _prepare(config)
    refuse([problem for config in configs for problem in preflight.check_inputs(config)])
    failures = []
    for config in configs:
        try:
            _open_and_train(config)
        except (RunFailed, BadRequest) as failure:
            failures.append(failure)
            print(failure.report() if isinstance(failure, BadRequest) else failure, file=sys.stderr)
    if failures:
        raise type(failures[0])(f"{len(failures)} of {len(configs)} runs did not end well; what they said is above")


def request_problems(configs: Sequence[DictConfig]) -> list[str]:
    """What is wrong with any of the runs, or with them together; each problem once."""
    found = [problem for problems in preflight.check_requests(configs) for problem in problems]
    directories: dict[str, list[DictConfig]] = {}
    for config in configs:
        directories.setdefault(config.run.dir, []).append(config)
    found += [_shared(directory, sharing) for directory, sharing in directories.items() if len(sharing) > 1]
    return list(dict.fromkeys(found))


def _shared(directory: str, configs: Sequence[DictConfig]) -> str:
    """Why runs came to share a directory, from the fields in which they differ."""
    plain = [dict(flatten(OmegaConf.to_container(config, resolve=False))) for config in configs]  # type: ignore[arg-type]
    values = {name: list(dict.fromkeys(str(each.get(name)) for each in plain)) for name in set().union(*plain)}
    differing = sorted(name for name, found in values.items() if len(found) > 1)
    field = next((name for name in differing if not name.startswith("slurm.")), None)
    if field is not None:
        fix = f"tell them apart by run.variant, for example run.variant='{field.split('.')[-1]}${{{field}}}'"
    elif differing:
        fix = f"commas make a grid; quote a value that has some: '+{differing[0]}=\"{','.join(values[differing[0]])}\"'"
    else:
        fix = "ask for each run once"
    return f"run.dir={directory}: {len(configs)} runs of this request would share it; {fix}"


def _open_and_train(config: DictConfig) -> None:
    records, plain, remarks = RunDirectory(config.run.dir), resolved(config), list[str]()

    def check() -> None:
        remarks.extend(resume.prepare(records, plain))
        if code := plain["method"].get("code"):
            node = plain["method"]
            method_code.keep(records.path, node["import_path"], node["search_path"], code)

    try:
        state = records.open_for_training(plain, seeds={"run": config.run.seed}, check=check)
    except RecordError as error:
        raise BadRequest(str(error)) from None
    for remark in remarks:
        print(f"resume: {remark}")
    if state == "finished":
        print(f"already finished: {config.run.dir}")
        return
    _train(config, records)


def _prepare(config: DictConfig) -> None:
    """Fill in the paths that `prepare` makes; the names of what is cached carry a hash of their content."""
    model, data = prepare.prepare_model(config), prepare.prepare_dataset(config)
    with open_dict(config):
        config.actor_rollout_ref.model.path = str(model)
        config.data.train_files = [str(path) for path in data.train]
        config.data.val_files = [str(path) for path in data.test]


def _train(config: DictConfig, records: RunDirectory) -> None:
    with of_a_run(config.trainer.device, run_environment(config)) as folder:
        _train_recorded(config, records, folder)
        records.finish("finished")
    print(f"finished: {config.run.dir}")


def _train_recorded(config: DictConfig, records: RunDirectory, folder: str) -> None:
    clear_stop(records.path)
    set_phase(Path(config.run.dir), "starting Ray, verl and vLLM")
    log = Path(config.run.dir) / "run.log"
    before = log.stat().st_size if log.exists() else 0
    with captured_output(log) as terminal, ProgressLine(config, terminal):
        try:
            # Resolved here: Ray's processes know nothing of this project's OmegaConf resolvers.
            with tool_server(TirConfig.from_node(resolved(config).get("tir"))):
                _run_verl(OmegaConf.create(resolved(config)), folder)
        except Stopped as stop:
            message = _last_line(stop).rpartition("Stopped: ")[2]  # before it Ray puts the trainer's traceback
            records.finish("interrupted", error=message)
            raise Stopped(message) from None
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            reason = _last_line(error) if interrupted else _reason(error, log, before)
            try:
                records.finish("interrupted" if interrupted else "failed", error=reason)
            except RecordError as unwritten:
                reason = str(unwritten)
            with suppress(OSError):  # the log's disk may be full
                traceback.print_exc()
            if isinstance(error, KeyboardInterrupt):
                step = read_progress(records.path).step
                raise Interrupted(
                    f"interrupted at step {step}; the same command continues it: {records.path}"
                ) from None
            if interrupted:
                raise
            raise RunFailed(f"{reason}\nthe whole log: {log}") from None


def run_environment(config: DictConfig) -> dict[str, str]:
    """Variables for every process of a run.

    wandb mirrors the records: offline without a key, one wandb run for a run however often it restarts.
    """
    variables = {
        environment.RUN_ENV: config.run.dir,
        "WANDB_DIR": config.run.dir,
        "WANDB_RUN_ID": wandb_id(config),
        "WANDB_RESUME": "allow",
    }
    if not os.environ.get("WANDB_API_KEY"):
        variables["WANDB_MODE"] = os.environ.get("WANDB_MODE", "offline")
    return variables


def wandb_id(config: DictConfig) -> str:
    """The name of a run at wandb, which takes letters, digits, - and _: equal for every start of a run, and of no other
    run, because it ends in a hash of directory and configuration."""
    unique = f"{os.path.abspath(config.run.dir)} {config_hash(requested(config))}"
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", config.trainer.experiment_name)[:80]
    return f"{readable}-{hashlib.sha256(unique.encode(errors='surrogateescape')).hexdigest()[:8]}"


def _run_verl(config: DictConfig, folder: str) -> None:
    import ray
    from verl.trainer import main_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from ctpo.training.trainer import Runner

    config.ray_kwargs.ray_init = ray_settings(config.ray_kwargs.ray_init, folder)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    try:
        main_ppo.run_ppo(config, task_runner_class=ray.remote(num_cpus=1)(Runner))
    finally:
        ray.shutdown()


def _reason(error: BaseException, log: Path, start: int) -> str:
    """What ended the run, with the first error that any of its processes logged: that is often the cause."""
    reason = _last_line(error)
    with open(log, "rb") as file:
        file.seek(start)
        first = FIRST_ERROR.search(file.read().decode(errors="replace"))
    if first is None or first["message"][:60] in reason:
        return reason
    return f"{reason}\nfirst error in the log: {first['message'][:300]}"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}".rstrip(": ")


def resolved(config: DictConfig) -> dict[str, Any]:
    """`config` as plain containers with every interpolation resolved."""
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def requested(config: DictConfig) -> dict[str, Any]:
    """`config` resolved as it was before `prepare`, whose fields have their own names as values."""
    return filled_in(config, {field: f"<{field}>" for field in MADE_LATER})


def filled_in(config: DictConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `config` with other values of some fields, resolved."""
    config = config.copy()
    for field, value in values.items():
        OmegaConf.update(config, field, value)
    return resolved(config)
