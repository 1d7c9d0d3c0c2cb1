"""What a job's supervisor does when signals, the queue or a watcher behave badly; real processes, no cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ctpo.records import RunDirectory, clear_stop
from ctpo.records.stop_request import stop_reason
from experiments.submission import job, queue, watch
from experiments.submission.executor import _deaf_to_ctrl_c
from experiments.submission.job import JobFailed, TrainingJob


def supervisor(run: Path) -> TrainingJob:
    return TrainingJob({}, str(run), limit_s=3600.0, grace_s=600.0)


def test_a_stop_that_a_starting_process_removes_is_asked_for_again(tmp_path: Path) -> None:
    made = supervisor(tmp_path)
    made.signals.user = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    seen: list[str | None] = []

    def starting() -> None:
        for _ in range(2):
            while stop_reason(tmp_path) is None:
                time.sleep(0.01)
            seen.append(stop_reason(tmp_path))
            clear_stop(tmp_path)  # what a training process does once, when it has started
        process.kill()

    thread = threading.Thread(target=starting)
    thread.start()
    assert made._watch(process, RunDirectory(tmp_path)) == -signal.SIGKILL
    thread.join()
    assert seen == ["the job was told that its time is up (SIGUSR2)"] * 2


def test_a_controller_that_does_not_answer_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "REQUEUE_EVERY_S", 0.0)
    answers = [subprocess.CalledProcessError(1, "scontrol"), subprocess.TimeoutExpired("scontrol", 60), None]

    def requeue(countdown: int) -> None:
        if (error := answers.pop(0)) is not None:
            raise error

    with pytest.raises(SystemExit):
        supervisor(tmp_path)._queue_again(SimpleNamespace(_requeue=requeue))
    assert answers == []

    def never(countdown: int) -> None:
        raise subprocess.CalledProcessError(1, "scontrol")

    monkeypatch.setattr(job, "REQUEUE_S", 0.05)
    with pytest.raises(JobFailed, match="did not take it back"):
        supervisor(tmp_path)._queue_again(SimpleNamespace(_requeue=never))


def test_runs_in_the_background_do_not_hear_the_ctrl_c_of_a_watcher() -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background
    with _deaf_to_ctrl_c():
        process = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"],
                                   stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        process.kill()
        process.wait()


def test_a_watcher_outlives_a_queue_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[Exception | dict[str, str]] = [queue.QueueError("squeue does not answer"), {}]

    def live_jobs(executor: str, jobs: list[str]) -> dict[str, str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(queue, "live_jobs", live_jobs)
    monkeypatch.setattr(watch, "POLL_S", 0.0)
    assert watch.watch(tmp_path, "s", [], "slurm") == 0
    assert "squeue does not answer; asking again" in capsys.readouterr().out


def test_a_local_job_is_known_by_its_controller_with_and_without_set_up_lines(tmp_path: Path) -> None:
    plain = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "-m", "submitit.local._local"])
    shell = subprocess.Popen(["sh", "-c", "true && sleep 60 && python -m submitit.local._local"])
    other = subprocess.Popen(["sleep", "60"])
    try:
        for process in (plain, shell, other):
            while not psutil.Process(process.pid).cmdline():  # empty for an instant after the exec
                time.sleep(0.01)
        ids = [str(process.pid) for process in (plain, shell, other)]
        assert queue.live_jobs("local", ids).keys() == set(ids[:2])
    finally:
        for process in (plain, shell, other):
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()
            process.wait()
