"""`python -m analysis` on records of the paper's size: its time and memory, and how both grow with the records."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ctpo.methods.log_ratios import cumulative_log_ratio
from ctpo.positions import PositionStats
from ctpo.records import RunDirectory
from experiments.speed.measuring import Row

PROJECT = Path(__file__).resolve().parents[2]
SWEEP = "paper_scale"
#: The paper's grid: Table 2 on two models, and Table 3's ablation on the larger one.
GRID = (
    *(("qwen3_4b", method) for method in ("grpo", "gspo", "ctpo")),
    *(("qwen3_14b", method) for method in ("grpo", "gspo", "ctpo", "ctpo_fixed")),
)
BENCHMARKS = ("aime25", "aime26", "brumo25", "hmmt25")
STEPS, EVALUATIONS, PROBLEMS, SAMPLES = 305, 16, 30, 32  # problems: of each of the four benchmarks
POSITIONS, RESPONSES, UPDATES, FOLDS = 8000, 4096, 16, 32
#: Metrics in a row, as many as verl logs.
METRICS = 150
#: Position statistics that are simulated; the steps of all runs repeat them.
ARCHIVES = 3
#: Responses that are simulated for an archive; its sums are multiplied up to `RESPONSES`, which keeps them exact.
SIMULATED = 256
SIZES = (0.25, 0.5, 1.0)
#: The command and one process for each of the two models.
PROCESSES = 3
Arrays = dict[str, np.ndarray]


def measure(rounds: int) -> list[Row]:
    """Wall time and peak memory of the whole command at three sizes of the records."""
    rows, seconds = [], {}
    with tempfile.TemporaryDirectory(prefix="ctpo-bench-") as folder:
        for size in SIZES:
            root = Path(folder) / f"size{size}"
            write_paper_scale(root, size)
            runs = [timed_analysis(root, Path(folder) / "figures") for _ in range(max(1, min(rounds // 10, 3)))]
            seconds[size] = min(taken for taken, _ in runs)
            bounds = (20.0, 2.0) if size == 1.0 else (None, None)
            label = f"analysis of {len(GRID)} runs, {size:g} of the paper's records"
            rows.append(Row(f"{label}: time", seconds[size], "s", bounds[0]))
            peak = PROCESSES * max(peak for _, peak in runs)
            rows.append(Row(f"{label}: {PROCESSES} x peak memory of the largest process", peak, "GiB", bounds[1]))
    # Linear growth: the second half of the records may not cost more than twice what the second quarter did, per row.
    quarter, half, whole = (seconds[size] for size in SIZES)
    growth = (whole - half) / max(2 * (half - quarter), 0.5)
    rows.append(Row("analysis: cost of a record in the last half over that in the second quarter", growth, "x", 2.0))
    return rows


def timed_analysis(runs: Path, out: Path) -> tuple[float, float]:
    """Seconds, and peak GiB of the largest process, of `python -m analysis` on the records under `runs`.

    Raises:
        RuntimeError: it failed; its output is in the message.
    """
    command = [sys.executable, "-m", "analysis", "--runs", str(runs), "--sweep", SWEEP, "--out", str(out)]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    taken = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"python -m analysis failed:\n{output[-3000:]}")
    return taken, usage.ru_maxrss / 2**20  # KiB on Linux


def write_paper_scale(root: Path, size: float = 1.0) -> None:
    """Records of the paper's grid below `root/paper_scale`; `size` scales steps and problems."""
    steps, problems = round(STEPS * size), max(2, round(PROBLEMS * size))
    generator = np.random.default_rng(0)
    archives = [paper_scale_statistics(generator) for _ in range(ARCHIVES)]
    for model, method in GRID:
        _write_run(root, model, method, steps, problems, archives)


def _write_run(root: Path, model: str, method: str, steps: int, problems: int, archives: list[Arrays]) -> None:
    generator = np.random.default_rng([*model.encode(), *method.encode()])
    run = RunDirectory(root / SWEEP / model / method / "seed0")
    names = {"sweep": SWEEP, "model": model, "method": method, "seed": 0}
    run.open_for_training({"run": names, "trainer": {"total_training_steps": steps}}, seeds={"run": 0})
    run.begin_training(0)
    evaluated = set(np.linspace(0, steps, EVALUATIONS).round().astype(int).tolist())
    difficulty = {name: generator.beta(1.0, 1.0, size=(problems, 1)) for name in BENCHMARKS}
    for step in range(steps + 1):
        if step in evaluated:
            for name, chance in difficulty.items():
                drawn = generator.random((problems, SAMPLES)) < chance ** (1.0 - 0.5 * step / steps)
                run.write_samples(name, step, _sample_rows(name, drawn, generator))
        if step:
            run.write_position_stats(step, archives[step % ARCHIVES], {"method": method})
            run.append_metrics(step, _metrics(generator))
    run.finish("finished")


def paper_scale_statistics(generator: np.random.Generator) -> Arrays:
    """Statistics of one step: 4,096 responses of up to 8,000 tokens whose log-ratios are random walks."""
    stats = PositionStats.zeros(POSITIONS, folds=FOLDS, max_updates=UPDATES)
    torch_generator = torch.Generator().manual_seed(int(generator.integers(2**31)))
    rows = SIMULATED // UPDATES
    for update in range(UPDATES):
        token = 0.004 * torch.randn(rows, POSITIONS, generator=torch_generator) * (update > 0)
        lengths = torch.randint(POSITIONS // 8, POSITIONS + 1, (rows, 1), generator=torch_generator)
        mask = torch.arange(POSITIONS) < lengths
        stats.update(
            cumulative_log_ratio(token, torch.zeros_like(token), mask),
            torch.randn(rows, 1, generator=torch_generator).expand_as(token),
            mask,
            update_index=update,
            folds=(2 * update + torch.arange(rows) // (rows // 2)) % FOLDS,
        )
    # Every sum, count and bucket stands for as many responses as were left out.
    arrays = stats.to_arrays()
    return {
        name: array * (RESPONSES // SIMULATED) if np.issubdtype(array.dtype, np.number) else array
        for name, array in arrays.items()
    }


def _sample_rows(benchmark: str, drawn: np.ndarray, generator: np.random.Generator) -> Iterator[dict[str, object]]:
    answers = generator.integers(0, 40, size=drawn.shape)
    for problem, row in enumerate(drawn):
        for index, right in enumerate(row):
            yield {
                "problem_id": f"{benchmark}-{problem}",
                "sample_index": index,
                "score": float(right),
                "answer": "42" if right else str(answers[problem, index]),
                "model_tokens": 4000,
                "turns": 3,
                "tool_calls": 2,
                "tool_failures": 0,
                "finish_reason": "answer",
                "wall_s": 12.5,
            }


def _metrics(generator: np.random.Generator) -> dict[str, float]:
    values = generator.random(METRICS)
    named = {"actor/pg_clipfrac": float(0.05 + 0.01 * values[0]), "model_tokens/mean": float(3000 + 500 * values[1])}
    return named | {f"group{index % 12}/metric{index}/mean": float(value) for index, value in enumerate(values)}


def main() -> int:
    """Write the records, to look at them or to profile: `python -m experiments.speed.analysis DIR`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("root", type=Path, help="root of the run directories to write")
    parser.add_argument("--size", type=float, default=1.0, help="share of the paper's size (default: 1)")
    options = parser.parse_args()
    write_paper_scale(options.root, options.size)
    print(f"wrote {len(GRID)} runs below {options.root / SWEEP}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
