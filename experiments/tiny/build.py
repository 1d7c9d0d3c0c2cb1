"""What `model=tiny` and `dataset=arithmetic` put on disk.

``python -m experiments.tiny.build`` trains the default model again and replaces the shipped weights.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ctpo.tir.prompts import SYSTEM_PROMPTS
from experiments.tiny.cache import PREPARED, cached, write_settings
from experiments.tiny.chat_template import CHAT_TEMPLATE
from experiments.tiny.problems import ArithmeticProblem, Split, draw_distinct, messages, question
from experiments.tiny.spec import ArithmeticSpec, TinyModelSpec

RECIPE_VERSION = 1
"""Raise it with any change to code that changes a prepared byte; a test holds the demonstrations to it."""

SHIPPED = Path(__file__).parent / "shipped"
"""The default model as its recipe made it, so that every machine starts from the same weights."""


def tiny_model(spec: TinyModelSpec, progress: bool = True) -> Path:
    """Folder in Hugging Face format (config, weights, tokenizer, template) of the warm-started model.

    The default model is a copy of the shipped weights. Any other is trained on the first call (about two minutes on one
    core), then found in the cache.
    """
    settings = model_settings(spec)

    def build(folder: Path) -> None:
        if settings == json.loads((SHIPPED / PREPARED).read_text()):
            shutil.copytree(SHIPPED, folder, dirs_exist_ok=True)
        else:
            write_model(spec, folder, progress)

    return cached("models", "tiny", settings, build)


def model_settings(spec: TinyModelSpec) -> dict[str, Any]:
    """Everything that decides the bytes of the prepared model."""
    return {
        "recipe": RECIPE_VERSION,
        "system_prompt": SYSTEM_PROMPTS["short"],
        "chat_template": CHAT_TEMPLATE,
        **spec.model_dump(exclude={"kind"}),
    }


def write_model(spec: TinyModelSpec, folder: Path, progress: bool) -> None:
    """Build tokenizer and model, train, and save both to `folder`."""
    # Here, so that finding a finished model costs no import of torch.
    from tqdm import tqdm

    from experiments.tiny.model import build_model
    from experiments.tiny.tokenizer import build_tokenizer
    from experiments.tiny.warm_start import warm_start

    tokenizer = build_tokenizer(spec.vocab_size, spec.seed, spec.max_positions)
    model = build_model(spec, tokenizer)
    # On a terminal the bar is redrawn; in a log file each drawing stays.
    interval = 0.2 if sys.stderr.isatty() else 15.0
    with tqdm(
        total=spec.steps,
        desc="warm start of the tiny model",
        unit="step",
        disable=not progress,
        mininterval=interval,
        maxinterval=interval,
    ) as bar:

        def report(loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()

        warm_start(model, tokenizer, spec, report)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def arithmetic_dataset(spec: ArithmeticSpec) -> tuple[Path, Path]:
    """Parquet files in verl's format: (train, held-out test)."""
    settings = {"recipe": RECIPE_VERSION, "system_prompt": SYSTEM_PROMPTS["short"], **spec.model_dump(exclude={"kind"})}

    def build(folder: Path) -> None:
        write_rows(folder / "train.parquet", "train", spec.train_size, spec.seed)
        write_rows(folder / "test.parquet", "test", spec.test_size, spec.seed)

    folder = cached("datasets", "arithmetic", settings, build)
    return folder / "train.parquet", folder / "test.parquet"


def write_rows(path: Path, split: Split, count: int, seed: int) -> None:
    """`count` different problems of `split`; a larger file of the same seed begins with the smaller one."""
    rng = random.Random(f"arithmetic {split} {seed}")
    problems = draw_distinct(rng, split, count)
    wording = random.Random(f"wording {split} {seed}")
    rows = [_row(problem, question(wording, problem), split, i) for i, problem in enumerate(problems)]
    pq.write_table(pa.Table.from_pylist(rows), path)


def _row(problem: ArithmeticProblem, asked: str, split: Split, index: int) -> dict[str, Any]:
    return {
        "data_source": "arithmetic",
        "prompt": messages(asked),
        "ability": "math",
        "reward_model": {"ground_truth": str(problem.answer), "style": "rule"},
        "extra_info": {"index": index, "split": split, "problem_id": problem.problem_id},
    }


def ship() -> None:
    """Train the default model and put it where `tiny_model` finds it."""
    spec = TinyModelSpec()
    shutil.rmtree(SHIPPED, ignore_errors=True)
    write_model(spec, SHIPPED, progress=True)
    write_settings(SHIPPED, model_settings(spec))


if __name__ == "__main__":
    ship()
