"""Problems of one's own for `dataset=files`: ``python experiments/examples/own_problems.py FOLDER``.

Writes `train.jsonl` and `test.jsonl`, one problem a line, in words that the tiny model has seen. Replace `problem` by
your own; Qwen3 needs no such words.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path


def problem(rng: random.Random) -> dict[str, str]:
    """A sum with two more steps, and its answer."""
    start, more, times, less = (rng.randint(2, 9) for _ in range(4))
    text = f"Start with {start}: A: add {more}, B: multiply by {times}, C: subtract {less}."
    return {"problem": text, "answer": str((start + more) * times - less)}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    problems = list({each["problem"]: each for each in (problem(rng) for _ in range(1000))}.values())
    for name, part in (("test", problems[:32]), ("train", problems[32:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in part))
        print(f"{folder / name}.jsonl: {len(part)} problems")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
