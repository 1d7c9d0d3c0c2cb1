"""`python -m analysis` on whole sweeps: complete, byte-stable, and clear about everything that is wrong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import ACCURACY, sample_rows, walk_stats, write_run, write_sweep

from analysis.__main__ import main
from analysis.evaluation import Evaluation
from analysis.figures import figure1, figure1_sides, figure2, heat_maps
from analysis.inputs import NothingToShow, Sweep
from analysis.reported import load_reported
from analysis.scores import final_scores
from analysis.tables import table2, table2_differences, table3

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[3]
METHODS = ("grpo", "gspo", "ctpo", "ctpo_fixed")
PICTURE = ("pdf", "png", "csv", "md")
Run = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four methods, one seed; read only."""
    root = tmp_path_factory.mktemp("runs")
    write_sweep(root)
    return root


@pytest.fixture(scope="module")
def analysed(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything of that sweep; read only."""
    out = tmp_path_factory.mktemp("figures")
    assert analyse(sweep, out) == 0
    return out


def analyse(runs: Path, out: Path, *more: str) -> int:
    return main(["--runs", str(runs), "--out", str(out), *more])


def load(runs: Path) -> Sweep:
    return Sweep.load(runs, "demo")


def problems_of(sweep: Sweep) -> str:
    return " | ".join(map(str, sweep.found.problems))


def test_every_figure_and_table_of_a_sweep_is_written_figure_1_for_every_method(analysed: Path) -> None:
    names = {path.name for path in analysed.iterdir()}
    by_method = [
        f"{kind}_tiny_{method}" for kind in ("figure1", "figure1_sides", "ratios", "heat_maps") for method in ACCURACY
    ]
    figures = {f"{name}.{suffix}" for name in (*by_method, "figure2_tiny", "exponents_tiny") for suffix in PICTURE}
    tables = tuple(
        f"{name}_tiny"
        for name in ("claims", "table2", "table2_differences", "table3", "growth_laws", "clip_uniformity")
    )
    assert names == figures | {f"{name}.{suffix}" for name in tables for suffix in ("csv", "md", "tex")} | {
        "report.html"
    }
    assert set(pd.read_csv(analysed / "exponents_tiny.csv")["method"]) == set(ACCURACY)
    widths = {int.from_bytes(path.read_bytes()[16:20]) for path in analysed.glob("*.png")}
    assert widths == {1750}  # a page of 7 inches at 250 dots per inch: no picture is scaled up in the report


def test_steps_and_methods_can_be_chosen_and_an_unknown_one_is_named(sweep: Path, tmp_path: Path, capsys: Run) -> None:
    assert analyse(sweep, tmp_path, "--steps", "5", "15", "--method", "gspo") == 0
    assert {path.name for path in tmp_path.glob("figure1*.png")} == {
        "figure1_tiny_gspo.png",
        "figure1_sides_tiny_gspo.png",
    }
    assert set(pd.read_csv(tmp_path / "exponents_tiny.csv")["method"]) == {"gspo"}
    assert set(pd.read_csv(tmp_path / "figure1_tiny_gspo.csv")["step"]) == {5, 15}
    assert "`python -m analysis --sweep demo --steps 5 15 --method gspo`" in (tmp_path / "table2_tiny.md").read_text()
    assert analyse(sweep, tmp_path / "none", "--method", "gspo", "gspoo") == 2
    assert capsys.readouterr().err == ("error: --method gspoo: no such run; there are: ctpo, ctpo_fixed, grpo, gspo\n")
    assert not (tmp_path / "none").exists()


def test_the_figures_of_a_run_change_no_tracked_file(sweep: Path, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        name = ("-c", "user.name=t", "-c", "user.email=t@t")
        return subprocess.run(
            ["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    for part in (".gitignore", "analysis", "ctpo", "paper_figures", "results/paper"):
        source, copy = PROJECT / part, tmp_path / part
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("demo")) if source.is_dir() else shutil.copy(
            source, copy
        )
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "as it ships")
    shutil.copytree(sweep, tmp_path / "results" / "runs")
    command = [sys.executable, "-m", "analysis", "--sweep", "demo", "--method", "ctpo"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "paper_figures" / "demo" / "report.html").is_file()
    assert git("status", "--porcelain") == ""


def test_equal_records_give_equal_bytes_wherever_they_lie(sweep: Path, analysed: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "moved")
    analyse(tmp_path / "moved", tmp_path / "again", "--method", "ctpo")
    again = [path for kind in ("p*", "csv", "tex") for path in (tmp_path / "again").glob(f"*_tiny*.{kind}")]
    again = [
        path for path in again if not path.stem.startswith(("exponents", "growth_laws"))
    ]  # of all methods, or of one
    assert len(again) == 3 * 5 + 2 * 5
    assert all(path.read_bytes() == (analysed / path.name).read_bytes() for path in again)


def test_captions_say_runs_commits_seeds_and_command_but_no_path_of_this_machine(sweep: Path, analysed: Path) -> None:
    text = (analysed / "figure1_tiny_ctpo.md").read_text()
    assert "`python -m analysis --sweep demo`" in text
    assert "`demo/tiny/ctpo/seed0`, commit" in text
    assert "Seeds: 0" in text
    assert "n = " in text
    assert not any(str(sweep) in path.read_text() for path in analysed.glob("*.md"))


def test_the_table_says_what_the_samples_say(tmp_path: Path) -> None:
    scores = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    write_run(tmp_path, method="ctpo", evaluated=(15,), scores={15: scores}, stats_at=())
    write_run(tmp_path, method="grpo", evaluated=(15,), scores={15: scores[::-1]}, stats_at=())
    table = table2.make(load(tmp_path), "tiny").data.set_index(["method", "metric"])["value"]
    assert table["ctpo", "avg@2"] == 0.5
    assert table["ctpo", "pass@2"] == pytest.approx(2 / 3)
    assert table["ctpo", "majority@2"] == 0.5  # a tie of a right and a wrong answer counts half
    pairs = table2_differences.make(load(tmp_path), "tiny").data
    assert pairs["difference"].tolist() == [0.0]
    assert pairs["problems"].tolist() == [3]
    assert pairs["p"].isna().all()  # one seed each


def test_several_benchmarks_and_seeds_are_averaged(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, seed=seed, evaluated=(15,), benchmarks=("aime", "amc"), problems=10)
    scores = final_scores(Sweep.load(tmp_path, "demo"), "tiny")
    cells = scores.cells["ctpo"]
    assert cells["aime"].scores.shape == (2, 10)
    average = scores.average("ctpo")
    assert average is not None
    assert average.estimate == pytest.approx((cells["aime"].scores.mean() + cells["amc"].scores.mean()) / 2)
    assert average.low < average.estimate < average.high


def test_nothing_found_is_an_error_that_names_the_sweeps_there_are(sweep: Path, tmp_path: Path, capsys: Run) -> None:
    assert analyse(sweep, tmp_path, "--sweep", "absent") == 2
    assert capsys.readouterr().err == f"error: --sweep absent: no such folder under {sweep}; there are: demo\n"
    assert analyse(tmp_path / "nowhere", tmp_path) == 2
    assert "run one first" in capsys.readouterr().err
    for escape in ("../demo", ".", "..", "", "*", "dem?", "/tmp", "demo/", "demo/tiny", "de mo\n"):
        assert analyse(sweep, tmp_path, "--sweep", escape) == 2
        assert "there are: demo" in capsys.readouterr().err


def test_an_unfinished_run_is_named_and_has_no_cell(tmp_path: Path) -> None:
    write_run(tmp_path, method="ctpo", stats_at=())
    write_run(tmp_path, method="grpo", state="running", evaluated=(0, 5), stats_at=())
    sweep = load(tmp_path)
    artifact = table2.make(sweep, "tiny")
    assert "unfinished: demo/tiny/grpo/seed0: state is 'running'" in problems_of(sweep)
    assert set(artifact.data["method"]) == {"ctpo"}
    assert "| GRPO | – | 0 | – | – |" in artifact.markdown("")
    assert "demo/tiny/grpo/seed0 is not finished" in artifact.caption


def test_a_run_that_was_not_evaluated_at_its_end_has_no_cell(tmp_path: Path) -> None:
    write_run(tmp_path, method="ctpo", stats_at=())
    write_run(tmp_path, method="grpo", evaluated=(0, 10), stats_at=())
    caption = table2.make(load(tmp_path), "tiny").caption
    assert "last evaluated at step 10, not after the last step 15" in caption


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("nan", "1 of 8 values of score are missing or NaN"),
        ("above one", "1 of 8 scores are not between 0 and 1, the first is 3.32"),
        ("uneven", "1 to 2 samples per problem"),
        ("torn", "not a samples file"),
        ("twice", "has 8 samples twice"),
    ],
)
def test_damaged_samples_are_named_and_leave_the_cell_empty(tmp_path: Path, damage: str, message: str) -> None:
    write_run(tmp_path, method="ctpo", problems=4, k=2, stats_at=())
    run = write_run(tmp_path, method="grpo", problems=4, k=2, stats_at=())
    path = run.path / "samples" / "arithmetic" / "step_15.parquet"
    rows = sample_rows(np.ones((4, 2)))
    run.write_samples("arithmetic", 15, rows[:-1] if damage == "uneven" else rows)
    frame = pd.read_parquet(path)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "twice":
        pd.concat([frame, frame]).to_parquet(path, index=False)
    elif damage != "uneven":
        frame.loc[3, "score"] = float("nan") if damage == "nan" else 3.32
        frame.to_parquet(path, index=False)
    sweep = load(tmp_path)
    artifact = table2.make(sweep, "tiny")
    assert message in problems_of(sweep)
    assert set(artifact.data["method"]) == {"ctpo"}
    # The learning curve skips the step instead of guessing it.
    assert figure2.accuracy_curve(sweep, sweep.runs("tiny", "grpo")[0])[0].tolist() == [0, 5, 10]


def test_runs_evaluated_on_other_problems_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, method="ctpo", problems=10, stats_at=())
    write_run(tmp_path, method="grpo", problems=12, stats_at=())
    artifact = table2.make(load(tmp_path), "tiny")
    assert "other problems than the first run's" in artifact.caption
    assert len(set(artifact.data["method"])) == 1
    with pytest.raises(NothingToShow, match="no two methods"):
        table2_differences.make(load(tmp_path), "tiny")


def test_benchmarks_with_another_number_of_samples_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, benchmarks=("aime25",), k=4, stats_at=())
    run.write_samples("hmmt25", 15, sample_rows(np.ones((10, 2))))
    scores = final_scores(load(tmp_path), "tiny")
    assert set(scores.cells["ctpo"]) == {"aime25"}
    assert scores.left_out == ("demo/tiny/ctpo/seed0 on hmmt25: k 2, elsewhere 4",)


def test_benchmarks_of_different_seeds_are_not_averaged_as_one_run(tmp_path: Path) -> None:
    for method in ("ctpo", "grpo"):
        for seed in (0, 1):
            write_run(tmp_path, method=method, seed=seed, benchmarks=("aime25", "hmmt25"), stats_at=())
    for seed, benchmark in ((0, "aime25"), (1, "hmmt25")):
        (tmp_path / f"demo/tiny/ctpo/seed{seed}/samples/{benchmark}/step_15.parquet").unlink()
    scores = final_scores(load(tmp_path), "tiny")
    assert {name: cell.seeds for name, cell in scores.cells["ctpo"].items()} == {"aime25": (1,), "hmmt25": (0,)}
    assert scores.average("ctpo") is None
    assert scores.pair("ctpo", "grpo") is None
    assert scores.average("grpo") is not None


def test_torn_position_stats_are_named_and_the_other_steps_are_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    path = run.path / "position_stats" / "step_10.npz"
    path.write_bytes(path.read_bytes()[:500])
    sweep = load(tmp_path)
    assert set(figure1.make(sweep, "tiny", "ctpo").data["step"]) == {5, 15}
    assert "position_stats/step_10.npz: not a position-stats archive" in problems_of(sweep)


def test_statistics_of_which_none_can_be_read_are_not_taken_for_empty_ones(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for path in (run.path / "position_stats").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(NothingToShow, match="no position statistics of tiny/ctpo can be read"):
        figure1.make(load(tmp_path), "tiny", "ctpo")


def test_a_first_update_with_ratios_other_than_one_is_a_problem(tmp_path: Path) -> None:
    shifted = walk_stats(np.random.default_rng(0), moved_first=True)
    write_run(tmp_path, stats_at=(15,), stats={15: shifted})
    sweep = load(tmp_path)
    figure1.make(sweep, "tiny", "ctpo")
    assert "log-ratios of the first update spread by" in problems_of(sweep)


def test_statistics_of_first_updates_only_are_not_drawn(tmp_path: Path) -> None:
    write_run(tmp_path, stats_at=(15,), stats={15: walk_stats(np.random.default_rng(0), updates=1)})
    for make in (figure1.make, figure1_sides.make, heat_maps.make):
        with pytest.raises(NothingToShow, match="no update but the first"):
            make(load(tmp_path), "tiny", "ctpo")


def test_a_run_without_position_stats_says_what_to_set(tmp_path: Path, capsys: Run) -> None:
    write_run(tmp_path, stats_at=())
    assert analyse(tmp_path, tmp_path / "out") == 0
    assert "set records.position_stats_every" in capsys.readouterr().out


def test_a_run_whose_ratios_are_all_one_is_drawn_without_a_fit(tmp_path: Path) -> None:
    write_run(tmp_path, stats_at=(15,), stats={15: walk_stats(np.random.default_rng(0), sigma=0.0)})
    figure = figure1.make(load(tmp_path), "tiny", "ctpo").data
    assert (figure["std"] == 0).all()
    assert figure["exponent"].isna().all()


def test_figure_one_reads_the_planted_growth(tmp_path: Path) -> None:
    planted = walk_stats(np.random.default_rng(1), prompts=400, sigma=0.04)
    write_run(tmp_path, stats_at=(15,), stats={15: planted})
    figure = figure1.make(load(tmp_path), "tiny", "ctpo").data
    assert figure["sigma_sqrt"][0] == pytest.approx(0.04, rel=0.06)
    assert figure["exponent_low"][0] < 0.5 < figure["exponent_high"][0]


@pytest.mark.parametrize(
    ("steps", "chosen"),
    [
        (range(1, 16), [5, 10, 15]),
        (range(10, 310, 10), [50, 100, 150]),
        ([20, 40, 160], [40, 160]),
        ([3], [3]),
    ],
)
def test_steps_shown_are_the_papers_or_thirds(tmp_path: Path, steps: range, chosen: list[int]) -> None:
    assert Sweep.load(tmp_path, "demo").choose_steps(list(steps))[0] == chosen


def test_steps_that_are_not_recorded_are_said_so(tmp_path: Path) -> None:
    chosen, why = Sweep.load(tmp_path, "demo", [7]).choose_steps([5, 10])
    assert chosen == [5]
    assert "nearest recorded: 5 for 7" in why


def test_majority_takes_the_most_frequent_answer_and_shares_ties() -> None:
    answers = np.array([["a", "a", "b"], ["a", "b", None], [None, None, None]], dtype=object)
    scores = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    evaluation = Evaluation("toy", 1, ("x", "y", "z"), scores, answers)
    assert evaluation.majority.tolist() == [1.0, 0.5, 0.0]
    assert evaluation.passed.tolist() == [1.0, 1.0, 0.0]


def test_reported_numbers_have_a_source_and_unknown_ones_say_so() -> None:
    cells = load_reported()
    assert {(cell.model, cell.method): cell.value for cell in cells if cell.value > 0} == {
        ("qwen3_4b", "ctpo"): 51.4,
        ("qwen3_4b", "gspo"): 47.7,
        ("qwen3_14b", "ctpo"): 58.8,
        ("qwen3_14b", "gspo"): 55.5,
        ("qwen3_14b", "ctpo_fixed"): 55.7,
    }
    assert all(cell.source and cell.retrieved and cell.note for cell in cells)


def test_paper_numbers_stand_beside_ours_and_an_unknown_one_is_not_a_number(tmp_path: Path) -> None:
    write_run(tmp_path, model="qwen3_4b", method="ctpo", stats_at=())
    artifact = table2.make(load(tmp_path), "qwen3_4b")
    assert artifact.table is not None
    paper = {row[0]: row[-1] for row in artifact.table.rows}
    assert paper == {"CTPO": "51.4", "GSPO": "47.7", "GRPO": "not recovered"}
    assert not (artifact.data["value"] > 1).any()


def test_table_3_is_the_two_windows_and_their_paired_difference(tmp_path: Path) -> None:
    right, half = np.ones((8, 2)), np.tile([1.0, 0.0], (8, 1))
    half[0] = 1.0
    for method, scores in (("ctpo", right), ("ctpo_fixed", half), ("grpo", right)):
        for seed in (0, 1):
            run = {"model": "qwen3_14b", "method": method, "seed": seed}
            write_run(tmp_path, **run, evaluated=(15,), scores={15: scores}, stats_at=())
    artifact = table3.make(load(tmp_path), "qwen3_14b")
    assert artifact.table is not None
    assert [row[0] for row in artifact.table.rows] == ["CTPO, fixed clip", "CTPO", "adaptive − fixed"]
    # Differences of 0 and seven times a half, in both seeds: t = 7, 7 degrees of freedom.
    assert re.fullmatch(r"43\.8 \[\d\d\.\d, \d\d\.\d\], p <0\.001", artifact.table.rows[-1][1])
    assert [row[-1] for row in artifact.table.rows] == ["55.7", "58.8", ""]
    assert "on aime25, aime26, brumo25, hmmt25 could not be recovered" in artifact.caption
    assert {run.method for run in artifact.runs} == {"ctpo", "ctpo_fixed"}


def test_without_both_windows_there_is_no_table_3(tmp_path: Path) -> None:
    write_run(tmp_path, method="ctpo", stats_at=())
    with pytest.raises(NothingToShow, match="not both evaluated"):
        table3.make(load(tmp_path), "tiny")


def test_a_step_is_chosen_only_by_a_benchmark_that_is_not_reported(tmp_path: Path) -> None:
    scores = {step: np.full((4, 2), float(step == 10)) for step in (5, 10, 15)}
    for method in ("ctpo", "grpo"):
        write_run(
            tmp_path, method=method, evaluated=(5, 10, 15), benchmarks=("dev", "aime"), scores=scores, stats_at=()
        )
    assert final_scores(load(tmp_path), "tiny").steps == (15,)
    selected = final_scores(Sweep.load(tmp_path, "demo", select_on="dev"), "tiny")
    assert (selected.steps, selected.benchmarks) == ((10,), ("aime",))
    assert selected.cells["ctpo"]["aime"].interval.estimate == 1.0
    assert "best score on dev" in selected.rule
    assert "no step was chosen by its score" in final_scores(load(tmp_path), "tiny").rule
    with pytest.raises(NothingToShow, match="to choose a step by"):
        final_scores(Sweep.load(tmp_path, "demo", select_on="absent"), "tiny")


def test_a_benchmark_to_select_on_must_have_been_evaluated(sweep: Path, tmp_path: Path, capsys: Run) -> None:
    assert main(["--runs", str(sweep), "--out", str(tmp_path / "out"), "--select-on", "aime42"]) == 2
    assert "--select-on aime42: no run was evaluated on it; there are: arithmetic" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "why"), [("file", "File exists"), ("file/out", "Not a directory"), ("o" * 300, "File name too long")]
)
def test_figures_need_a_folder(sweep: Path, tmp_path: Path, capsys: Run, out: str, why: str) -> None:
    (tmp_path / "file").touch()
    assert main(["--runs", str(sweep), "--out", str(tmp_path / out)]) == 2
    assert f"--out {tmp_path / out}: {why}; name a folder that can be written to" in capsys.readouterr().err


def test_the_report_is_one_file_with_every_picture_and_table_and_no_address(analysed: Path) -> None:
    report = (analysed / "report.html").read_text()
    assert report.count("<img ") == len(list(analysed.glob("*.png")))
    assert report.count("<table ") == 1 + len(list(analysed.glob("*.tex")))  # the first says which runs there are
    assert not re.search(r"(src|href)=\"(?!data:|#)", report)
    assert "http" not in re.sub(r"data:[^\"]*", "", report)  # a long picture in base64 can hold the word by chance
    parser = _Balanced()
    parser.feed(report)
    assert parser.open == []


def test_the_report_goes_from_runs_and_contents_to_what_was_left_out(analysed: Path) -> None:
    report = (analysed / "report.html").read_text()
    links = re.findall(r'<a href="#([^"]*)"', report)
    assert links == re.findall(r'<h2 id="([^"]*)"', report)
    assert links[:7] == ["claims_tiny", "table2_tiny", *(f"figure1_tiny_{m}" for m in METHODS), "figure2_tiny"]
    headings = [
        "demo/tiny/ctpo_fixed/seed0",
        ">Contents<",
        'id="claims_tiny"',
        'id="heat_maps_tiny_ctpo"',
        ">Left out<",
    ]
    places = [report.index(heading) for heading in headings]
    assert places == sorted(places)
    assert "<h2 id=" not in report[places[-1] :]


class _Balanced(HTMLParser):
    """Fails on a tag that closes another than the last one opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("line", "message"),
    [("m,g,average,avg@32,12x,s,d,n", "line 2: value '12x'"), ("m,g,a,b,,s,d,", "needs a note")],
)
def test_a_malformed_reported_number_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "reported.csv"
    path.write_text(f"model,method,benchmark,metric,value,source,retrieved,note\n{line}\n")
    with pytest.raises(ValueError, match=message):
        load_reported(path)
