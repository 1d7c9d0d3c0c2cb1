"""An accuracy is told with how its samples were drawn; accuracies of other draws never share its title or its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_run

from analysis.figures import figure2, swept
from analysis.inputs import Sweep
from analysis.scores import final_scores
from analysis.tables import claims, table2, table2_differences, table3
from ctpo.records import RunDirectory, Sampling

DRAWN = "temperature 0.7, top_p 1, k = 4, at most 5 turns, 256 tokens"


def config(**changed: Any) -> dict[str, Any]:
    """The nodes of a run's config that decide its samples."""
    given = {"temperature": 0.7, "top_p": 1.0, "top_k": -1, "turns": 5, "tokens": 256, "wall_s": 5.0, "k": 4, **changed}
    drawn = {"n": given["k"], **{name: given[name] for name in ("temperature", "top_p", "top_k")}}
    return {
        "actor_rollout_ref": {"rollout": {"val_kwargs": drawn}},
        "tir": {"max_turns": given["turns"], "sandbox": {"wall_s": given["wall_s"], "concurrency": given.get("calls")}},
        "data": {"max_response_length": given["tokens"], "apply_chat_template_kwargs": {"enable_thinking": False}},
    }


def write(root: Path, method: str = "ctpo", **changed: Any) -> RunDirectory:
    return write_run(root, method=method, k=changed.get("k", 4), stats_at=(), config=config(**changed))


def test_every_accuracy_caption_says_how_samples_were_drawn(tmp_path: Path) -> None:
    write(tmp_path, "ctpo_fixed")
    for method, power in (("ctpo", 0.5), ("ctpo-p0.25", 0.25)):
        variant = {"method": {"name": "ctpo", "window": {"power": power}}}
        write_run(tmp_path, method=method, stats_at=(), config=config() | variant)
    sweep = Sweep.load(tmp_path, "demo")
    for make in (table2.make, table2_differences.make, table3.make, claims.make, figure2.make, swept.make):
        artifact = make(sweep, "tiny")
        assert f"Samples were drawn at {DRAWN}." in artifact.caption
    for make in (table2.make, table2_differences.make, table3.make):
        assert f"avg@4 at {DRAWN}" in make(sweep, "tiny").title


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"temperature": 1.0}, "temperature 1, top_p 1, k = 4"),
        ({"temperature": 0}, "temperature 0, top_p 1, k = 4"),
        ({"top_p": 0.95}, "temperature 0.7, top_p 0.95, k = 4"),
        ({"top_k": 20}, "temperature 0.7, top_p 1, top_k 20, k = 4"),
        ({"k": 2}, "temperature 0.7, top_p 1, k = 2"),
        ({"turns": 1}, "at most 1 turns, 256 tokens"),
        ({"tokens": 64}, "at most 5 turns, 64 tokens"),
    ],
)
def test_two_evaluations_of_one_checkpoint_have_two_titles(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    for root, settings in (("one", {}), ("other", changed)):
        for method in ("ctpo", "ctpo_fixed"):
            write(tmp_path / root, method, **settings)
    for make in (table2.make, table2_differences.make, table3.make):
        one, other = (make(Sweep.load(tmp_path / root, "demo"), "tiny") for root in ("one", "other"))
        assert one.title != other.title
        assert words in other.title


@pytest.mark.parametrize("changed", [{"temperature": 1.0}, {"top_p": 0.95}, {"top_k": 20}, {"k": 2}])
def test_another_draw_has_no_cell_no_curve_and_is_named(tmp_path: Path, changed: dict[str, Any]) -> None:
    write(tmp_path, "grpo")
    write(tmp_path, "ctpo", **changed)
    sweep = Sweep.load(tmp_path, "demo")
    (name, value) = next(iter(changed.items()))
    table = table2.make(sweep, "tiny")
    assert set(table.data["method"]) == {"grpo"}
    assert f"demo/tiny/ctpo/seed0 on arithmetic: {name} {value}, elsewhere " in table.caption
    curves = figure2.make(sweep, "tiny")
    assert set(curves.data.query("panel == 'accuracy'")["method"]) == {"grpo"}
    assert f"demo/tiny/ctpo/seed0: {name} {value}, elsewhere " in curves.caption


def test_limits_that_differ_are_a_column_and_not_in_the_title(tmp_path: Path) -> None:
    write(tmp_path, "grpo", turns=3)
    write(tmp_path, "ctpo", wall_s=1.0, calls=8)  # how many calls run at once decides no sample
    artifact = table2.make(Sweep.load(tmp_path, "demo"), "tiny")
    assert artifact.table is not None
    assert artifact.title == "Table 2 (tiny): avg@4 at temperature 0.7, top_p 1, k = 4, 256 tokens, in percent"
    assert artifact.table.header[-1] == "limits"
    assert [row[-1] for row in artifact.table.rows] == [
        "at most 3 turns, tir.sandbox.wall_s 5",
        "at most 5 turns, tir.sandbox.wall_s 1",
    ]
    assert "The limits differ: grpo: at most 3 turns, tir.sandbox.wall_s 5; ctpo: " in artifact.caption


def beside_samples(run: RunDirectory, settings: Any) -> None:
    (run.path / "samples" / "arithmetic" / "step_15.settings.json").write_text(json.dumps(settings))


def test_the_settings_beside_the_samples_count_and_not_the_config_of_the_first_job(tmp_path: Path) -> None:
    own = {"k": 4, "temperature": 0.2, "top_p": 0.9, "max_turns": 2, "max_response_length": 99, "seed": 0}
    beside_samples(
        write(tmp_path), {"evaluation": own, "tir": {"max_turns": 2, "sandbox": {}}, "chat_template": {}, "top_k": 7}
    )
    title = table2.make(Sweep.load(tmp_path, "demo"), "tiny").title
    assert "avg@4 at temperature 0.2, top_p 0.9, top_k 7, k = 4, at most 2 turns, 99 tokens" in title


@pytest.mark.parametrize("broken", ["{", [], {}, {"evaluation": None}, {"evaluation": {}, "tir": 3}])
def test_broken_settings_are_one_named_problem(tmp_path: Path, broken: Any) -> None:
    write(tmp_path, "grpo")
    beside_samples(write(tmp_path, "ctpo"), broken)
    sweep = Sweep.load(tmp_path, "demo")
    assert set(final_scores(sweep, "tiny").cells) == {"grpo"}
    (problem,) = sweep.found.problems
    assert "samples/arithmetic/step_15.settings.json: not the settings of an evaluation" in str(problem)


def test_where_the_runs_own_evaluation_differs_is_said(tmp_path: Path) -> None:
    trained = Sampling.of_config(config(k=2, temperature=1.0)).values
    run = write_run(tmp_path, k=4, stats_at=(), config={**config(), "in_training": dict(trained)})
    caption = table2.make(Sweep.load(tmp_path, "demo"), "tiny").caption
    assert "In training these runs evaluated at temperature 1, k = 2: accuracies from there are not comp" in caption
    assert run.path.is_dir()


def test_records_without_these_settings_say_so(tmp_path: Path) -> None:
    write_run(tmp_path, stats_at=(), config={"actor_rollout_ref": {}, "tir": None})
    assert (
        "temperature not recorded, top_p not recorded, k = 4" in table2.make(Sweep.load(tmp_path, "demo"), "tiny").title
    )
