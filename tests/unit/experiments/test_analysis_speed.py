"""The paper-scale records that the analysis is timed on are records like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.__main__ import main
from ctpo.records import find_runs
from experiments.speed.analysis import BENCHMARKS, EVALUATIONS, GRID, SWEEP, write_paper_scale

pytestmark = pytest.mark.slow


def test_generated_records_are_complete_and_analysed_without_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_paper_scale(tmp_path / "runs", 0.02)
    found = find_runs(tmp_path / "runs", SWEEP)
    assert (len(found.runs), found.problems) == (len(GRID), [])
    for run in found.runs:
        assert (run.last_step, run.benchmarks) == (6, sorted(BENCHMARKS))
        assert run.position_stats_steps == [1, 2, 3, 4, 5, 6]
        assert len(run.sample_steps("aime25")) == min(EVALUATIONS, 7)
    assert main(["--runs", str(tmp_path / "runs"), "--sweep", SWEEP, "--out", str(tmp_path / "out")]) == 0
    assert "from 7 runs, 0 problems" in capsys.readouterr().out
