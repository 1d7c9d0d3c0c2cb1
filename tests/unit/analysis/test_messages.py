"""Every config field that the analysis names exists: a reader is sent to fields that can be set."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments.compose import composed
from experiments.evaluate import GROUP

PROJECT = Path(__file__).resolve().parents[3]
GROUPS = "run|data|records|method|trainer|evaluation|actor_rollout_ref|tir|algorithm|reward"
FIELD = re.compile(rf"(?<![\w/.])(?:{GROUPS})(?:\.[a-z]\w*)+(?![\w/])")


def named_fields(source: str) -> set[str]:
    """Fields in the texts of a module, docstrings included, without names of Python files."""
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    found = {field for text in texts if isinstance(text, str) for field in FIELD.findall(text)}
    return {field for field in found if not field.endswith(".py")}


@pytest.fixture(scope="module")
def config() -> DictConfig:
    return composed([GROUP, "method=custom"])


def exists(config: DictConfig, field: str) -> bool:
    node, _, name = field.rpartition(".")
    parent = OmegaConf.select(config, node)
    return isinstance(parent, DictConfig) and name in parent


def test_every_field_that_is_named_exists(config: DictConfig) -> None:
    named = {
        field: path.name for path in (PROJECT / "analysis").rglob("*.py") for field in named_fields(path.read_text())
    }
    assert {"records.position_stats_every", "method.position_stats.max_position"} <= named.keys()
    assert {field: where for field, where in named.items() if not exists(config, field)} == {}


def test_a_field_that_does_not_exist_is_noticed(config: DictConfig) -> None:
    source = 'raise ValueError(f"{x} tokens beyond records.position_stats.max_position, see experiments/run.py")'
    assert named_fields(source) == {"records.position_stats.max_position"}
    assert not exists(config, "records.position_stats.max_position")
