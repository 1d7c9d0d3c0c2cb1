"""Run directories with known content, written through `ctpo.records`; for tests only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from analysis.artifacts import Artifact
from ctpo.positions import PositionStats
from ctpo.records import RunDirectory

FOLDS = 32
ACCURACY = {"grpo": 0.6, "gspo": 0.55, "ctpo": 0.7, "ctpo_fixed": 0.62}
CLIPPED = {"grpo": 0.001, "gspo": 0.34, "ctpo": 0.05, "ctpo_fixed": 0.012}


def random_walk(
    generator: np.random.Generator, responses: int, positions: int, sigma: float, exponent: float = 0.5
) -> np.ndarray:
    """Sums of independent normal increments whose standard deviation at t is `sigma * t**exponent`."""
    at = np.arange(positions + 1, dtype=np.float64)
    increments = np.sqrt(np.diff(sigma**2 * at ** (2 * exponent)))
    return np.cumsum(generator.normal(size=(responses, positions)) * increments, axis=1)


def walk_stats(
    generator: np.random.Generator,
    *,
    prompts: int = 64,
    group: int = 8,
    positions: int = 160,
    sigma: float = 0.02,
    exponent: float = 0.5,
    bin_width: int = 16,
    updates: int = 4,
    moved_first: bool = False,
) -> PositionStats:
    """Statistics of one step: `prompts * group` responses in `updates` mini-batches, folds as in training."""
    stats = PositionStats.zeros(positions, bin_width=bin_width, folds=FOLDS, max_updates=max(updates, 2))
    ratios = random_walk(generator, prompts * group, positions, sigma, exponent)
    lengths = generator.integers(positions // 3, positions + 1, size=len(ratios))
    mask = np.arange(positions) < lengths[:, None]
    advantages = np.broadcast_to(generator.normal(size=(len(ratios), 1)), ratios.shape)
    folds = np.repeat(generator.integers(0, FOLDS, size=prompts), group)
    for update, rows in enumerate(np.array_split(np.arange(len(ratios)), updates)):
        log_ratio = torch.from_numpy(ratios[rows] * (update > 0 or moved_first))
        stats.update(
            log_ratio,
            torch.from_numpy(advantages[rows].copy()),
            torch.from_numpy(mask[rows]),
            update_index=update,
            folds=torch.from_numpy(folds[rows]),
        )
    return stats


def sample_rows(scores: np.ndarray, prefix: str = "p") -> list[dict[str, Any]]:
    """Rows for `scores` `[problems, k]`; a right sample answers 1, a wrong one -1."""
    return [
        {
            "problem_id": f"{prefix}{problem:03d}",
            "sample_index": index,
            "score": float(score),
            "answer": "1" if score > 0.5 else "-1",
            "model_tokens": 100,
            "turns": 2,
            "tool_calls": 1,
            "tool_failures": 0,
            "finish_reason": "answer",
            "wall_s": 0.1,
        }
        for problem, row in enumerate(scores)
        for index, score in enumerate(row)
    ]


def write_run(
    root: Path,
    *,
    sweep: str = "demo",
    model: str = "tiny",
    method: str = "ctpo",
    seed: int = 0,
    steps: int = 15,
    evaluated: Sequence[int] = (0, 5, 10, 15),
    benchmarks: Sequence[str] = ("arithmetic",),
    stats_at: Sequence[int] = (5, 10, 15),
    state: Any = "finished",
    problems: int = 40,
    k: int = 4,
    scores: Mapping[int, np.ndarray] | None = None,
    stats: Mapping[int, PositionStats] | None = None,
    config: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """A run; `scores` and `stats` replace the invented ones by step, `config` adds to the recorded one."""
    generator = np.random.default_rng([seed, *method.encode(), *model.encode()])
    run = RunDirectory(root / sweep / model / method / f"seed{seed}")
    names = {"sweep": sweep, "model": model, "method": method, "seed": seed}
    recorded = {
        "run": names,
        "data": {"seed": seed, "max_response_length": 256},
        "tir": {"max_turns": 5, "sandbox": {"wall_s": 5.0, "concurrency": 2}},
        "actor_rollout_ref": {"rollout": {"val_kwargs": {"n": k, "temperature": 0.7, "top_p": 1.0, "top_k": -1}}},
        "trainer": {"total_training_steps": steps},
        **(config or {}),
    }
    algorithm = recorded.get("method", {}).get("name", method)  # `method` can name a variant of it
    run.open_for_training(recorded, seeds={"run": seed})
    run.begin_training(0)
    difficulty = np.random.default_rng(7).normal(size=(problems, 1)) * 0.15
    for step in range(steps + 1):
        progress = step / max(steps, 1)
        if step in evaluated:
            chance = 0.3 + (ACCURACY.get(method, 0.5) - 0.3) * progress + difficulty
            for benchmark in benchmarks:
                drawn = (generator.random((problems, k)) < chance).astype(float)
                run.write_samples(benchmark, step, sample_rows(drawn if scores is None else scores[step]))
        if step in stats_at:
            given = stats[step] if stats else walk_stats(generator, sigma=0.03 + 0.02 * progress)
            run.write_position_stats(step, given.to_arrays(), {"method": algorithm})
        if step:
            clipped = CLIPPED.get(method, 0.1) * float(np.exp(generator.normal() * 0.2))
            length = 90 + 30 * progress + float(generator.normal())
            run.append_metrics(step, {"actor/pg_clipfrac": clipped, "model_tokens/mean": length})
    if state != "running":
        run.finish(state, None if state == "finished" else "boom")
    return run


def write_sweep(root: Path, methods: Sequence[str] = tuple(ACCURACY), seeds: Sequence[int] = (0,)) -> None:
    """Every method on `tiny`."""
    for method in methods:
        for seed in seeds:
            write_run(root, method=method, seed=seed)


def axes_of(artifact: Artifact) -> list[Axes]:
    """The panels of a figure."""
    assert artifact.figure is not None
    axes: list[Axes] = artifact.figure.axes
    return axes
