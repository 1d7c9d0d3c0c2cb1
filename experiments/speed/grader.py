"""The grader at the size of a training step: answers per second, latency among hostile answers, fuzzed answers.

`python experiments/bench.py grader --rounds 1000` grades 100,000 fuzzed answers.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from ctpo.tir.grading import Grader
from experiments.speed.measuring import Row

CORES = 2
STEP = 4096
FUZZED_PER_ROUND = 100
HANG_SECONDS = 25.0
"""Beyond the grader's hard limit of wall time, whatever else the machine is doing."""
HOSTILE = (
    "9**9**9",
    "9^{9^{9^9}}",
    "10!!!!!!",
    "((10^{9})!)!",
    "\\sum_{n=1}^{10^{9}} \\int e^{-n x^2 \\sin x} dx",
    "\\prod_{k=1}^{10^8} (1+\\frac{1}{k^3})",
    "\\binom{10^9}{5 \\cdot 10^8}",
    "(x+y+z+w)^{300}",
    "\\sqrt{" * 140 + "2" + "}" * 140,
    "\\frac{1}{" * 22 + "x" + "}" * 22,
    "(" * 450 + "1" + ")" * 450,
    "{" * 900,
    "1" * 900 + "^{" + "7" * 90 + "}",
    "1" * 10_000_000,
    "x^{\u0662\u0663}",
    "\\text{" + "\u202e" * 300 + "}",
    "\\begin{pmatrix}" + "1&" * 300 + "1\\end{pmatrix}",
    "\\cos(" * 23 + "1" + ")" * 23,
    "x^{x^{x^{x^{x^{10^{10}}}}}}=y",
    "1,2,3," * 160 + "4",
)
_TOKENS = (
    "\\frac{1}{2}", "\\sqrt{3}", "\\pi", "x", "y", "i", "n", "e", "2", "17", "0.5", "+", "-", "\\cdot ", "/", "^", "_",
    "{", "}", "(", ")", "[", "]", "\\{", "\\}", ",", ";", ":", "=", "<", "\\le ", "\\cup ", "\\pm ", "!", "|", "%",
    "\\%", "^\\circ", "\\text{cm}", "\\text{ or }", "\\sin ", "\\log ", "\\infty", "\\binom{4}{2}", "\\int ",
    "\\sum_{k=1}^{n} ", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\left", "\\right", "\\,", " ", "$", "&", "#", "~",
    "\\\\", "^{99}", "**", "\u2212", "\u03c0", "\uff15", "\u0445", "\0", "\ud83d", "\U0001d7d9", "\\boxed{", "lambda",
)  # fmt: skip


def ordinary(rng: random.Random) -> tuple[str, str]:
    """A model's answer and the reference, in the shares of the paper's four benchmarks: four in five are integers.

    Three answers in five are wrong, as early in training.
    """
    right = rng.random() < 0.4
    a, b, c = rng.randint(2, 99), rng.randint(2, 40), rng.choice((2, 3, 5, 6, 7, 10, 13, 21, 30, 31))
    if rng.random() < 0.8:
        gold = rng.randint(1, 99999)
        return str(gold if right else rng.randint(1, 99999)), str(gold)
    shift = 0 if right else rng.randint(1, 9)
    forms: Sequence[tuple[str, str]] = (
        (f"\\dfrac{{{2 * (a + shift)}}}{{{2 * b}}}", f"\\frac{{{a}}}{{{b}}}"),
        (f"{a + shift} + {b}\\sqrt{{{c}}}", f"{b}\\sqrt{{{c}}}+{a}"),
        (f"\\frac{{{a}+\\sqrt{{{c + shift}}}}}{{{b}}}", f"\\frac{{\\sqrt{{{c}}}+{a}}}{{{b}}}"),
        (f"{a}\\pi + {b + shift}\\sqrt{{{c}}}", f"{b}\\sqrt{{{c}}}+{a} \\pi"),
        (f"\\left({a}, {b + shift}\\right)", f"({a},{b})"),
        (f"{b},{a + shift}", f"{a},{b}"),
        (f"{c}^{{{b + shift}}}", f"{c}\\cdot {c}^{{{b - 1}}}"),
        (f"x={a + shift}", f"{a}\\text{{ cm}}"),
    )
    return rng.choice(forms)


def fuzzed(rng: random.Random) -> str:
    """Soup of LaTeX, an ordinary answer with a few characters wrong, or (one in 200) a hostile answer."""
    kind = rng.random()
    if kind < 0.005:
        return rng.choice(HOSTILE)
    if kind < 0.5:
        return "".join(rng.choice(_TOKENS) for _ in range(rng.randint(1, 12)))
    text = list(ordinary(rng)[1])
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(len(text) + 1)
        change = rng.randrange(3)
        if change == 0:
            text.insert(position, rng.choice(_TOKENS))
        elif change == 1 and len(text) > 1:
            del text[position - 1]
        else:
            text[position:position] = text[max(0, position - 3) : position]
    return "".join(text)


def timed(grader: Grader, pairs: Sequence[tuple[str, str]]) -> tuple[float, list[float], list[bool]]:
    """(wall seconds, seconds of each call, verdicts) of grading all pairs from as many threads as workers."""

    def one(pair: tuple[str, str]) -> tuple[float, bool]:
        started = time.perf_counter()
        verdict = grader.equal(*pair)
        return time.perf_counter() - started, verdict

    started = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        results = list(pool.map(one, pairs))
    return time.perf_counter() - started, [r[0] for r in results], [r[1] for r in results]


def _pairs(make: Callable[[random.Random], tuple[str, str]], count: int, seed: str) -> Iterator[tuple[str, str]]:
    """Different pairs, so that nothing is found in the grader's memory of verdicts."""
    rng = random.Random(seed)
    seen: set[tuple[str, str]] = set()
    while len(seen) < count:
        pair = make(rng)
        if pair not in seen:
            seen.add(pair)
            yield pair


def measure(rounds: int) -> list[Row]:
    """Ordinary answers per second on two workers; latency with 2 % hostile answers; fuzzed answers."""
    grader = Grader(concurrency=CORES)
    try:
        grader.equal("x+1", "1+x")
        step = list(_pairs(ordinary, STEP, "ordinary"))
        rates = []
        for _ in range(max(1, rounds // 15)):
            grader.forget()
            rates.append(STEP / timed(grader, step)[0])
        rng = random.Random("mixed")
        mixed = [(rng.choice(HOSTILE), "17") if rng.random() < 0.02 else pair for pair in step]
        grader.forget()
        _, seconds, verdicts = timed(grader, mixed)
        paid = sum(
            verdict for pair, verdict in zip(mixed, verdicts, strict=True) if pair[1] == "17" and pair[0] != "17"
        )
        fuzz = [(fuzzed(rng), gold) for _, gold in _pairs(ordinary, FUZZED_PER_ROUND, "gold") for _ in range(rounds)]
        grader.forget()
        spent, durations, _ = timed(grader, fuzz)
    finally:
        grader.close()
    return [
        Row(f"grader  {STEP} ordinary answers, {CORES} workers", statistics.median(rates), "answers/s", at_least=500),
        Row("grader  p99 of a verdict, 2 % hostile", statistics.quantiles(seconds, n=100)[98], "s", at_most=1.0),
        Row("grader  hostile answers paid", paid, "answers", at_most=0),
        Row(f"grader  {len(fuzz)} fuzzed answers", len(fuzz) / spent, "answers/s"),
        Row("grader  fuzzed answers that hang", sum(d > HANG_SECONDS for d in durations), "answers", at_most=0),
        Row("grader  slowest fuzzed answer", max(durations), "s"),
    ]
