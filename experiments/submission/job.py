"""What a job runs: it watches over one training process and decides what follows its end.

Signals reach every process of a job at once. Only this one listens: the training process and all of Ray and vLLM
below it ignore the user signal, so that they live on until the trainer has saved.

    USR2 (time limit near, pre-emption, scancel --signal)   save at the next safe point, then queue the job again
    TERM (scancel; pre-emption where no USR2 is sent)       the cluster is ending the job and knows whether to requeue
    the training process died                               queue again, unless that keeps happening at one step
    the request was wrong                                   fail now, with the reason where a watcher finds it
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import submitit
from omegaconf import DictConfig, OmegaConf

from ctpo.records import RunDirectory, clear_stop, read_submission, request_stop, stop_reason
from ctpo.records.progress import REFUSED, set_phase
from ctpo.training.checkpoints import complete_steps
from ctpo.training.platforms.environment import RUN_ENV
from experiments import resolvers
from experiments.command import STOPPED, USAGE
from experiments.submission import ray_cluster
from experiments.submission.attempts import MAX_DEATHS, attempts, deaths_without_progress

#: How long the remains of an earlier attempt may hold the run directory: a node that went down and came back.
BUSY_S = 180
#: Before the time limit, what asking to be queued again may take.
REQUEUE_MARGIN_S = 20
#: A controller that is busy or restarts, when a whole sweep reaches its time limit: how long to ask, and how often.
REQUEUE_S, REQUEUE_EVERY_S = 600, 5
POLL_S = 0.5


class JobFailed(RuntimeError):
    """The run cannot go on by itself; the message says why."""


@dataclass
class Signals:
    """Which signals this process has had, and when."""

    user: float | None = None
    terminate: float | None = None

    def listen(self) -> None:
        """Replaces submitit's handlers, which end the process where it stands."""
        signal.signal(signal.SIGUSR2, self._on_user)
        signal.signal(signal.SIGTERM, self._on_terminate)

    def _on_user(self, *_: Any) -> None:
        self.user = self.user or time.monotonic()

    def _on_terminate(self, *_: Any) -> None:
        self.terminate = self.terminate or time.monotonic()


