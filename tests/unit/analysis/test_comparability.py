"""Which runs are averaged, which are compared, and along what: read from their configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict
from synthetic import axes_of, write_run

from analysis import style
from analysis.__main__ import main
from analysis.comparability import swept_axes
from analysis.figures import swept
from analysis.inputs import NothingToShow, Sweep, method_rank
from analysis.tables import table2
from ctpo.records import Submission, write_submission
from experiments import resolvers

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[3]


def problems_of(sweep: Sweep) -> list[str]:
    return [str(problem) for problem in sweep.found.problems]


def window(power: float, name: str = "ctpo") -> dict[str, Any]:
    """A method's fields as interpolation leaves them in a config: twice."""
    method = {"name": name, "window": {"power": power}}
    return {"method": method, "actor_rollout_ref": {"actor": {"method": method}}}


def test_a_seed_of_another_config_is_named_and_not_averaged(tmp_path: Path) -> None:
    for seed, rate in ((0, 1e-3), (1, 1e-3), (2, 5e-3)):
        scores = {15: np.full((10, 2), float(seed == 2))}
        config = {"actor": {"optim": {"lr": rate}}}
        write_run(tmp_path, seed=seed, evaluated=(15,), scores=scores, stats_at=(), config=config)
    sweep = Sweep.load(tmp_path, "demo")
    cell = table2.make(sweep, "tiny").data.set_index("metric").loc["avg@2"]
    assert (cell["value"], cell["seeds"]) == (0.0, 2)
    assert problems_of(sweep) == [
        "malformed: demo/tiny/ctpo/seed2: run of another config than demo/tiny/ctpo/seed0: actor.optim.lr is 0.005, "
        "there 0.001: left out"
    ]


@pytest.mark.parametrize("values", [(False, True), (0.0, 1.0), (0, 1)])
def test_a_field_that_happens_to_equal_the_seeds_is_no_seed(tmp_path: Path, values: tuple[float, float]) -> None:
    for seed, value in enumerate(values):
        write_run(tmp_path, seed=seed, evaluated=(), stats_at=(), config={"actor": {"use_kl_loss": value}})
    assert [run.seed for run in Sweep.load(tmp_path, "demo").runs("tiny")] == [0]


def test_evaluations_of_several_seeds_checkpoints_are_seeds_of_one_cell(tmp_path: Path) -> None:
    for seed in range(3):
        config = evaluated_checkpoint(seed, shard=f"{seed}/3")
        scores = {0: np.repeat(np.arange(10.0) < 5 * seed, 2).reshape(10, 2)}
        write_run(tmp_path, seed=seed, steps=0, evaluated=(0,), scores=scores, stats_at=(), config=config)
    sweep = Sweep.load(tmp_path, "demo")
    cell = table2.make(sweep, "tiny").data.set_index("metric").loc["avg@2"]
    assert (cell["seeds"], cell["value"]) == (3, pytest.approx(0.5))
    assert problems_of(sweep) == []


def test_an_evaluation_at_another_temperature_is_of_another_config(tmp_path: Path) -> None:
    for seed, temperature in enumerate((0.7, 0.7, 1.0)):
        config = evaluated_checkpoint(seed, temperature=temperature)
        write_run(tmp_path, seed=seed, steps=0, evaluated=(0,), stats_at=(), config=config)
    sweep = Sweep.load(tmp_path, "demo")
    assert [run.seed for run in sweep.runs("tiny")] == [0, 1]
    assert "temperature is 1.0, there 0.7" in problems_of(sweep)[0]


