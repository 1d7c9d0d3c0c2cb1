from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ctpo.tir.reward import compute_score, grade

RECORD = {
    "tir_turns": 2,
    "tir_tool_calls": 1,
    "tir_tool_failures": 0,
    "tir_finish_reason": "answer",
    "tir_model_tokens": 57,
    "tir_answer": "12",
    "tir_wall_s": 0.5,
    "tir_sample_index": 3,
    "problem_id": "p1",
}


def test_the_models_own_answer_decides() -> None:
    result = compute_score("math", "", "12", RECORD | {"index": 3})
    assert (result["score"], result["acc"]) == (1.0, 1.0)
    assert json.loads(result["sample"]) == RECORD
    assert compute_score("math", "", 13, RECORD)["score"] == 0.0


def test_an_answer_that_only_the_tool_or_the_prompt_shows_is_not_paid() -> None:
    response = "<tool_response>\n\\boxed{12}\n12\n</tool_response>\nThe answer is 12"
    assert compute_score("math", response, "12", RECORD | {"tir_answer": ""})["score"] == 0.0


def test_a_rollout_of_another_agent_loop_is_refused() -> None:
    with pytest.raises(ValueError, match="default_agent_loop=ctpo_tir"):
        compute_score("math", "\\boxed{12}", "12", {"index": 0})


def test_only_numbers_meant_as_metrics_are_numbers() -> None:
    result = compute_score("math", "", "12", RECORD)
    assert {name for name, value in result.items() if not isinstance(value, str)} == {"score", "acc"}


def test_grade_compares_by_value_and_knows_no_answer() -> None:
    assert grade("1/2", "0.5")
    assert not grade(None, "0.5")


def test_importing_the_reward_loads_neither_torch_nor_verl_nor_sympy() -> None:
    code = (
        "import sys, ctpo.tir, ctpo.tir.prompts, ctpo.tir.code_blocks, ctpo.tir.reward;"
        "print([m for m in ('torch', 'verl', 'sympy', 'math_verify') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
