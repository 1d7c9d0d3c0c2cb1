"""What an evaluation consists of, what it refuses, and what it says at the end; short of starting vLLM."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf
from scipy import stats

from ctpo.records import DRAW, RunDirectory, Sampling
from experiments import prepare, resolvers
from experiments.compose import composed
from experiments.errors import BadRequest
from experiments.evaluate import GROUP
from experiments.evaluation import checks
from experiments.evaluation.checkpoint import Checkpoint, find
from experiments.evaluation.problems import Benchmark, SampleKey, load_benchmarks, own_part, parse_shard
from experiments.evaluation.summary import accuracy, in_words
from experiments.request import value_problems

pytestmark = pytest.mark.slow

TINY = ["+model_spec.steps=0"]  # not warm-started: what it answers does not matter here


def configured(*overrides: str) -> DictConfig:
    return composed([GROUP, *TINY, *overrides])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTPO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path, own_cache: None) -> Path:
    """A copy of the tiny model, to be changed."""
    return Path(shutil.copytree(find(configured()).path, tmp_path / "some-model"))


def benchmark(*ids: str, name: str = "bench", question: str = "What is 2 + 3?") -> Benchmark:
    rows = tuple(
        {
            "data_source": name,
            "prompt": [{"role": "user", "content": question}],
            "reward_model": {"ground_truth": "5", "style": "rule"},
            "extra_info": {"index": index, "split": "test", "problem_id": problem},
        }
        for index, problem in enumerate(ids)
    )
    return Benchmark(name, rows)


# ------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 500])
def test_parts_do_not_overlap_and_together_are_all(shards: int) -> None:
    keys = benchmark("a", "b", "c", "d").keys(16)
    parts = [own_part(keys, shard, shards) for shard in range(shards)]
    assert sorted(key for part in parts for key in part) == sorted(keys)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(set(keys)) == 64


@pytest.mark.parametrize("text", ["", "4/4", "-1/4", "1", "a/b", "1/0", "1/2/3", None])
def test_a_part_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be merge or i/n"):
        parse_shard(text)
    assert parse_shard("3/4") == (3, 4)
    assert parse_shard("merge") is None


def test_benchmarks_are_told_apart_and_chosen_by_name(tmp_path: Path) -> None:
    rows = [*benchmark("a", "b", "c", name="one").rows, *benchmark("d", name="two").rows]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "all.parquet")
    one, two = load_benchmarks([tmp_path / "all.parquet"], None)
    assert (one.problem_ids, two.problem_ids) == (("a", "b", "c"), ("d",))
    limited, _ = load_benchmarks([tmp_path / "all.parquet"], 2)
    assert limited.problem_ids == ("a", "b")
    assert limited.keys(1) == [SampleKey("one", "a", 0), SampleKey("one", "b", 0)]


def test_a_benchmark_that_is_not_known_is_one_clear_error(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = command("evaluation.benchmarks=[aime2525]")
    assert done.returncode == 2
    assert "aime2525" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_without_a_list_the_data_set_says_what_it_evaluates_on() -> None:
    assert prepare.benchmark_names(configured()) == ["arithmetic"]
    assert prepare.benchmark_names(configured("model=qwen3_4b")) == ["aime25", "aime26", "brumo25", "hmmt25"]


def test_the_digest_changes_with_every_part_of_a_problem() -> None:
    digests = {
        benchmark("a", "b").digest,
        benchmark("b", "a").digest,
        benchmark("a").digest,
        benchmark("a", "b", question="What is 2 + 4?").digest,
    }
    assert len(digests) == 4
    assert benchmark("a", "b").digest in digests


# ------------------------------------------------------------------ what decides the samples


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("evaluation.k=4", False),
        ("evaluation.temperature=1.0", False),
        ("actor_rollout_ref.rollout.val_kwargs.top_k=20", False),
        ("evaluation.max_turns=2", False),
        ("evaluation.seed=1", False),
        ("tir.tool_output_chars=128", False),
        ("actor_rollout_ref.rollout.dtype=bfloat16", False),
        ("evaluation.shard=1/4", True),
        ("evaluation.concurrency=3", True),
        ("tir.sandbox.concurrency=1", True),
        ("run.seed=5", True),
    ],
)
def test_settings_that_change_samples_are_told_from_those_that_do_not(override: str, same: bool) -> None:
    plain, changed = (checks.identity(configured(*o), "weights", benchmark("a")) for o in ([], [override]))
    assert (plain == changed) is same


@pytest.mark.parametrize("model", ["tiny", "qwen3_4b", "qwen3_14b"])
def test_a_run_evaluates_itself_as_the_evaluator_would(model: str) -> None:
    """Of the settings of the draw only k may differ: `tiny` draws 4 samples in training."""
    run, evaluator = composed([f"model={model}"]), configured(f"model={model}")
    draws = [OmegaConf.to_container(c.actor_rollout_ref.rollout.val_kwargs, resolve=True) for c in (run, evaluator)]
    own, evaluated = (Sampling.of_config({"actor_rollout_ref": {"rollout": {"val_kwargs": draw}}}) for draw in draws)
    assert own.differing(evaluated) == (["k"] if model == "tiny" else [])
    assert {name: own.values.get(name) for name in DRAW[:3]} == {"temperature": 0.7, "top_p": 1.0, "top_k": None}


def test_the_paper_scale_evaluation_composes() -> None:
    config = configured("model=qwen3_4b", "evaluation.benchmarks=[aime25]")
    rollout = config.actor_rollout_ref.rollout
    assert (rollout.val_kwargs.n, rollout.val_kwargs.temperature, rollout.nnodes) == (32, 0.7, 1)
    assert [*value_problems(config), *checks.check_settings(config)] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.k=0", "evaluation.k=0: must be greater than or equal to 1"),
        ("evaluation.temperature=-1", "evaluation.temperature=-1: must be greater than or equal to 0"),
        ("evaluation.temperature=0", "evaluation.k=32: at evaluation.temperature=0 all samples are the same"),
        ("evaluation.top_p=0", "evaluation.top_p=0: must be greater than 0"),
        ("evaluation.max_turns=many", "evaluation.max_turns=many: must be a valid integer"),
        ("evaluation.benchmarks=aime25", "evaluation.benchmarks=aime25: must be a valid list"),
        ("evaluation.shard=5/4", "evaluation.shard=5/4: must be merge or i/n"),
        ("evaluation.problems=0", "evaluation.problems=0: must be greater than or equal to 1"),
        ("dry_run=true", "dry_run=true: an evaluation has none"),
        ("evaluation.seed=-1", "evaluation.seed=-1: must be greater than or equal to 0"),
    ],
)
def test_a_wrong_setting_is_named_with_value_and_fix(override: str, message: str) -> None:
    config = configured(override)
    (problem,) = [*value_problems(config), *checks.check_settings(config)]
    assert problem.startswith(message)


# ------------------------------------------------------------------ models that cannot be evaluated


def problems_of(folder: Path, *overrides: str) -> list[str]:
    rows = benchmark("a").rows
    return checks.check_model(configured(*overrides), folder, [Benchmark("bench", rows)])


def test_a_sound_model_has_no_problem(model: Path) -> None:
    assert problems_of(model) == []


def test_a_tokenizer_without_chat_template_is_one_clear_error(model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    (problem,) = problems_of(model, f"evaluation.checkpoint={model}")
    assert problem.startswith(f"evaluation.checkpoint={model}: its tokenizer has no chat template")
    assert "chat_template.jinja" in problem


def test_a_prompt_that_would_be_cut_is_refused(model: Path) -> None:
    (problem,) = problems_of(model, "data.max_prompt_length=12")
    assert problem.startswith("data.max_prompt_length=12: problem a of bench has ")
    (problem,) = problems_of(model, "data.max_response_length=100000")
    assert "beyond the model's context of" in problem


def change_config(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | changes))


@pytest.mark.parametrize("changes", [{"hidden_size": 96}, {"architectures": ["LlamaForCausalLM"]}, {"vocab_size": 999}])
def test_a_checkpoint_of_another_architecture_is_refused(model: Path, changes: dict[str, Any]) -> None:
    change_config(model, **changes)
    with pytest.raises(BadRequest) as refused:
        find(configured(f"evaluation.checkpoint={model}"))
    (name, value), message = next(iter(changes.items())), str(refused.value)
    assert f"evaluation.checkpoint={model}: of another architecture than model=tiny: {name} is {value}" in message
    assert "model_spec.path=" in message


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(model: Path, missing: str) -> None:
    (model / missing).unlink()
    with pytest.raises(BadRequest, match=r"lacks (config\.json|\*\.safetensors); name a complete"):
        find(configured(f"evaluation.checkpoint={model}"))


def test_a_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadRequest, match="no such folder; correct the path"):
        find(configured("evaluation.checkpoint=/no/such/folder"))


def test_a_hub_that_cannot_be_reached_is_one_clear_error(tmp_path: Path) -> None:
    script = (
        "from experiments.errors import BadRequest\n"
        "from experiments.compose import composed\n"
        "from experiments.evaluation.checkpoint import find\n"
        "try: find(composed(['+evaluation=default', 'evaluation.checkpoint=some/model']))\n"
        "except BadRequest as error: print('refused:', error)\n"
    )
    # A port that nobody listens on; the hub's address is read when the library is imported.
    unreachable = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=unreachable, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused: evaluation.checkpoint=some/model: no such folder, and not to be had")
    assert "hf download some/model" in done.stdout


# ------------------------------------------------------------------ where samples go


def test_models_that_no_run_made_are_recorded_under_their_name(model: Path) -> None:
    base, other = find(configured()), find(configured(f"evaluation.checkpoint={model}", "evaluation.seed=3"))
    assert (base.sweep, base.model, base.method, base.seed, base.step) == ("eval", "tiny", "base", 0, 0)
    assert (other.sweep, other.method, other.seed, other.step) == ("eval", "some-model", 3, 0)
    assert other.fingerprint == base.fingerprint


def test_the_fingerprint_changes_with_a_single_weight(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    def fingerprint() -> str:
        return Checkpoint(model, "eval", "tiny", "base", 0, 0).fingerprint

    before = fingerprint()
    weights = load_file(model / "model.safetensors")
    name = sorted(weights)[0]
    weights[name].view(-1)[0] += 1.0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint() != before


def damaged_checkpoint(run: Path, **recorded: Any) -> Path:
    """`global_step_6` of a run that lacks the weights of its second process."""
    actor = run / "checkpoints" / "global_step_6" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    (actor / "fsdp_config.json").write_text(json.dumps({"world_size": 2}))
    (actor / "model_world_size_2_rank_0.pt").write_bytes(b"")
    (actor / "huggingface" / "config.json").write_text("{}")
    settings = {"sweep": "demo", "model": "tiny", "method": "ctpo", "seed": 0, **recorded}
    RunDirectory(run).open_for_training({"run": settings}, seeds={"run": 0})
    return actor.parent


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    step = damaged_checkpoint(tmp_path / "run")
    with pytest.raises(BadRequest, match=r"lacks model_world_size_2_rank_1\.pt; name a complete checkpoint"):
        find(configured(f"evaluation.checkpoint={step}"))
    with pytest.raises(BadRequest, match="has no complete checkpoint yet"):
        find(configured(f"evaluation.checkpoint={tmp_path / 'run'}"))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    step = damaged_checkpoint(tmp_path / "run", model="qwen3_4b")
    with pytest.raises(BadRequest, match="trained with model=qwen3_4b, not with model=tiny; give model=qwen3_4b"):
        find(configured(f"evaluation.checkpoint={step}"))


# ------------------------------------------------------------------ what it says


def test_the_interval_is_that_of_the_problems_means() -> None:
    generator = np.random.default_rng(0)
    chances = generator.uniform(size=30)
    scores = {
        f"p{i}": generator.binomial(1, chance, size=32).astype(float).tolist() for i, chance in enumerate(chances)
    }
    found = accuracy("bench", scores)
    means = np.array([np.mean(problem) for problem in scores.values()])
    low, high = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((means.mean(), low, high), rel=1e-12)
    assert found.problems == 30


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Over benchmarks of 30 problems drawn anew, each of its own difficulty: 95 % +- 3 standard errors."""
    generator, trials, covered = np.random.default_rng(1), 800, 0
    for _ in range(trials):
        chances = generator.beta(0.6, 0.9, size=30)
        scores = {
            str(i): generator.binomial(1, chance, size=8).astype(float).tolist() for i, chance in enumerate(chances)
        }
        found = accuracy("bench", scores)
        covered += found.low <= 0.6 / 1.5 <= found.high
    assert abs(covered / trials - 0.95) < 3 * math.sqrt(0.95 * 0.05 / trials)


