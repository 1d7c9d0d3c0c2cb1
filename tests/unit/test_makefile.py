"""What `make` would do; nothing is installed here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-n", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=60)


def planned(*arguments: str) -> str:
    done = make(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_environment_keeps_its_lock_and_another_lock_makes_it_anew(tmp_path: Path) -> None:
    venv = f"VENV={tmp_path}"
    assert f"setup.sh {tmp_path} requirements/cpu.lock" in planned("setup", venv)
    (tmp_path / ".setup-done").write_text("requirements/gpu.lock\n")
    assert "setup.sh" not in planned("setup", venv)
    assert f"setup.sh {tmp_path} requirements/gpu.lock" in planned("-W", "pyproject.toml", "setup", venv)
    anew = planned("setup", venv, "LOCK=requirements/cpu.lock")
    assert f"rm -rf {tmp_path}\n" in anew
    assert f"setup.sh {tmp_path} requirements/cpu.lock" in anew


def test_the_demo_trains_where_its_figures_look() -> None:
    commands = planned("demo", "RUNS=/scratch/runs")
    assert """'run.root="/scratch/runs"'""" in commands
    assert '--runs "/scratch/runs"' in commands


@pytest.mark.parametrize("target", ["figures", "status"])
@pytest.mark.parametrize("name", ["SWEEP", "sweep", "Sweep"])
def test_variables_may_be_written_in_either_case(target: str, name: str) -> None:
    assert '--sweep "mine"' in planned(target, f"{name}=mine")
    assert '--runs "/scratch/my runs" --sweep "demo"' in planned(target, "runs=/scratch/my runs")


def test_every_variable_has_its_lower_case(tmp_path: Path) -> None:
    given = ("venv=" + str(tmp_path), "lock=requirements/gpu.lock", "python=/opt/python")
    assert f"PYTHON=/opt/python bash requirements/setup.sh {tmp_path} requirements/gpu.lock" in planned("setup", *given)


@pytest.mark.parametrize(
    "arguments",
    [["sweeep=mine"], ["swept=mine"], ["METHOD=ctpo"], ["sweep=mine", "swep=x"], ["SWEEP=mine", "sweep=mine"]],
)
def test_a_variable_that_does_not_exist_or_is_given_twice_is_named_in_one_line(arguments: list[str]) -> None:
    done = make("figures", *arguments)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert f"{arguments[-1]}: unknown, or given twice; there are PYTHON VENV LOCK RUNS SWEEP" in line


def test_settings_of_what_the_recipes_start_are_let_through() -> None:
    assert '--sweep "demo"' in planned("figures", "PIP_INDEX_URL=x", "CTPO_CACHE=/c", "WANDB_MODE=offline")


def test_help_says_which_targets_take_a_sweep() -> None:
    done = subprocess.run(["make"], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    of_a_sweep = [line.split()[1] for line in done.stdout.splitlines() if "SWEEP=name" in line]
    assert of_a_sweep == ["figures", "status"]
    assert "Variables: PYTHON VENV LOCK RUNS SWEEP" in done.stdout


def test_a_shim_without_its_python_is_no_python(tmp_path: Path) -> None:
    """As pyenv leaves them for versions that are not installed."""
    for name in ("python3.11", "python3.12", "python3.10", "python3"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
        (tmp_path / name).chmod(0o755)
    command = [shutil.which("bash") or "bash", "requirements/setup.sh", str(tmp_path / "venv"), "requirements/cpu.lock"]
    done = subprocess.run(command, cwd=PROJECT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: no Python 3.10 to 3.12 starts here as python3.11 or python3; install 3.11")


def test_a_checkout_may_have_a_blank_in_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "my checkout"
    folder.mkdir()
    for name in ("Makefile", "requirements", "pyproject.toml"):
        (folder / name).symlink_to(PROJECT / name)
    done = subprocess.run(["make", "-n", "demo"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert f"""'run.root="{folder}/results/runs"'""" in done.stdout, done.stderr
