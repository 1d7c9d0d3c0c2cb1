"""Two runs on one machine never share the socket on which weights travel, whatever Ray calls their jobs."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ctpo.training.platforms import vllm_cpu, weight_socket
from ctpo.training.platforms.environment import RUN_ENV

#: What Ray calls the first job of every private cluster.
JOB = "01000000"
#: As verl 0.9.1's `ServerAdapter` names it.
HANDLE = f"ipc:///tmp/rl-colocate-zmq-{JOB}-replica-1-rank-0.sock"


@pytest.fixture(autouse=True)
def as_verls_server_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weight_socket.JOB_ENV, JOB)
    monkeypatch.setenv("VERL_REPLICA_RANK", "1")
    monkeypatch.setenv("VERL_PLATFORM", "cuda")


def receiver() -> str:
    """The name that verl's own extension of a vLLM worker gives the socket."""
    from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

    worker = SimpleNamespace(local_rank=0, model_runner=None)
    handle: str = vLLMColocateWorkerExtension._get_zmq_handle(worker)
    return handle


def test_without_a_run_verls_own_ends_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_ENV, raising=False)
    vllm_cpu.register()
    assert receiver() == HANDLE == weight_socket.sender(HANDLE, JOB)


def test_both_ends_of_a_run_meet_and_those_of_two_runs_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for seed in (0, 1):
        monkeypatch.setenv(weight_socket.JOB_ENV, JOB)
        monkeypatch.setenv(RUN_ENV, f"/runs/demo/tiny/ctpo/seed{seed}")
        vllm_cpu.register()
        vllm_cpu.register()  # vLLM's server loads its plugins, and so do the processes that inherit its environment
        assert receiver() == weight_socket.sender(HANDLE, JOB)
        found.append(receiver())
    assert len({*found, HANDLE}) == 3


def test_its_path_is_short_enough_for_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_ENV, str(Path("/") / ("long" * 200)))
    assert len(os.fsencode(weight_socket.sender(HANDLE, JOB).removeprefix("ipc://"))) <= 107


def test_a_verl_that_names_it_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="does not hold Ray's job id"):
        weight_socket.sender("ipc:///tmp/verl.sock", JOB)
