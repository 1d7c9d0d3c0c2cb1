"""The status table: what it says is what holds, also of runs that could not say it themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctpo.records import RunDirectory, Submission, is_alive, write_submission
from ctpo.records.progress import set_phase
from experiments.status import RunStatus, main, status_table, sweep_status
from experiments.submission import queue
from experiments.submission.queue import Job

CONFIG: dict[str, Any] = {
    "run": {"sweep": "demo", "model": "tiny", "method": "ctpo", "seed": 0},
    "trainer": {"total_training_steps": 10},
}
HOLDER = """
import sys, time
from ctpo.records import RunDirectory
run = RunDirectory(sys.argv[1])
run.open_for_training({config!r}, seeds={{"run": 0}})
run.begin_training(0)
run.append_metrics(1, {{"val-core/a/acc/mean@4": 0.25, "perf/total_num_tokens": 900, "perf/time_per_step": 3}})
run.append_metrics(2, {{"perf/total_num_tokens": 1100, "perf/time_per_step": 2}})
print("training", flush=True)
time.sleep(120)
"""


def directory(root: Path, method: str = "ctpo") -> Path:
    return root / "demo" / "tiny" / method / "seed0"


def submit(run: Path, job: str = "7") -> None:
    write_submission(run, Submission(job, "cpu_local", "2026-11-25T20:00:00+00:00", "ab"))


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A live process that trains into the ctpo run of `tmp_path`."""
    command = [sys.executable, "-c", HOLDER.format(config=CONFIG), str(directory(tmp_path))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        yield process
        process.kill()


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`squeue` and `sacct` that print the lines of two files; what real ones print is in tests/slurm."""
    folder = tmp_path_factory.mktemp("slurm")
    for command in ("squeue", "sacct"):
        (folder / f"{command}.txt").write_text("")
        script = folder / command
        script.write_text(f"#!/bin/sh\ncat {folder}/{command}.txt\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def only(root: Path) -> RunStatus:
    (row,) = sweep_status(root, "demo")
    return row


def test_a_live_run_is_running_and_a_killed_one_is_gone(tmp_path: Path, trainer: subprocess.Popen[str]) -> None:
    set_phase(directory(tmp_path), "training")
    row = only(tmp_path)
    assert (row.state, row.phase, row.step, row.accuracy) == ("running", "training", "2/10", "25.0 % @1")
    assert row.speed == "400"  # 2,000 tokens in 5 seconds
    trainer.kill()
    trainer.wait()
    row = only(tmp_path)
    assert row.state == "gone"
    assert "the same command continues it" in row.error


def test_watching_never_takes_the_lock(tmp_path: Path) -> None:
    """A run that starts while someone looks must not find its directory in use."""
    run = RunDirectory(directory(tmp_path))
    run.open_for_training(CONFIG, seeds={"run": 0})
    run.finish("interrupted", "Terminated")
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            sweep_status(tmp_path, "demo")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(30):
            # RunDirectoryBusy if the watcher held it
            assert run.open_for_training(CONFIG, seeds={"run": 0}) == "interrupted"
            run.finish("interrupted", "Terminated")
    finally:
        stop.set()
        watcher.join()


def test_restarts_and_the_last_error_are_shown(tmp_path: Path) -> None:
    for _ in range(3):
        run = RunDirectory(directory(tmp_path))
        run.open_for_training(CONFIG, seeds={"run": 0})
        run.finish("failed", "RuntimeError: out of memory\nfirst error in the log: boom")
    row = only(tmp_path)
    assert (row.state, row.restarts) == ("failed", 2)
    assert row.error == "RuntimeError: out of memory / first error in the log: boom"


def test_a_restart_that_was_refused_shows_why(tmp_path: Path) -> None:
    run = RunDirectory(directory(tmp_path))
    run.open_for_training(CONFIG, seeds={"run": 0})
    run.finish("interrupted", "saved step 4 and stopped")
    set_phase(run.path, "refused: trainer.n_gpus_per_node=8: this machine has 7 NVIDIA GPUs")
    row = only(tmp_path)
    assert (row.state, row.error) == ("refused", "trainer.n_gpus_per_node=8: this machine has 7 NVIDIA GPUs")


def test_a_run_of_another_host_is_believed_unless_its_job_has_ended(tmp_path: Path, slurm: Path) -> None:
    run = RunDirectory(directory(tmp_path))
    run.open_for_training(CONFIG, seeds={"run": 0})
    run.begin_training(0)
    manifest = run.manifest()
    manifest["hardware"]["host"] = "another-node"
    run.manifest_path.write_text(json.dumps(manifest))
    assert is_alive(run.path, manifest) is None
    assert only(tmp_path).state == "running"
    submit(run.path)
    (slurm / "sacct.txt").write_text("7|NODE_FAIL|0:0\n")
    row = only(tmp_path)
    assert row.state == "gone"
    assert row.error == "its job ended without a word (NODE_FAIL); submit it again to continue it"
    (slurm / "squeue.txt").write_text("7|PENDING|BeginTime\n")
    assert (only(tmp_path).state, only(tmp_path).job) == ("queued", "7 cpu_local PENDING (BeginTime)")


def test_submitted_runs_are_shown_before_they_have_a_manifest(tmp_path: Path, slurm: Path) -> None:
    submit(directory(tmp_path), "8_3")
    assert only(tmp_path).state == "submitted"
    (slurm / "squeue.txt").write_text("8_1|RUNNING|None\n8_3|PENDING|Resources\n")
    assert (only(tmp_path).state, only(tmp_path).job) == ("queued", "8_3 cpu_local PENDING (Resources)")
    (slurm / "squeue.txt").write_text("8_3|RUNNING|None\n")
    assert only(tmp_path).state == "starting"


def test_a_job_that_could_not_start_shows_its_reason(tmp_path: Path, slurm: Path) -> None:
    run = directory(tmp_path)
    submit(run)
    (slurm / "sacct.txt").write_text("7|FAILED|2:0\n")
    assert only(tmp_path).error == "the job ended before the run began (FAILED, exit code 2:0)"
    log = tmp_path / "demo" / ".jobs" / "7" / "7_0_log.err"
    log.parent.mkdir(parents=True)
    log.write_text("warning: x\nerror: data.train_files: /nowhere does not exist\nTraceback\n")
    row = only(tmp_path)
    assert (row.state, row.error) == ("not started", "data.train_files: /nowhere does not exist")
    set_phase(run, "refused: trainer.n_gpus_per_node: 9 of 8")
    row = only(tmp_path)
    assert (row.state, row.error) == ("refused", "trainer.n_gpus_per_node: 9 of 8")


def test_accounting_is_asked_only_for_what_left_the_queue(slurm: Path) -> None:
    (slurm / "squeue.txt").write_text("7|RUNNING|None\n")
    (slurm / "sacct.txt").write_text("9|CANCELLED by 1000|0:15\n")
    assert queue.job_states(["7", "9", "10"]) == {
        "7": Job("RUNNING"),
        "9": Job("CANCELLED", "exit code 0:15"),
    }


def test_without_slurm_nothing_is_known_and_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queue.job_states(["7"]) == {}


def test_unreadable_runs_are_rows_too(tmp_path: Path) -> None:
    run = RunDirectory(directory(tmp_path))
    run.open_for_training(CONFIG, seeds={"run": 0})
    run.manifest_path.write_text("{")
    assert (only(tmp_path).state, "not JSON" in only(tmp_path).error) == ("unreadable", True)


def test_the_command_prints_the_table_and_one_line_that_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, state in (("ctpo", "finished"), ("grpo", "failed")):
        run = RunDirectory(directory(tmp_path, method))
        run.open_for_training({**CONFIG, "run": {**CONFIG["run"], "method": method}}, seeds={"run": 0})
        run.finish(state, None if state == "finished" else "boom")  # type: ignore[arg-type]
    assert main(["--runs", str(tmp_path), "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 runs: 1 finished, 1 failed"
    assert any("demo/tiny/grpo/seed0" in line and "boom" in line for line in lines)


def test_nothing_found_is_an_error_that_names_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    assert main(["--runs", str(tmp_path), "--sweep", "demo", "--once"]) == 1
    assert "no run of sweep 'demo'" in capsys.readouterr().out


def test_text_of_an_error_is_never_read_as_markup() -> None:
    table = status_table([RunStatus("a", "failed", error="[red]x[/nothing]")])
    from rich.console import Console

    console = Console(width=120, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    assert "[red]x[/nothing]" in captured.get()
