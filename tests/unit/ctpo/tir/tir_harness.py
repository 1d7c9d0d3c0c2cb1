"""Drives the real agent loop, token builder, tokenizer and sandbox from a scripted LLM server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap
from verl.workers.rollout.replica import TokenOutput

from ctpo.sandbox import Limits, SandboxClient, SandboxUnavailable, require_isolation
from ctpo.tir.agent_loop import TirAgentLoop
from ctpo.tir.tools import PythonTool
from experiments.tiny.tokenizer import build_tokenizer, messages

T = TypeVar("T")
THINK = "<think>\n\n</think>\n\n"
ASSISTANT = "<|im_start|>assistant\n"


def block(code: str) -> str:
    return f"Run it.\n```python\n{code}\n```"


class ScriptedServer:
    """The interface of verl's LLM client: each request gets the next turn, cut at `max_tokens` as vLLM does.

    Log-probabilities are distinct (-1, -2, ...), so that a shifted or swapped one shows.
    """

    def __init__(self, turns: list[list[int]], log_probs: bool = True, fields: dict[str, Any] | None = None):
        self.turns, self.log_probs, self.fields = list(turns), log_probs, fields or {}
        self.requests: list[tuple[list[int], dict[str, Any]]] = []
        self.request_ids: list[str] = []
        self.sampled: list[int] = []
        self.values: list[float] = []
        self._value = itertools.count(1)

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], priority: int = 0
    ) -> TokenOutput:
        self.requests.append((prompt_ids, dict(sampling_params)))
        self.request_ids.append(request_id)
        ids = self.turns.pop(0)[: sampling_params.pop("max_tokens")]
        values = [-float(next(self._value)) for _ in ids]
        self.sampled += ids
        self.values += values
        step = len(self.requests)
        fields = {"global_steps": step, "min_global_steps": step, "max_global_steps": step} | self.fields
        return TokenOutput(
            token_ids=ids,
            log_probs=values if self.log_probs else None,
            stop_reason="completed",
            extra_fields=fields,
        )


class Harness:
    """One event loop and one sandbox for many trajectories."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.loop = asyncio.new_event_loop()
        self.client = SandboxClient(Limits(wall_s=1.0, cpu_s=1.0), concurrency=2)
        self.tool = PythonTool(self.client, 256)

    def close(self) -> None:
        self.wait(self.client.close())
        self.loop.close()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def turn(self, text: str, end: str = "<|im_end|>") -> list[int]:
        ids: list[int] = self.tokenizer.encode(text + end, add_special_tokens=False)
        return ids

    def run(
        self,
        server: ScriptedServer,
        *,
        response_length: int = 4000,
        tokenizer: Any = None,
        tool: Any = None,
        sampling: dict[str, Any] | None = None,
        rollout: dict[str, Any] | None = None,
        **tir: Any,
    ) -> AgentLoopOutput:
        config = OmegaConf.create(
            {
                "actor_rollout_ref": {
                    "rollout": {"prompt_length": 1000, "response_length": response_length, **(rollout or {})}
                },
                "data": {"apply_chat_template_kwargs": {"enable_thinking": False}},
                "tir": tir,
            }
        )

        async def trajectory() -> AgentLoopOutput:
            agent_loop = TirAgentLoop(
                trainer_config=DictConfigWrap(config),
                server_manager=server,
                tokenizer=tokenizer or self.tokenizer,
                processor=None,
                dataset_cls=None,
                data_config=DictConfigWrap(config.data),
                hf_model_type="qwen3",
                python_tool=tool or self.tool,
            )
            given = {"temperature": 1.0, "logprobs": True, **(sampling or {})}
            params = dict(given)
            output = await agent_loop.run(params, raw_prompt=messages("What is 6 times 7?"), index=0)
            assert params == given, "verl shares these among trajectories"
            return output

        return self.wait(trajectory())

    def script(self, *turns: str, **kwargs: Any) -> ScriptedServer:
        return ScriptedServer([self.turn(text) for text in turns], **kwargs)

    def observations(self, output: AgentLoopOutput) -> list[str]:
        text = self.tokenizer.decode(output.response_ids, skip_special_tokens=False)
        return [part.split("\n</tool_response>")[0] for part in text.split("<tool_response>\n")[1:]]


def qwen3_template_of_vllm() -> str:
    """A Qwen3 template that ships inside the installed vLLM (of a model built on Qwen3), read where it lies.

    It differs from Qwen3's own in the name of one field and a default, both put back here.
    """
    import importlib.util

    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed, and with it no Qwen3 template to compare with")
    folder = Path(spec.submodule_search_locations[0]) / "transformers_utils" / "chat_templates"
    path = folder / "template_minicpmv45.jinja"
    if not path.exists():
        pytest.skip(f"this vLLM ships no {path.name}, the only installed Qwen3 template")
    source = path.read_text()
    assert "message.reasoning is not none" in source
    return source.replace("message.reasoning", "message.reasoning_content")


def make_harness(template: str | None) -> Iterator[Harness]:
    try:
        require_isolation()
    except SandboxUnavailable as error:
        pytest.skip(f"trajectories need the sandbox: {error}")
    tokenizer = build_tokenizer(384, 0, 8192)
    if template is not None:
        tokenizer.chat_template = template
    harness = Harness(tokenizer)
    yield harness
    harness.close()
