"""`python -m ctpo.theory`: prints, writes, fails."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ctpo.theory import __main__ as command
from ctpo.theory.checks import all_checks
from ctpo.theory.study import BATCH, TOKEN_LEVEL, DecisionProcess, measure
from ctpo.theory.tables import Check, median, table_1_text, write_csv

pytestmark = pytest.mark.slow

Output = pytest.CaptureFixture[str]
FILES = {"table1", "theory_off_policyness", "theory_horizon", "theory_window", "theory_random_walk"}
FILES |= {"theory_groups", "theory_methods"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theory") / "new"
    assert command.main(["--out", str(folder), "--problems", "2"]) == 0
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_files_are_written_with_seeds_and_settings_in_every_row(written: Path) -> None:
    assert {path.stem for path in written.iterdir()} == FILES
    for name in FILES - {"theory_random_walk"}:
        for row in rows(written / f"{name}.csv"):
            assert row["seed"] in {"0", "1"}
            assert all(row[column] for column in ("vocabulary", "horizon", "parameters", "kl", "batch", "advantage"))
    assert all(row["seed"] for row in rows(written / "theory_random_walk.csv"))


def test_table_1_has_every_position_and_the_total(written: Path) -> None:
    found = rows(written / "table1.csv")
    assert {row["position"] for row in found} == {"1", "2", "3", "4", "5", "6", "total"}
    unbiased = [row for row in found if row["estimator"] == "cumulative" and row["clipping"] == "none"]
    assert all((float(row["bias"]) == 0) == (row["advantage"] == "token" or row["position"] == "6") for row in unbiased)


def test_the_same_command_writes_the_same_bytes(written: Path, tmp_path: Path) -> None:
    command.main(["--out", str(tmp_path), "--problems", "2"])
    assert {path.name: path.read_bytes() for path in written.iterdir()} == {
        path.name: path.read_bytes() for path in tmp_path.iterdir()
    }


def test_the_last_line_is_the_verdict_and_a_failed_check_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    failing = [*all_checks()[:1], Check("a claim that does not hold", 0.5, 1e-12)]
    monkeypatch.setattr(command, "all_checks", lambda: failing)
    assert command.main(["--out", str(tmp_path), "--problems", "1"]) == 1
    printed = capsys.readouterr().out
    assert printed.strip().splitlines()[-1].startswith("FAILED: 1 of 2 checks hold; 7 CSV files")
    assert "FAIL   5.0e-01" in printed


def test_bad_arguments_are_one_line(tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "file"
    file.touch()
    assert command.main(["--out", str(file)]) == 2
    assert command.main(["--problems", "0"]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_every_claim_is_checked_and_holds() -> None:
    checks = all_checks()
    assert len(checks) == 9
    assert all(check.holds for check in checks), checks


def test_pairs_lie_as_far_apart_as_was_asked() -> None:
    for kl in (1e-3, 0.25):
        assert DecisionProcess.random(3, 3, 4).pair(kl).sequence_kl == pytest.approx(kl, rel=1e-6)


def test_rows_add_up_and_the_text_shows_their_medians() -> None:
    problem = DecisionProcess.random(0, 3, 4)
    found = list(measure(problem, problem.pair(0.1), by_position=True, more=True))
    for row in found:
        assert row["mse_batch"] == pytest.approx(row["bias"] ** 2 + row["variance"] / BATCH)
    where = {"advantage": TOKEN_LEVEL, "estimator": "token", "clipping": "none", "position": "total"}
    text = table_1_text(found)
    assert f"{median(found, 'bias', **where):.3f}" in text
    with pytest.raises(KeyError, match="no row"):
        median(found, "bias", estimator="none such")


def test_rounding_is_written_as_zero(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [{"a": 3e-16, "b": float("nan"), "c": 1 / 3, "d": "text", "e": 7}])
    assert (tmp_path / "x.csv").read_text() == "a,b,c,d,e\n0,,0.333333,text,7\n"
