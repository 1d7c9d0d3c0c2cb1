"""One run from a composed configuration: check, prepare, train, record how it ended."""

from __future__ import annotations

import os
import re
import traceback
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ctpo.platforms import environment
from ctpo.records import RecordError, RunDirectory, clear_stop
from ctpo.records.progress import set_phase
from ctpo.stopping import Stopped
from ctpo.tir.config import TirConfig
from ctpo.tir.tools import tool_server
from experiments import preflight, prepare
from experiments.progress import ProgressLine, captured_output

#: The last line of a traceback, after the process' name that Ray puts before it.
FIRST_ERROR = re.compile(r"^(?:\S*\([^)]*\)\S*\s+)?(?P<message>(?:\w+\.)*\w+(?:Error|Exception): .+)$", re.MULTILINE)

# Exit codes: 0 done, 1 the training failed, 2 the request is wrong (nothing was started), 3 stopped as asked.
USAGE, STOPPED = 2, 3


class Refused(RuntimeError):
    """The request is wrong and nothing was started; the message has all problems, one or two lines each."""


class RunFailed(RuntimeError):
    """Training started and ended badly; the message names the log."""


def launch(config: DictConfig) -> None:
    """Check, prepare and train the run that `config` describes.

    A finished run is left alone. A run that was interrupted continues.

    Raises:
        Refused: the request is wrong; nothing was started.
        Stopped: training was asked to end early and did, with its state saved.
        RunFailed: training failed; the run directory has the log.
    """
    _stop_on(preflight.check_request(config))
    if config.run.preflight == "only" or config.dry_run:
        print("preflight: the request is in order (model and data are checked when a run prepares them)")
        if config.dry_run:
            print(f"dry run: {config.trainer.experiment_name} would train here, in {config.run.dir}; nothing was done")
        return
    try:
        _prepare(config)
    except prepare.PrepareError as error:
        _stop_on([str(error)])
    _stop_on(preflight.check_inputs(config))
    records = RunDirectory(config.run.dir)
    try:
        state = records.open_for_training(resolved(config), seeds={"run": config.run.seed})
    except RecordError as error:
        _stop_on([str(error)])
    if state == "finished":
        print(f"already finished: {config.run.dir}")
        return
    _train(config, records)


def _stop_on(problems: list[str]) -> None:
    if problems:
        raise Refused("\n".join(f"error: {problem}" for problem in problems))


def _prepare(config: DictConfig) -> None:
    """Fill in the paths that `prepare` makes; the names of what is cached carry a hash of their content."""
    model, data = prepare.prepare_model(config), prepare.prepare_dataset(config)
    with open_dict(config):
        config.actor_rollout_ref.model.path = str(model)
        config.data.train_files = [str(path) for path in data.train]
        config.data.val_files = [str(path) for path in data.test]


def _train(config: DictConfig, records: RunDirectory) -> None:
    os.environ.update(environment.for_device(config.trainer.device))
    os.environ.update(run_environment(config))
    clear_stop(records.path)
    set_phase(Path(config.run.dir), "starting Ray, verl and vLLM")
    log = Path(config.run.dir) / "run.log"
    before = log.stat().st_size if log.exists() else 0
    with captured_output(log) as terminal, ProgressLine(config, terminal):
        try:
            # Resolved here: Ray's processes know nothing of this project's OmegaConf resolvers.
            with tool_server(TirConfig.from_node(resolved(config).get("tir"))):
                _run_verl(OmegaConf.create(resolved(config)))
        except Stopped as stop:
            message = _last_line(stop).rpartition("Stopped: ")[2]  # before it Ray puts the trainer's traceback
            records.finish("interrupted", error=message)
            raise Stopped(message) from None
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            reason = _last_line(error) if interrupted else _reason(error, log, before)
            traceback.print_exc()
            records.finish("interrupted" if interrupted else "failed", error=reason)
            if interrupted:
                raise
            raise RunFailed(f"{reason}\nthe whole log: {log}") from None
    records.finish("finished")
    print(f"finished: {config.run.dir}")


def run_environment(config: DictConfig) -> dict[str, str]:
    """Variables for every process of a run.

    wandb mirrors the records: offline without a key, one wandb run for a run however often it restarts.
    """
    identity = config.trainer.experiment_name
    variables = {
        environment.RUN_ENV: config.run.dir,
        "WANDB_DIR": config.run.dir,
        "WANDB_RUN_ID": identity,
        "WANDB_RESUME": "allow",
    }
    if not os.environ.get("WANDB_API_KEY"):
        variables["WANDB_MODE"] = os.environ.get("WANDB_MODE", "offline")
    return variables


def _run_verl(config: DictConfig) -> None:
    import ray
    from verl.trainer import main_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from ctpo.runner import Runner

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
