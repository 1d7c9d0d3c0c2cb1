"""Verdicts follow their rules, whatever the paper says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import walk_stats, write_run

from analysis.claims import judge_claims
from analysis.inputs import Sweep
from analysis.statistics.intervals import Interval
from analysis.verdicts import FAILS, HOLDS, NOT_TESTABLE, UNDECIDED, within


def verdicts(root: Path) -> list[str]:
    return [claim.verdict for claim in judge_claims(Sweep.load(root, "demo"), "tiny")]


def interval(low: float, high: float) -> Interval:
    return Interval(*np.array([(low + high) / 2, low, high]))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.45, 0.55, HOLDS),
        (0.7, 0.8, FAILS),
        (0.1, 0.2, FAILS),
        (0.55, 0.65, UNDECIDED),
        (np.nan, np.nan, UNDECIDED),
    ],
)
def test_an_interval_decides_only_when_it_lies_on_one_side(low: float, high: float, verdict: str) -> None:
    assert within(interval(low, high), 0.4, 0.6) == verdict


def test_a_random_walk_is_a_square_root_and_a_steeper_one_is_not(tmp_path: Path) -> None:
    for name, exponent, verdict in (("half", 0.5, HOLDS), ("steep", 0.9, FAILS)):
        planted = walk_stats(np.random.default_rng(0), prompts=2000, exponent=exponent, sigma=0.02)
        write_run(tmp_path / name, stats_at=(15,), stats={15: planted}, evaluated=())
        assert verdicts(tmp_path / name)[0] == verdict


def solved(number: int) -> np.ndarray:
    """Scores `[40, 4]` of which the first `number` problems are right."""
    return np.repeat(np.arange(40.0) < number, 4).reshape(40, 4).astype(float)


def test_methods_are_never_told_apart_by_one_seed_each(tmp_path: Path) -> None:
    right, wrong = {15: solved(39)}, {15: solved(0)}
    write_run(tmp_path, method="ctpo", scores=right, evaluated=(15,), stats_at=())
    for method in ("grpo", "gspo", "ctpo_fixed"):
        write_run(tmp_path, method=method, scores=wrong, evaluated=(15,), stats_at=())
    claims = judge_claims(Sweep.load(tmp_path, "demo"), "tiny")
    assert [claim.verdict for claim in claims[-2:]] == [UNDECIDED, UNDECIDED]
    assert "one seed; by itself: holds" in claims[-1].measured


@pytest.mark.parametrize(("better", "verdict"), [("ctpo", HOLDS), ("grpo", FAILS)])
def test_with_two_seeds_the_better_method_is_named_either_way(tmp_path: Path, better: str, verdict: str) -> None:
    for method in ("ctpo", "grpo", "gspo", "ctpo_fixed"):
        for seed in (0, 1):
            score = solved(39 if method == better else 0)
            write_run(tmp_path, method=method, seed=seed, scores={15: score}, evaluated=(15,), stats_at=())
    assert verdicts(tmp_path)[-2] == verdict


def test_clip_fractions_and_lengths_follow_their_rules(tmp_path: Path) -> None:
    for method in ("ctpo", "grpo", "gspo"):
        for seed in range(4):
            write_run(tmp_path, method=method, seed=seed, evaluated=(), stats_at=())
    assert verdicts(tmp_path)[5:7] == [HOLDS, HOLDS]


def test_without_the_runs_a_claim_is_not_testable_and_says_why(tmp_path: Path) -> None:
    write_run(tmp_path, method="ctpo", stats_at=(), evaluated=())
    claims = judge_claims(Sweep.load(tmp_path, "demo"), "tiny")
    assert {claim.verdict for claim in claims} == {NOT_TESTABLE}
    assert all(claim.measured for claim in claims)


def test_a_nan_metric_gives_no_verdict(tmp_path: Path) -> None:
    for method in ("ctpo", "grpo", "gspo"):
        run = write_run(tmp_path, method=method, steps=2, evaluated=(), stats_at=())
        run.metrics_path.write_text(
            '{"step": 1, "model_tokens/mean": "NaN", "actor/pg_clipfrac": "NaN"}\n'
            '{"step": 2, "model_tokens/mean": 3, "actor/pg_clipfrac": 0.1}\n'
        )
    claims = judge_claims(Sweep.load(tmp_path, "demo"), "tiny")
    assert [claim.verdict for claim in claims[5:7]] == [NOT_TESTABLE, NOT_TESTABLE]
    assert "NaN" in claims[5].measured


def test_evenness_compares_the_two_windows_on_the_same_run(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        stats_at=(15,),
        stats={15: walk_stats(np.random.default_rng(3), prompts=500, sigma=0.05)},
        evaluated=(),
    )
    claims = judge_claims(Sweep.load(tmp_path, "demo"), "tiny")
    assert claims[1].verdict == HOLDS  # the fixed window: near 0 early, rising
    assert claims[2].verdict == NOT_TESTABLE  # positions end at 160
    assert claims[4].verdict == HOLDS  # the adaptive one is flatter


def of(sentence: str, root: Path, model: str = "tiny") -> str:
    (verdict,) = [c.verdict for c in judge_claims(Sweep.load(root, "demo"), model) if c.sentence.startswith(sentence)]
    return verdict


def scattered(generator: np.random.Generator, mean: float) -> np.ndarray:
    """Scores `[60, 4]` of problems that are solved with chances about `mean`."""
    chance = np.clip(mean + 0.1 * np.random.default_rng(0).normal(size=(60, 1)), 0, 1)
    return (generator.random((60, 4)) < chance).astype(float)


@pytest.mark.parametrize(
    ("gap", "verdict", "margin"), [(0.25, HOLDS, UNDECIDED), (0.0, UNDECIDED, UNDECIDED), (-0.25, FAILS, FAILS)]
)
def test_gains_on_each_benchmark_and_the_papers_margins(tmp_path: Path, gap: float, verdict: str, margin: str) -> None:
    generator = np.random.default_rng(1)
    for method, mean in (("ctpo", 0.5 + gap), ("ctpo_fixed", 0.5), ("gspo", 0.5), ("grpo", 0.2)):
        for seed in range(3):
            write_run(
                tmp_path, model="qwen3_14b", method=method, seed=seed, evaluated=(15,), stats_at=(),
                benchmarks=("aime25", "hmmt25"), scores={15: scattered(generator, mean)},
            )  # fmt: skip
    sentences = (
        "The adaptive window gains on all",
        "GSPO is the strongest",
        "CTPO leads the",
        "The adaptive window gains 3",
    )
    found = [of(sentence, tmp_path, "qwen3_14b") for sentence in sentences]
    assert found == [verdict, HOLDS, margin, margin]
