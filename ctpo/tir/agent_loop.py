"""The tool-integrated reasoning loop, on verl's registry as `ctpo_tir`.

The model writes a turn; if it holds a Python block, the block runs in the sandbox and its output comes
back as a tool message; and so on until a final answer or a limit (code_blocks.py says what counts as what).
Sampled token ids are kept as they are and never tokenised again. Everything between two turns (the
newline after `<|im_end|>`, the tool message, the next generation prompt) comes from verl's builder
for the model's chat template and has mask 0 and log-probability 0.
"""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register
from verl.utils.profiler import simple_timer
from verl.workers.rollout.replica import TokenOutput

from ctpo.tir.code_blocks import Turn, final_answer, parse_turn
from ctpo.tir.config import TirConfig
from ctpo.tir.prompts import END_OF_TURN, tool_message
from ctpo.tir.seeds import turn_seed
from ctpo.tir.tools import Observed, PythonTool, shared_tool
from ctpo.tir.trajectory import Trajectory


@register("ctpo_tir")
class TirAgentLoop(AgentLoopBase):
    """One trajectory: at most `tir.max_turns` turns and `rollout.response_length` tokens, tool output too.

    Raises ValueError if the tokenizer has no `<|im_end|>`: turns of another chat format would never end.
    """

    def __init__(self, *args: Any, python_tool: PythonTool | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tir = TirConfig.from_node(self.config.get("tir"))
        self.python_tool = python_tool or shared_tool(self.tir)
        end_of_turn = self.tokenizer.convert_tokens_to_ids(END_OF_TURN)
        if end_of_turn is None or end_of_turn == self.tokenizer.unk_token_id:
            raise ValueError(f"actor_rollout_ref.model: its tokenizer has no {END_OF_TURN}, give a ChatML model")
        self.end_of_turn: int = end_of_turn

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        """Run one trajectory to its end.

        Args:
            sampling_params: vLLM's, without a length limit; each turn may use what is left of the response. A
                `seed` in it is the trajectory's: each turn samples with one derived from it.
            priority: scheduling priority of the trajectory's requests.
            **kwargs: the dataset row; `raw_prompt` holds the system and the user message, `session_id` (0 if absent)
                is the sample's index among those of its prompt.

        Returns:
            Ids, mask and log-probabilities of the response, and the `tir_*` record in `extra_fields`.

        Raises:
            RuntimeError: the server aborted the request or broke the length limit, or the sandbox is gone.
        """
        started = time.perf_counter()
        messages = list(kwargs["raw_prompt"])
        trajectory = Trajectory(await self.ct_build_initial_tokens(messages), self.rollout_config.response_length)
        deterministic = getattr(self.rollout_config, "full_determinism", False)
        # verl then chooses a replica by this name. Its trainer gives all trajectories one priority, thus one replica.
        request_id = f"det-{sampling_params.get('seed', priority)}" if deterministic else uuid4().hex
        answer = ""
        finish_reason = None
        while finish_reason is None:
            output = await self._generate(trajectory, request_id, sampling_params, int(priority))
            text, turn, finish_reason = self._read(trajectory, output)
            answer = final_answer(text) or answer
            if finish_reason is None and turn.code is not None:
                with simple_timer("tool_calls", trajectory.metrics):
                    observed = await self.python_tool.observe(turn.code)
                fits = await self._show(trajectory, messages, text, observed)
                finish_reason = None if fits else "max_tokens"
        trajectory.record |= {
            "tir_turns": trajectory.turns,
            "tir_finish_reason": finish_reason,
            "tir_model_tokens": sum(trajectory.mask),
            "tir_answer": answer,
            "tir_wall_s": time.perf_counter() - started,
            "tir_sample_index": int(kwargs.get("session_id", 0)),
        }
        return _output(trajectory)

    async def _generate(
        self, trajectory: Trajectory, request_id: str, sampling_params: dict[str, Any], priority: int
    ) -> TokenOutput:
        stops = {*(sampling_params.get("stop_token_ids") or ()), self.end_of_turn}
        seed = sampling_params.get("seed")
        seeded = {} if seed is None else {"seed": turn_seed(seed, trajectory.turns)}
        with simple_timer("generate_sequences", trajectory.metrics):
            output: TokenOutput = await self.server_manager.generate(
                request_id=request_id,
                prompt_ids=list(trajectory.ids),
                sampling_params={
                    **sampling_params,
                    **seeded,
                    "max_tokens": trajectory.room,
                    "stop_token_ids": sorted(stops),
                },
                priority=priority,
            )
        if output.stop_reason == "aborted" or not output.token_ids:
            raise RuntimeError(f"turn {trajectory.turns + 1} was aborted by the LLM server ({output.stop_reason})")
        trajectory.add_turn(output)
        return output

    def _read(self, trajectory: Trajectory, output: TokenOutput) -> tuple[str, Turn, str | None]:
        """The turn's text, what it asks for, and why the trajectory ends here (None: it calls the tool)."""
        text = self.tokenizer.decode(output.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        turn = parse_turn(text)
        last = output.token_ids[-1]
        if last != self.end_of_turn:
            # Cut by a length limit, or ended with another token than a turn's: no tool call either way.
            ended = last in (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
            return text, turn, _without_call(text) if ended else "max_tokens"
        if turn.code is None:
            return text, turn, _without_call(text)
        return text, turn, "max_turns" if trajectory.turns >= self.tir.max_turns else None

    async def _show(
        self, trajectory: Trajectory, messages: list[dict[str, Any]], text: str, observed: Observed
    ) -> bool:
        """Append the observation of a call; False if that would leave no room for another turn."""
        trajectory.record["tir_tool_calls"] += 1
        trajectory.record["tir_tool_failures"] += observed.failed
        trajectory.record["tir_tool_unavailable"] += observed.unavailable
        messages.append({"role": "assistant", "content": text})
        previous = list(messages)
        messages.append(tool_message(observed.text))
        merged, mask, log_probs = await self.ct_merge_context_msg(
            previous, messages, trajectory.ids, trajectory.mask, trajectory.log_probs
        )
        return trajectory.add_context(merged.token_ids, mask, log_probs)


def _without_call(text: str) -> str:
    return "end_of_text" if final_answer(text) is None else "answer"


def _output(trajectory: Trajectory) -> AgentLoopOutput:
    return AgentLoopOutput(
        prompt_ids=trajectory.ids[: trajectory.prompt_length],
        response_ids=trajectory.ids[trajectory.prompt_length :],
        response_mask=trajectory.mask,
        response_logprobs=trajectory.log_probs,
        routed_experts=trajectory.routed_experts,
        num_turns=1 + trajectory.turns + trajectory.contexts,
        metrics=trajectory.metrics,
        # verl's own loops always give the first two; a batch must not mix schemas.
        extra_fields={"turn_scores": [], "tool_rewards": []} | trajectory.server_fields | trajectory.record,
    )
