from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ctpo.sandbox.memory_watch import state_of
from ctpo.tir.grading import Grader
from ctpo.tir.measures import MAX_ANSWER_CHARS

LIMIT = 0.8


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    grader = Grader(cpu_seconds=LIMIT, wall_seconds=40)
    assert grader.equal("x+1", "1+x")
    yield grader
    grader.close()


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("204", "204"),
        ("073", "73"),
        (" 5 ", "5"),
        ("4/8", "1/2"),
        ("0.5", r"\frac{1}{2}"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        ("x^2+2x+1", "(x+1)^2"),
        (r"\{2,1\}", r"\{1,2\}"),
        ("1,000", "1000"),
        (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)"),
        (r"\text{Monday}", "Monday"),
        (r"90^\circ", "90"),
        ("73", r"73\%"),
        (r"73 \%", "73"),
        ("10080", r"10,\!080"),
        ("180", r"180\text{ miles}"),
    ],
)
def test_equal_answers_are_right(grader: Grader, answer: str, gold: str) -> None:
    assert grader.equal(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (None, "1"),
        ("", "1"),
        ("", ""),
        ("204", "205"),
        ("1/0", "1"),
        ("(5,3)", "(3,5)"),
        ("[0,1)", "[0,1]"),
        (r"3 \text{ or } 5", "5"),
        ("1, 2, 3, 4, 5", "5"),
        ("Tuesday", "Monday"),
        (r"\frac{1}{", "1"),
        ("__import__('os')._exit(61)", "1"),
        ("x" * (MAX_ANSWER_CHARS + 1), "1"),
    ],
)
def test_other_answers_are_wrong(grader: Grader, answer: str | None, gold: str) -> None:
    assert not grader.equal(answer, gold)


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9",
        "9^{9^9}",
        "10!!!!!!",
        "1" * 10_000_000,
        " " * 10_000_000 + "1",
        "(" * 450 + "1" + ")" * 450,
        r"\sqrt{" * 140 + "2" + "}" * 140,
        r"\frac{1}{" * 100 + "2" + "}" * 100,
        r"\sum_{n=1}^{10^{9}} \int e^{-n x^2 \sin x} dx",
        "\ud800",
        "\0",
    ],
)
def test_a_hostile_answer_scores_nothing_and_costs_at_most_the_limit(grader: Grader, answer: str) -> None:
    # Wall time, on a machine that may be busy with other tests: well below the 40 s of the wall limit.
    started = time.monotonic()
    assert not grader.equal(answer, "17")
    assert time.monotonic() - started < LIMIT + 19


def test_the_clock_limits_what_the_cpu_limit_would_let_run() -> None:
    grader = Grader(cpu_seconds=2.0, wall_seconds=2.0)
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(grader.equal, ["9^{9^9}"] * 4, ["17"] * 4))
    # Four at once share two cores, so their CPU limits alone would let them run for four seconds and more.
    assert verdicts == [False] * 4
    assert time.monotonic() - started < 60
    grader.close()


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="cpu_seconds=5"):
        Grader(cpu_seconds=5, wall_seconds=1)


def test_a_hostile_answer_does_not_hold_up_the_others(grader: Grader) -> None:
    with ThreadPoolExecutor(4) as pool:
        hostile = pool.submit(grader.equal, "9^{9^9}", "17")
        started = time.monotonic()
        assert all(pool.map(grader.equal, [f"{n}+x" for n in range(9)], [f"x+{n}" for n in range(9)]))
        assert not hostile.done() or time.monotonic() - started > LIMIT
        assert hostile.result() is False


def test_concurrent_comparisons_never_get_each_others_verdict(grader: Grader) -> None:
    wanted = [n % 3 == 0 for n in range(60)]
    with ThreadPoolExecutor(8) as pool:
        got = pool.map(lambda n: grader.equal(f"{n}+x", f"x+{n if n % 3 == 0 else n + 1}"), range(60))
    assert list(got) == wanted


def test_it_grades_from_threads_of_an_event_loop_without_touching_its_signals(grader: Grader) -> None:
    before = signal.getsignal(signal.SIGALRM)

    async def bulk() -> list[bool]:
        return await asyncio.gather(*(asyncio.to_thread(grader.equal, "x+x", f"{k}x") for k in (1, 2, 3)))

    assert asyncio.run(bulk()) == [False, True, False]
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_killed_helper_is_replaced_and_the_answer_is_still_graded() -> None:
    grader = Grader()
    assert grader.equal("x+1", "1+x")
    helper = grader._process
    assert helper is not None
    os.killpg(helper.pid, signal.SIGKILL)  # and its workers
    assert grader.equal("x+2", "2+x")
    assert grader._process is not helper
    grader.close()


def test_a_worker_killed_while_idle_does_not_cost_the_next_answer(grader: Grader) -> None:
    assert grader.equal("x+1", "1+x")
    helper = grader._process
    assert helper is not None
    workers = [int(pid) for pid in Path(f"/proc/{helper.pid}/task/{helper.pid}/children").read_text().split()]
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    time.sleep(0.2)
    assert grader.equal("x+4", "4+x")
    assert grader._process is helper


def test_a_helper_killed_while_comparing_does_not_cost_the_answer() -> None:
    grader = Grader()
    assert grader.equal("x+1", "1+x")
    helper = grader._process
    assert helper is not None
    os.killpg(helper.pid, signal.SIGSTOP)  # the worker with it
    verdicts: list[bool] = []
    waiting = threading.Thread(target=lambda: verdicts.append(grader.equal("x+2", "2+x")))
    waiting.start()
    time.sleep(0.2)
    os.killpg(helper.pid, signal.SIGKILL)
    waiting.join(20)
    assert verdicts == [True]
    grader.close()


def test_the_helper_ends_with_the_process_that_uses_it() -> None:
    code = (
        "import os; from ctpo.tir.grading import Grader; g = Grader(); g.equal('x+1', '1+x');"
        "print(g._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while state_of(pid) not in "ZX" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state_of(pid) in "ZX", f"the grading helper {pid} outlived its user"


def test_a_helper_that_cannot_start_is_an_error_and_not_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RuntimeError, match="math-verify"):
        Grader().equal("x+1", "1+x")