def evaluated_checkpoint(seed: int, **evaluation: Any) -> dict[str, Any]:
    """What `experiments/evaluate.py` adds to a config and takes from the checkpoint that it evaluates."""
    with initialize_config_dir(str(PROJECT / "experiments" / "configs"), version_base="1.3"):
        resolvers.register()
        run = f"evaluation.checkpoint=/runs/demo/tiny/ctpo/seed{seed}"
        config = compose("run", overrides=["+evaluation=default", run])
    with open_dict(config):
        config.actor_rollout_ref.model.path = f"/exports/demo-tiny-ctpo-{seed}-step15"
        config.run.sweep, config.run.model, config.run.method, config.run.seed = "demo", "tiny", "ctpo", seed
        config.data.train_files, config.data.val_files = [], ["/data/arithmetic.parquet"]
        config.trainer.total_training_steps = 0
        config.evaluation.update(evaluation)
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def test_without_a_majority_the_lowest_seed_decides(tmp_path: Path) -> None:
    for seed, rate in ((0, 1e-3), (1, 5e-3)):
        write_run(tmp_path, seed=seed, evaluated=(), stats_at=(), config={"lr": rate})
    assert [run.seed for run in Sweep.load(tmp_path, "demo").runs("tiny")] == [0]


def test_missing_seeds_and_runs_that_wait_are_named(tmp_path: Path) -> None:
    for method, seeds in (("ctpo", (0, 1)), ("grpo", (0,)), ("gspo", (0,))):
        for seed in seeds:
            write_run(tmp_path, method=method, seed=seed, evaluated=(), stats_at=())
    waiting = tmp_path / "demo" / "tiny" / "gspo" / "seed1"
    write_submission(waiting, Submission("12_3", "h100_node", "2026-11-25T20:00:00+00:00", "ab"))
    assert problems_of(Sweep.load(tmp_path, "demo")) == [
        "missing: demo/tiny/gspo/seed1: submitted as job 12_3, not begun",
        "missing: demo/tiny/grpo/seed1: no such run, but other methods have this seed",
    ]


def write_exponents(root: Path, powers: tuple[float, ...] = (0.0, 0.5, 1.0), seeds: tuple[int, ...] = (0, 1)) -> None:
    for power in powers:
        for seed in seeds:
            write_run(root, method=f"ctpo-p{power:g}", seed=seed, stats_at=(15,), evaluated=(15,), config=window(power))


def test_the_swept_field_is_found_once_without_its_copy_and_without_seeds(tmp_path: Path) -> None:
    write_exponents(tmp_path)
    (axis,) = swept_axes(Sweep.load(tmp_path, "demo").runs("tiny"))
    assert (axis.field, axis.numeric, axis.label, axis.others) == ("method.window.power", True, "power", ())
    assert axis.values["demo/tiny/ctpo-p0.5/seed1"] == 0.5


def test_a_swept_number_is_drawn_as_it_was_recorded(tmp_path: Path) -> None:
    write_exponents(tmp_path)
    artifact = swept.make(Sweep.load(tmp_path, "demo"), "tiny")
    assert set(artifact.data["quantity"]) == {"accuracy", "clip_rate", "exponent"}  # nothing is clipped
    assert set(artifact.data["value"]) == {0.0, 0.5, 1.0}
    assert "By `method.window.power`" in artifact.caption
    line = axes_of(artifact)[0].get_lines()[0]
    expected = artifact.data[artifact.data["quantity"] == "accuracy"]["estimate"].tolist()
    assert np.asarray(line.get_ydata()).tolist() == expected


def test_fields_that_change_together_are_one_axis_and_are_named(tmp_path: Path) -> None:
    for low, high in ((0.0125, 0.025), (0.025, 0.05)):
        config = {"method": {"name": "ctpo", "window": {"eps_low": low, "eps_high": high}}}
        write_run(tmp_path, method=f"ctpo-eps{low}", stats_at=(), evaluated=(15,), config=config)
    artifact = swept.make(Sweep.load(tmp_path, "demo"), "tiny")
    assert set(artifact.data["value"]) == {0.0125, 0.025}
    assert "Changing along with it: `method.window.eps_high`" in artifact.caption


