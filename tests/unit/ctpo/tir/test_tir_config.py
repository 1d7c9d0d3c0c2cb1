from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from ctpo.sandbox import Limits
from ctpo.tir.config import TirConfig


def test_a_composed_node_becomes_the_configuration() -> None:
    node = OmegaConf.create(
        {
            "max_turns": 3,
            "tool_output_chars": 100,
            "sandbox": {"wall_s": 2.0, "memory_mb": 256, "concurrency": 7},
        }
    )
    assert TirConfig.from_node(node) == TirConfig(3, 100, Limits(wall_s=2.0, memory_mb=256), 7)


def test_the_defaults_are_the_papers() -> None:
    config = TirConfig.from_node(None)
    assert (config.max_turns, config.tool_output_chars) == (5, 256)
    assert TirConfig.from_node({}) == config


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"max_turns": 0}, r"tir\.max_turns=0: give a whole number from 1 to 10000"),
        ({"max_turns": 2.5}, r"tir\.max_turns=2\.5"),
        ({"max_turns": True}, r"tir\.max_turns=True"),
        ({"tool_output_chars": 10}, r"tir\.tool_output_chars=10: give a whole number from 64 to"),
        ({"sandbox": {"concurrency": 0}}, r"tir\.sandbox\.concurrency=0"),
        ({"sandbox": {"session": "fresh"}}, r"tir\.sandbox\.session: no such field"),
        ({"sandbox": {"wall_s": -1}}, r"tir\.sandbox\.wall_s=-1"),
        ({"turns": 5}, r"tir\.turns: no such field; there are max_turns, tool_output_chars"),
        ({"sandbox": {"ram": 5}}, r"tir\.sandbox\.ram: no such field; there are wall_s, cpu_s"),
    ],
)
def test_a_bad_value_is_refused_by_its_full_name(node: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TirConfig.from_node(OmegaConf.create(node))