def test_none_or_all_of_the_problems_solved_is_not_certainty() -> None:
    bound = stats.binomtest(0, 30).proportion_ci(0.95, "exact").high
    none = accuracy("bench", {str(problem): [0.0, 0.0] for problem in range(30)})
    every = accuracy("bench", {str(problem): [1.0, 1.0] for problem in range(30)})
    assert (none.low, none.high) == (0.0, pytest.approx(bound))
    assert (every.low, every.high) == (pytest.approx(1 - bound), 1.0)
    assert math.isnan(accuracy("bench", {"a": [0.0, 1.0], "b": [1.0, 0.0]}).low)


def test_the_last_line_names_benchmarks_intervals_and_place() -> None:
    found = [accuracy("aime25", {"a": [1.0, 0.0], "b": [1.0, 1.0]}), accuracy("one", {"a": [1.0]})]
    sampling = Sampling({"temperature": 0.7, "top_p": 1.0, "k": 2, "tir.max_turns": 5, "data.max_response_length": 256})
    line = in_words(found, sampling, None, Path("results/runs/eval"))
    drawn = "temperature 0.7, top_p 1, k = 2, at most 5 turns, 256 tokens"
    accuracies = "aime25 avg@2 75.0 % [0.0, 100.0] of 2 problems; one avg@2 100.0 % of 1 problem"
    assert line == f"{accuracies}; drawn at {drawn} -> results/runs/eval"
    in_training = Sampling({**sampling.values, "temperature": 1.0, "k": 4})
    line = in_words(found, sampling, in_training, Path("results/runs/eval"))
    assert (
        line == f"{accuracies}; drawn at {drawn} (the run's own evaluations: temperature 1, k = 4) -> results/runs/eval"
    )
    assert in_words(found, sampling, sampling, Path("d")).endswith(f"{drawn} -> d")


# ------------------------------------------------------------------ the command


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "experiments/evaluate.py", f"run.root={tmp_path / 'runs'}", *TINY, *arguments],
            cwd=resolvers.PROJECT_ROOT,
            capture_output=True,
            text=True,
        )

    return run


def test_a_cluster_profile_is_refused_with_the_way_to_submit(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = command("slurm=local")
    assert done.returncode == 2
    assert "evaluations are not submitted from here" in done.stderr
    assert "sbatch --gpus-per-node=8 --wrap" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_problems_are_said_at_once_and_nothing_is_written(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = command("evaluation.k=0", "evaluation.top_p=2", "evaluation.shard=9/2")
    assert done.returncode == 2
    for name in ("k", "top_p", "shard"):
        assert f"error: evaluation.{name}=" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_help_says_what_can_be_chosen(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = command("--help")
    assert done.returncode == 0
    assert "evaluation.checkpoint" in done.stdout
    assert "model:" in done.stdout
