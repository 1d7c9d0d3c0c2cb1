"""What a user sees of a run: refusals before it starts, progress while it runs, the reason when it fails."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ctpo.records import RunDirectory
from ctpo.records.progress import read_progress, set_phase
from experiments.launch import _reason
from experiments.progress import ProgressLine

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[3]


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "experiments/run.py", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )


def test_a_wrong_request_ends_with_code_2_and_no_traceback(tmp_path: Path) -> None:
    done = run_command(f"run.dir={tmp_path}/run", "actor_rollout_ref.actor.ppo_mini_batch_size=3", "tir.max_turns=0")
    assert done.returncode == 2
    assert "ppo_mini_batch_size=3" in done.stderr
    assert "tir.max_turns=0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not RunDirectory(tmp_path / "run").manifest_path.exists()


def test_a_dry_run_without_a_cluster_starts_nothing(tmp_path: Path) -> None:
    done = run_command(f"run.dir={tmp_path}/run", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"would train here, in {tmp_path}/run\n" in done.stdout
    assert RunDirectory(tmp_path / "run").state is None


@pytest.mark.parametrize("script", ["run", "evaluate", "plan", "prepare"])
def test_a_mistake_is_one_line_and_code_2_in_every_command(script: str) -> None:
    command = [
        sys.executable,
        f"experiments/{script}.py",
        *(["--model=tinny"] if script == "prepare" else ["model=tinny"]),
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said == "error: model=tinny: there is none (do you mean tiny?); there are qwen3_14b, qwen3_4b, tiny"


@pytest.mark.parametrize(
    "command",
    [*(f"experiments/{name}.py" for name in ("run", "evaluate", "plan", "prepare", "status", "export")), "-m analysis"],
)
def test_another_interpreter_is_told_which_one_to_use(command: str) -> None:
    """`-S` hides what is installed, as an interpreter outside the environment does not see it."""
    called = [sys.executable, "-S", *command.split()]
    done = subprocess.run(called, cwd=PROJECT, env={"PATH": ""}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said.endswith("run `make setup` once and start this with .venv/bin/python")


def test_help_names_groups_and_needs_no_verl_import() -> None:
    done = run_command("--help")
    assert done.returncode == 0
    assert "method: cispo, cppo, ctpo, " in done.stdout


def test_missing_model_and_data_are_named_before_anything_starts(tmp_path: Path) -> None:
    done = run_command(f"run.dir={tmp_path}/run", "model_spec.kind=folder", "+model_spec.path=/nowhere")
    assert done.returncode == 2
    assert "model_spec.path=/nowhere: no such folder" in done.stderr


INTERRUPTED = """
import sys
from experiments import command, launch
from experiments.compose import composed
def interrupt(*arguments):
    raise KeyboardInterrupt
launch._run_verl = interrupt  # Ctrl-C while verl trains
sys.exit(command.ended(lambda _: launch._open_and_train(composed([f"run.dir={sys.argv[1]}"]))))
"""


def test_ctrl_c_is_recorded_and_said_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == f"interrupted at step 0; the same command continues it: {tmp_path}"
    assert "Traceback" not in done.stderr
    assert RunDirectory(tmp_path).state == "interrupted"


@pytest.mark.parametrize(
    ("place", "said"),
    [("/proc/runs", "/proc/runs"), ("/dev/null/runs", "/dev/null/runs"), ("{file}/runs", "Not a directory")],
)
def test_a_place_that_takes_no_files_is_one_line(tmp_path: Path, place: str, said: str) -> None:
    file = tmp_path / "file"
    file.touch()
    code = INTERRUPTED.replace("run.dir={sys.argv[1]}", "run.dir={sys.argv[1]}/seed0")
    place = place.format(file=file)
    done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert line.endswith("name another run.root")


@pytest.mark.parametrize("prefix", ["", "\x1b[36m(AgentLoopWorkerTQ pid=7)\x1b[0m "])
def test_the_first_logged_error_is_named_as_the_cause(tmp_path: Path, prefix: str) -> None:
    log = tmp_path / "run.log"
    log.write_text("OldError: of an earlier attempt\n")
    start = log.stat().st_size
    with open(log, "a") as file:
        file.write(f"{prefix}Traceback (most recent call last):\n{prefix}  File ...\n")
        file.write(f"{prefix}vllm.v1.engine.exceptions.EngineDeadError: EngineCore died\nValueError: later\n")
    reason = _reason(RuntimeError("no trajectories"), log, start)
    assert reason.splitlines()[0] == "RuntimeError: no trajectories"
    assert "EngineDeadError: EngineCore died" in reason
    assert "later" not in reason
    assert "earlier attempt" not in reason


def test_a_reason_is_not_said_twice(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("RuntimeError: no trajectories\n")
    assert _reason(RuntimeError("no trajectories"), log, 0) == "RuntimeError: no trajectories"


def test_progress_is_a_line_for_each_change_where_there_is_no_terminal(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    (tmp_path / "run").mkdir()
    config = OmegaConf.create(
        {
            "run": {"dir": str(run.path), "sweep": "demo", "model": "tiny", "method": "ctpo", "seed": 0},
            "trainer": {"total_training_steps": 2},
        }
    )
    shown = io.StringIO()
    with ProgressLine(config, shown) as line:
        set_phase(run.path, "training")
        line._show(read_progress(run.path))
        run.append_metrics(1, {"val-core/arithmetic/acc/mean@4": 0.25, "actor/pg_clipfrac": 0.05})
        line._show(read_progress(run.path))
        line._show(read_progress(run.path))
    lines = shown.getvalue().splitlines()
    assert [line.split("] ")[1].split("  ")[0] for line in lines if "training" in line] == [
        "tiny ctpo seed 0: step 0/2",
        "tiny ctpo seed 0: step 1/2",
    ]
    assert "held-out 0.250" in lines[-1]
    assert "clipped 5.0%" in lines[-1]


def test_output_of_children_goes_to_the_log_and_progress_to_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "run.log"
    code = (
        "import subprocess, sys; from pathlib import Path; from experiments.progress import captured_output\n"
        "with captured_output(Path(sys.argv[1])) as terminal:\n"
        "    print('from python'); subprocess.run(['echo', 'from a child']); print('progress', file=terminal)\n"
        "print('afterwards')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, text=True, timeout=60)
    assert sorted(log.read_text().splitlines()) == ["from a child", "from python"]
    assert done.stderr == "progress\n"
    assert done.stdout == "afterwards\n"


def test_a_terminal_that_has_gone_does_not_keep_a_run_from_ending(tmp_path: Path) -> None:
    """A pipe whose reader is dead, as `| tee` leaves it."""
    reader, writer = os.pipe()
    os.close(reader)
    run = {"sweep": "demo", "dir": str(tmp_path), "model": "tiny", "method": "ctpo", "seed": 0}
    config = OmegaConf.create({"run": run, "trainer": {"total_training_steps": 2}})
    records = RunDirectory(tmp_path)
    records.open_for_training({"run": run}, seeds={"run": 0})
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w", buffering=1) as terminal:
        with ProgressLine(config, terminal) as line:
            set_phase(tmp_path, "training")
            line._thread.join(30)
            set_phase(tmp_path, "saving a checkpoint")  # something new to show at the end
        records.finish("finished")
        with pytest.raises(BrokenPipeError):
            print("the terminal has gone indeed", file=terminal)
    assert not line._thread.is_alive()
    assert records.state == "finished"
