"""The growing token sequence of one trajectory, and what is counted along the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl.workers.rollout.replica import TokenOutput


class Trajectory:
    """Prompt and response ids in one list, with mask and log-probabilities of the response.

    `mask` and `log_probs` have one entry per response token: 1 and the sampler's value for sampled
    tokens, 0 and 0.0 for context. `log_probs` is None if the server gives none. The response never
    grows beyond `response_length` tokens.
    """

    def __init__(self, prompt_ids: list[int], response_length: int) -> None:
        self.ids = list(prompt_ids)
        self.prompt_length = len(prompt_ids)
        self.response_length = response_length
        self.mask: list[int] = []
        self.log_probs: list[float] | None = None
        self.routed_experts: Any = None
        self.turns = 0
        self.contexts = 0
        self.metrics: dict[str, Any] = {}
        self.server_fields: dict[str, Any] = {}
        self.record: dict[str, Any] = {"tir_tool_calls": 0, "tir_tool_failures": 0, "tir_tool_unavailable": 0}

    @property
    def room(self) -> int:
        """Tokens that the response may still grow by."""
        return self.response_length - len(self.mask)

    def add_turn(self, output: TokenOutput) -> None:
        """Append one sampled turn as it is.

        Raises:
            RuntimeError: it is longer than there was room for, or its log-probabilities do not match it.
        """
        sampled = list(output.token_ids)
        if len(sampled) > self.room:
            raise RuntimeError(f"the LLM server sampled {len(sampled)} tokens where {self.room} were allowed")
        if output.log_probs:
            if self.turns == 0:
                self.log_probs = []
            if self.log_probs is None or len(output.log_probs) != len(sampled):
                raise RuntimeError(f"turn {self.turns + 1}: {len(output.log_probs)} log-probs, {len(sampled)} tokens")
            self.log_probs += output.log_probs
        elif self.log_probs is not None:
            raise RuntimeError(f"turn {self.turns + 1} has no log-probabilities, the turns before had")
        self.ids += sampled
        self.mask += [1] * len(sampled)
        self.turns += 1
        self._add_server_fields(output)

    def add_context(self, ids: list[int], mask: list[int], log_probs: list[float] | None) -> bool:
        """Take over the sequence extended by context tokens, unless no sampled token would fit behind it.

        A trajectory therefore always ends with a token of the model.
        """
        if len(mask) >= self.response_length:
            return False
        self.ids, self.mask, self.log_probs = ids, mask, log_probs
        self.contexts += 1
        return True

    def _add_server_fields(self, output: TokenOutput) -> None:
        preempted = output.num_preempted
        if "num_preempted" not in self.metrics:
            self.metrics["num_preempted"] = -1 if preempted is None else preempted
            self.server_fields = dict(output.extra_fields)
        else:
            self.metrics["num_preempted"] += preempted or 0
            # Weights may change between turns in asynchronous training: keep the widest span of versions.
            if output.extra_fields.get("max_global_steps") is not None:
                self.server_fields["max_global_steps"] = output.extra_fields["max_global_steps"]
        if output.routed_experts is not None:
            self.routed_experts = output.routed_experts