@dataclass
class TrainingJob:
    """One run as a job. Pickled when submitted; called in each of the job's tasks, at each of its starts.

    `config`: the composed configuration, interpolations unresolved, as plain containers. `limit_s`: the job's time
    limit; `grace_s`: how long before it the job has its signal. `tasks`: more than one makes a Ray cluster of them.
    """

    config: dict[str, Any]
    run: str
    limit_s: float
    grace_s: float
    tasks: int = 1
    signals: Signals = field(default_factory=Signals)

    def __call__(self) -> str:
        self.signals.listen()
        self._began = time.monotonic()
        environment = submitit.JobEnvironment()
        print(f"job {environment.job_id} on {environment.hostname}: {self.run}")
        print(f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}", flush=True)
        config = self._composed()
        if self.tasks > 1:
            rendezvous = ray_cluster.Rendezvous.of_job(environment, self.tasks)
            if environment.global_rank > 0:
                return self._serve(config, environment, rendezvous)
            with ray_cluster.head(config, rendezvous) as address:
                config.ray_kwargs.ray_init = {"address": address}
                return self._supervise(config, environment)
        return self._supervise(config, environment)

    def _serve(self, config: DictConfig, environment: Any, rendezvous: ray_cluster.Rendezvous) -> str:
        try:
            ray_cluster.serve(config, rendezvous)
        except ray_cluster.RayClusterError:
            time.sleep(POLL_S)  # the signal that ended Ray's node is on its way here as well
            if self.signals.terminate is not None:
                self._wait_for_the_end(environment)
            raise
        return "served"

    def _composed(self) -> DictConfig:
        resolvers.register()
        config = OmegaConf.create(self.config)
        # Here it trains: this machine is the one whose devices count.
        config.slurm.submits = False
        if config.trainer.device == "cpu":
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        return config

    def _supervise(self, config: DictConfig, environment: Any) -> str:
        self.signals.listen()  # again: `ray.init`, which counted the nodes, has put a handler of its own
        run = RunDirectory(self.run)
        self._wait_until_free(run)
        clear_stop(run.path)
        before = attempts(run)
        code = self._watch(start_training(config), run)
        if self.tasks == 1:
            end_leftovers(run.path)
        clear_stop(run.path)
        if code == 0:
            return "finished"
        if code == USAGE:
            raise JobFailed(f"{run.path}: the request was refused; the reason is above and in the run's status")
        if code != STOPPED:
            self._record_death(run, code, began=attempts(run) > before)
        if self.signals.terminate is not None:
            self._wait_for_the_end(environment)
        self._give_up_without_progress(run, Path(config.trainer.default_local_dir))
        self._queue_again(environment)
        return "queued again"

    def _wait_until_free(self, run: RunDirectory) -> None:
        end = time.monotonic() + BUSY_S
        while run.is_busy():
            if time.monotonic() > end:
                raise JobFailed(f"{run.path} is in use by another training process")
            time.sleep(1)

    def _watch(self, process: subprocess.Popen[bytes], run: RunDirectory) -> int:
        """The training process' exit code; on the user signal it is asked to stop, at the end of the grace killed."""
        asked = False
        while (code := process.poll()) is None:
            if self.signals.terminate is not None:
                process.terminate()
            # Again if it is gone: a process that has just started removes what was asked of the one before.
            if self.signals.user is not None and stop_reason(run.path) is None:
                request_stop(run.path, "the job was told that its time is up (SIGUSR2)")
                if not asked:
                    print("asked to save and stop", flush=True)
                asked = True
            if self.signals.user is not None and time.monotonic() - self.signals.user > self._patience():
                print("not saved in time; it continues from its last checkpoint", flush=True)
                process.kill()
            time.sleep(POLL_S)
        return code

    def _patience(self) -> float:
        return max(self.grace_s - REQUEUE_MARGIN_S, self.grace_s / 2)

    def _record_death(self, run: RunDirectory, code: int, began: bool) -> None:
        """A process that was killed could not write how it ended."""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        if not began:
            if self.signals.user is None and self.signals.terminate is None:
                set_phase(run.path, f"{REFUSED}the training process {how} before it had begun")
                raise JobFailed(f"{run.path}: the training process {how} before it had begun")
        elif run.state in ("failed", "interrupted"):
            return  # it did write it
        elif self.signals.terminate is not None:
            run.finish("interrupted", "the job was ended from outside (SIGTERM)")
        elif self.signals.user is not None and self._at_its_limit():
            run.finish("failed", "the time limit came before a step had ended; give it more time (slurm.timeout_min)")
        elif self.signals.user is not None:
            run.finish("interrupted", "told to make room, and killed because the step had not ended in time")
        else:
            run.finish("failed", f"the training process {how}")

    def _at_its_limit(self) -> bool:
        # Slurm may send the signal a minute and a half early.
        return time.monotonic() - self._began > self.limit_s - self.grace_s - 90

    def _give_up_without_progress(self, run: RunDirectory, checkpoints: Path) -> None:
        if run.state != "failed":
            return
        manifest, submission = run.manifest(), read_submission(run.path)
        step = max(complete_steps(checkpoints), default=0)
        deaths = deaths_without_progress(manifest, step, submission.submitted if submission else "")
        print(f"died ({deaths} of {MAX_DEATHS} times from step {step}): {manifest['error']}", flush=True)
        if deaths >= MAX_DEATHS:
            reason = f"died {deaths} times in a row after step {step} without reaching the next checkpoint"
            run.finish("failed", f"{reason}; the last time: {manifest['error']}")
            raise JobFailed(f"{run.path}: {reason}; the last time: {manifest['error']}")

    def _queue_again(self, environment: Any) -> None:
        set_phase(Path(self.run), "queued again")
        print("asking to be queued again", flush=True)
        end = time.monotonic() + REQUEUE_S
        while True:
            try:
                environment._requeue(0)  # submitit's word for it on either executor; ends the job
                sys.exit(-1)
            except (subprocess.SubprocessError, OSError) as error:
                print(f"not queued again: {error}; trying on", flush=True)
            if self.signals.terminate is not None:
                self._wait_for_the_end(environment)
            if time.monotonic() > end:
                raise JobFailed(f"{self.run}: Slurm did not take it back within {REQUEUE_S} s; submit it again")
            time.sleep(REQUEUE_EVERY_S)

    def _wait_for_the_end(self, environment: Any) -> None:
        if environment.cluster == "slurm":
            # An exit code of our own would make Slurm take a pre-empted job for a failed one.
            print("ended from outside; waiting for Slurm's last word", flush=True)
            time.sleep(600)
        raise JobFailed(f"{self.run}: the job was ended from outside")


def start_training(config: DictConfig) -> subprocess.Popen[bytes]:
    """The training process, deaf to the user signal, as all that it starts will be."""
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.submission.training"],
        stdin=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(OmegaConf.to_container(config, resolve=False)).encode())
    process.stdin.close()
    return process


def end_leftovers(run: Path, patience_s: float = 20.0) -> None:
    """End what this job's training left running, after a while in which Ray ends its own processes."""
    job = os.environ.get("SLURM_JOB_ID")
    end = time.monotonic() + patience_s
    while left := _processes(run, job):
        if time.monotonic() > end:
            for process in left:
                process.kill()
            return
        time.sleep(POLL_S)


def _processes(run: Path, job: str | None) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            variables = process.environ()
            mine = variables.get(RUN_ENV) == str(run) and variables.get("SLURM_JOB_ID") == job
            if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