def test_several_algorithms_over_one_number_are_one_line_each(tmp_path: Path) -> None:
    for name in ("ctpo", "grpo"):
        for updates in (1, 4, 16):
            config = {"method": {"name": name, "window": {"kind": name}, "max_updates": updates}}
            write_run(tmp_path, method=f"{name}-updates{updates}", stats_at=(15,), evaluated=(15,), config=config)
    artifact = swept.make(Sweep.load(tmp_path, "demo"), "tiny")
    assert set(artifact.data["algorithm"]) == {"ctpo", "grpo"}
    assert axes_of(artifact)[0].get_xscale() == "log"
    assert set(artifact.data["field"]) == {"method.max_updates"}


def test_what_is_no_common_number_is_one_row_per_variant(tmp_path: Path) -> None:
    write_run(tmp_path, method="ctpo", config={"method": {"name": "ctpo"}})
    for variant, low in (("ctpo_fixed", 0.5), ("ctpo_fixed-ppo_range", 0.8)):
        write_run(tmp_path, method=variant, config={"method": {"name": "ctpo_fixed", "window": {"low": low}}})
    artifact = swept.make(Sweep.load(tmp_path, "demo"), "tiny")
    labels = [text.get_text() for text in axes_of(artifact)[0].get_yticklabels()]
    assert labels == ["CTPO", "CTPO, fixed clip", "CTPO, fixed clip, ppo_range"]
    assert artifact.data["value"].isna().all()


def test_a_sweep_over_methods_alone_has_no_such_figure_unless_they_are_many(tmp_path: Path) -> None:
    for method in ("ctpo", "grpo"):
        write_run(tmp_path, method=method, evaluated=(15,), stats_at=())
    with pytest.raises(NothingToShow, match="differ in method and seed only"):
        swept.make(Sweep.load(tmp_path, "demo"), "tiny")
    for method in ("gspo", "dapo", "cispo", "sapo", "mine"):
        write_run(tmp_path, method=method, evaluated=(15,), stats_at=())
    assert len(swept.make(Sweep.load(tmp_path, "demo"), "tiny").data) == 7


def test_the_whole_command_works_on_a_swept_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_exponents(tmp_path / "runs", seeds=(0,))
    assert main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "written   swept_tiny" in capsys.readouterr().out


def test_what_else_differs_between_methods_is_said_under_table_2(tmp_path: Path) -> None:
    for method, rate in (("ctpo", 1e-3), ("grpo", 5e-3)):
        config = {
            "actor": {"lr": rate, "trace": {"experiment_name": f"demo-{method}"}},
            "method": {"name": method, "window": {"kind": method}},
        }
        write_run(tmp_path, method=method, evaluated=(15,), stats_at=(), config=config)
    caption = table2.make(Sweep.load(tmp_path, "demo"), "tiny").caption
    assert "Besides `method.*` the recorded configs of these runs differ in `actor.lr`." in caption


def test_variants_follow_their_method_in_order_of_their_numbers() -> None:
    names = ["mine", "ctpo-p1", "ctpo-p0.25", "grpo-updates16", "grpo-updates4", "ctpo", "ctpo-p0"]
    assert sorted(names, key=method_rank) == [
        "grpo-updates4",
        "grpo-updates16",
        "ctpo",
        "ctpo-p0",
        "ctpo-p0.25",
        "ctpo-p1",
        "mine",
    ]


def test_every_method_has_a_look_of_its_own_and_an_unknown_one_a_stable_one() -> None:
    from ctpo.methods import METHODS

    looks = [style.look(method) for method in METHODS]
    assert len({(look.colour, look.marker, look.dash) for look in looks}) == len(METHODS)
    assert len({look.label for look in looks}) == len(METHODS)
    assert style.look("mine") == style.look("mine")
    assert style.look("ctpo-p0.25").label == "CTPO, p0.25"
    known = [style.look(method) for method in style.METHOD_ORDER]
    assert len({(look.colour, look.marker, look.dash) for look in known}) == len(known)
