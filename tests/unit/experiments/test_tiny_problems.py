"""Claims about the arithmetic problems."""

from __future__ import annotations

import random
from typing import Any

import pytest

from experiments.tiny.problems import ArithmeticProblem, apply, draw, draw_distinct, question


def test_the_answer_is_what_python_computes_from_the_chain() -> None:
    rng = random.Random(0)
    symbols = {"add": "+", "sub": "-", "mul": "*", "mod": "%"}
    for _ in range(500):
        problem = draw(rng, "train")
        expression = str(problem.start)
        for op, n in problem.ops:
            expression = f"({expression} {symbols[op]} {n})"
        assert problem.answer == eval(expression)


def test_the_remainder_of_a_negative_number_is_not_negative() -> None:
    assert apply("mod", -7, 5) == 3


def test_equal_content_has_one_id_and_one_split_whatever_the_wording() -> None:
    rng = random.Random(1)
    problem = ArithmeticProblem(3, (("add", 4), ("mul", 2)))
    assert len({question(rng, problem) for _ in range(50)}) > 5
    again = ArithmeticProblem(3, (("add", 4), ("mul", 2)))
    assert (problem.problem_id, problem.split) == (again.problem_id, again.split)
    assert problem.problem_id != ArithmeticProblem(3, (("mul", 2), ("add", 4))).problem_id


def test_a_question_states_start_every_label_and_every_operand() -> None:
    asked = question(random.Random(2), ArithmeticProblem(9, (("mul", 5), ("sub", 4), ("mod", 7))))
    assert asked.startswith("Start with 9: A: ")
    assert [asked.index(part) for part in ("A:", "5", "B:", "4", "C:", "7")] == sorted(
        asked.index(part) for part in ("A:", "5", "B:", "4", "C:", "7")
    )


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1), (7, 3)])
def test_train_and_test_share_no_problem_whatever_the_seeds(seeds: Any) -> None:
    train = draw_distinct(random.Random(seeds[0]), "train", 3000)
    test = draw_distinct(random.Random(seeds[1]), "test", 500)
    assert not set(train) & set(test)
    assert not {problem.problem_id for problem in train} & {problem.problem_id for problem in test}


def test_drawn_problems_are_distinct_and_of_every_length() -> None:
    problems = draw_distinct(random.Random(0), "train", 2000)
    assert len(set(problems)) == 2000
    assert {len(problem.ops) for problem in problems} == {2, 3, 4}
    assert {op for problem in problems for op, _ in problem.ops} == {"add", "sub", "mul", "mod"}
    assert all(op != "mod" for problem in problems for op, _ in problem.ops[:-1])
