"""A Ray cluster of the tasks of one job: a head in the first task, a worker in each of the others.

The tasks meet through a folder that all of them see: submitit's folder of the job. Each start of the job has a meeting
place of its own, for files of an earlier one lie there still.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ctpo.records.files import write_text
from ctpo.training.platforms import environment
from experiments.launch import run_environment
from experiments.surroundings import folder_for_sockets

MEETING_S = 300
POLL_S = 0.5


class RayClusterError(RuntimeError):
    """The tasks of a job did not become one Ray cluster."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the tasks of one start of a job find each other."""

    folder: Path
    start: str
    tasks: int

    @classmethod
    def of_job(cls, job: Any, tasks: int) -> Rendezvous:
        """Of the running submitit job."""
        return cls(Path(job.paths.folder), os.environ.get("SLURM_RESTART_COUNT", "0"), tasks)

    @property
    def address(self) -> Path:
        return self.folder / f"ray_head_{self.start}.json"

    @property
    def over(self) -> Path:
        return self.folder / f"ray_over_{self.start}"


@contextlib.contextmanager
def head(config: DictConfig, rendezvous: Rendezvous) -> Iterator[str]:
    """Start the head, wait until a worker of each task has joined; yields the address to connect to.

    Raises:
        RayClusterError: not all of them came.
    """
    from ray.util import get_node_ip_address

    host, port = get_node_ip_address(), _free_port()
    address = f"{host}:{port}"
    # A session folder of its own: `ray.init` of another run on this machine would otherwise join this cluster.
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir=folder_for_sockets(os.environ), ignore_cleanup_errors=True
    ) as session:
        options = (f"--node-ip-address={host}", f"--port={port}", "--include-dashboard=false", f"--temp-dir={session}")
        node = _start_node(config, "--head", *options)
        try:
            _wait_for_nodes(address, 1, node)  # a worker that comes before the head listens gives up at once
            write_text(rendezvous.address, json.dumps({"address": address}))
            _wait_for_nodes(address, rendezvous.tasks, node)
            print(f"{rendezvous.tasks} tasks are one Ray cluster at {address}", flush=True)
            yield address
        finally:
            write_text(rendezvous.over, "")
            _end(node)


def serve(config: DictConfig, rendezvous: Rendezvous) -> None:
    """Join the head as a worker, until the head says that it is over.

    Raises:
        RayClusterError: there is no head, or it went away.
    """
    end = time.monotonic() + MEETING_S
    while not rendezvous.address.exists():
        if time.monotonic() > end:
            raise RayClusterError(f"no Ray head within {MEETING_S} s: see the output of the job's first task")
        time.sleep(POLL_S)
    node = _start_node(config, f"--address={json.loads(rendezvous.address.read_text())['address']}")
    while not rendezvous.over.exists():
        if node.poll() is not None:
            raise RayClusterError(f"this task's part of the Ray cluster ended with code {node.returncode}")
        time.sleep(POLL_S)
    _end(node)


def _start_node(config: DictConfig, *arguments: str) -> subprocess.Popen[bytes]:
    """`ray start --block`: it ends its own node's processes when it is ended (`ray stop` would end every job's)."""
    # What Ray starts on a node inherits the environment of that node's daemon, not of the training process.
    variables = environment.inherited(os.environ, config.trainer.device) | run_environment(config)
    variables["TMPDIR"] = folder_for_sockets(os.environ) or tempfile.gettempdir()
    slots = config.ray_kwargs.ray_init
    resources = [f"--num-gpus={slots.get('num_gpus') or config.trainer.n_gpus_per_node}"]
    if slots.get("num_cpus"):
        resources.append(f"--num-cpus={slots.num_cpus}")
    if slots.get("object_store_memory"):
        resources.append(f"--object-store-memory={slots.object_store_memory}")
    ray = Path(sys.executable).with_name("ray")
    return subprocess.Popen(
        [str(ray), "start", "--block", "--disable-usage-stats", *resources, *arguments],
        env=variables,
        preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
    )


def _wait_for_nodes(address: str, wanted: int, node: subprocess.Popen[bytes]) -> None:
    import ray

    os.environ.update(environment.COMMON)  # of Ray's settings this process knows none yet
    end = time.monotonic() + MEETING_S
    while True:
        if node.poll() is not None:
            raise RayClusterError(f"the Ray head ended with code {node.returncode}; its output is above")
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
            joined = sum(bool(entry["Alive"]) for entry in ray.nodes())
        except (ConnectionError, RuntimeError):  # it does not listen yet
            joined = 0
        finally:
            ray.shutdown()
        if joined >= wanted:
            return
        if time.monotonic() > end:
            raise RayClusterError(f"{joined} of {wanted} tasks joined the Ray cluster within {MEETING_S} s")
        time.sleep(POLL_S)


def _end(node: subprocess.Popen[bytes]) -> None:
    node.terminate()
    try:
        node.wait(30)
    except subprocess.TimeoutExpired:
        node.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
