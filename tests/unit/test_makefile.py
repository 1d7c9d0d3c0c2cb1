"""What `make` would do; nothing is installed here."""

from __future__ import annotations

import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def planned(*arguments: str) -> str:
    done = subprocess.run(["make", "-n", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=60)
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
    assert "run.root=/scratch/runs" in commands
    assert "--runs /scratch/runs" in commands
