"""Figures and Table 1 of the theory, from its CSV files, beside those of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import axes_of, write_run

from analysis import style
from analysis.__main__ import _of_theory as of_theory
from analysis.__main__ import main
from analysis.artifacts import Artifact
from analysis.figures.theory import window
from analysis.inputs import NothingToShow
from analysis.registry import OF_THEORY
from analysis.theory import Theory
from ctpo.theory.__main__ import main as compute

pytestmark = pytest.mark.slow

NAMES = ("theory_off_policyness", "theory_horizon", "theory_window", "theory_random_walk")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    folder = tmp_path_factory.mktemp("theory")
    assert compute(["--out", str(folder), "--problems", "3"]) == 0
    return folder


@pytest.fixture(scope="module")
def drawn(folder: Path) -> dict[str, Artifact]:
    with style.applied():
        return {entry.name: entry.make(Theory(folder)) for entry in OF_THEORY}


def test_everything_is_made_and_says_how(drawn: dict[str, Artifact]) -> None:
    assert set(drawn) == {*NAMES, "table1"}
    for artifact in drawn.values():
        assert "`python -m ctpo.theory`" in artifact.caption
        assert "seed" in artifact.caption
        assert "{" not in artifact.caption


def test_lines_are_the_medians_of_the_file(drawn: dict[str, Artifact], folder: Path) -> None:
    table = pd.read_csv(folder / "theory_off_policyness.csv")
    chosen = table.query("advantage == 'outcome' and clipping == 'none' and estimator == 'cumulative'")
    expected = [np.median(group["bias"]) for _, group in chosen.groupby("kl")]
    axis = axes_of(drawn["theory_off_policyness"])[3]
    line = next(line for line in axis.get_lines() if line.get_label() == "cumulative")
    np.testing.assert_allclose(np.asarray(line.get_ydata()), expected)


def test_an_unbiased_ratio_is_named_instead_of_drawn_on_a_logarithmic_axis(drawn: dict[str, Artifact]) -> None:
    first, _, _, outcome = axes_of(drawn["theory_off_policyness"])[:4]
    assert [text.get_text() for text in first.texts] == ["full sequence,\ncumulative: 0"]
    assert [text.get_text() for text in outcome.texts] == ["full sequence: 0"]
    assert len(first.get_lines()) == 2


def test_table_1_holds_the_medians_of_its_file(drawn: dict[str, Artifact], folder: Path) -> None:
    table = pd.read_csv(folder / "table1.csv", dtype={"position": str})
    where = "position == 'total' and advantage == 'outcome' and clipping == 'none' and estimator == 'token'"
    expected = f"{table.query(where)['bias'].median():.3f}"
    table1 = drawn["table1"].table
    assert table1 is not None
    header, rows = table1.header, table1.rows
    assert len(set(header)) == len(header)
    assert len(rows) == 8
    token = next(row for row in rows if row[0] == "outcome-level" and row[1].startswith("token"))
    assert token[3] == expected
    unbiased = [row[1].split()[0] for row in rows if row[3] == "0"]
    assert unbiased == ["full", "cumulative", "full"]


def test_one_missing_or_broken_file_costs_one_figure(folder: Path, tmp_path: Path) -> None:
    for name in NAMES[1:]:
        (tmp_path / f"{name}.csv").write_bytes((folder / f"{name}.csv").read_bytes())
    (tmp_path / "theory_window.csv").write_text("seed,kl\n0,0.1\n")
    (tmp_path / "theory_horizon.csv").write_text("")
    made = dict(of_theory(tmp_path))
    reasons = [str(reason) for reason in made.values() if isinstance(reason, NothingToShow)]
    assert len(reasons) == 4
    assert "no table1.csv" in reasons[0]
    assert "no theory_off_policyness.csv" in reasons[1]
    assert "theory_horizon.csv is unreadable" in reasons[2]
    assert "theory_window.csv lacks vocabulary" in reasons[3]
    assert isinstance(made["theory_random_walk"], Artifact)
    assert all(str(tmp_path) not in reason for reason in reasons)


def test_the_command_adds_them_to_a_sweep(folder: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "runs", method="ctpo")
    out = tmp_path / "out"
    assert main(["--runs", str(tmp_path / "runs"), "--out", str(out), "--theory", str(folder)]) == 0
    names = {path.name for path in out.iterdir()}
    assert {f"{name}.{suffix}" for name in NAMES for suffix in ("pdf", "png", "csv", "md")} <= names
    assert {"table1.csv", "table1.md", "table1.tex"} <= names
    report = (out / "report.html").read_text()
    assert 'id="theory_off_policyness"' in report
    assert str(folder) not in report


def test_without_a_folder_one_line_says_what_to_run(tmp_path: Path) -> None:
    reasons = {str(reason) for _, reason in of_theory(tmp_path / "none")}
    assert reasons == {"the theory's folder does not exist; write it with python -m ctpo.theory"}


def test_equal_numbers_give_equal_bytes(drawn: dict[str, Artifact], folder: Path) -> None:
    with style.applied():
        again = window(Theory(folder))
        for suffix in ("png", "pdf"):
            assert again.rendered(suffix) == drawn["theory_window"].rendered(suffix)
