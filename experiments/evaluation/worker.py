"""verl's agent loop worker and LLM client, handing back each sample as soon as it is graded.

Training's worker puts trajectories into a queue for the trainer; here there is no trainer, only rows to write.
Between a prompt and its grade everything is verl's and `ctpo.tir`'s own, as in training.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import uuid4

import ray
from verl.experimental.agent_loop import AgentLoopManager, AgentLoopOutput, AgentLoopWorker
from verl.utils.ray_utils import auto_await
from verl.workers.rollout.llm_server import LLMServerClient, LLMServerManager

from ctpo.tir.config import TirConfig
from ctpo.tir.seeds import sample_seed
from ctpo.tir.tools import shared_tool
from experiments.evaluation.problems import SampleKey

TRIES = 2


@dataclass(frozen=True)
class SampleRequest:
    """One sample to draw: whose, and the dataset row that verl's agent loop gets."""

    key: SampleKey
    row: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A graded sample (`sample`: the reward function's record), or the error that each of `TRIES` tries ended in."""

    key: SampleKey
    score: float = 0.0
    sample: str = ""
    error: str | None = None


class Busy:
    """Seconds during which at least one of several overlapping things went on."""

    def __init__(self) -> None:
        self._seconds, self._running, self._since = 0.0, 0, 0.0

    def __enter__(self) -> None:
        if self._running == 0:
            self._since = time.perf_counter()
        self._running += 1

    def __exit__(self, *exception: object) -> None:
        self._running -= 1
        if self._running == 0:
            self._seconds += time.perf_counter() - self._since

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._seconds + (time.perf_counter() - self._since if self._running else 0.0)


class TimedClient(LLMServerClient):
    """verl's client; knows for how long it had requests with a server."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.busy = Busy()

    async def generate(self, *args: Any, **kwargs: Any) -> Any:
        with self.busy:
            return await super().generate(*args, **kwargs)


class EvaluationWorker(AgentLoopWorker):
    """Runs trajectories of the configured agent loop, `concurrency` at a time."""

    async def evaluate(
        self, requests: list[SampleRequest], seed: int, concurrency: int
    ) -> AsyncIterator[list[Outcome]]:
        """Draw all `requests`; yields outcomes as they come, those that are ready at once together.

        Args:
            requests: started in this order.
            seed: of the evaluation; each sample's own seed is derived from it.
            concurrency: trajectories at a time.
        """
        waiting: Iterator[SampleRequest] = iter(requests)
        running = {asyncio.create_task(self._draw(request, seed)) for request in islice(waiting, concurrency)}
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running |= {asyncio.create_task(self._draw(request, seed)) for request in islice(waiting, len(done))}
            yield [task.result() for task in done]

    async def warm_up(self, row: dict[str, Any]) -> None:
        """One token, one tool call, one grade (of a dataset row): the first of each takes seconds, and is start-up."""
        ids = [self.tokenizer.eos_token_id]
        sampling = {"max_tokens": 1, "temperature": 0.0}
        await self.llm_client.generate(request_id=uuid4().hex, prompt_ids=ids, sampling_params=sampling)
        self.llm_client.busy = Busy()
        await shared_tool(TirConfig.from_node(self.config.get("tir"))).observe("1")
        answered = AgentLoopOutput(
            prompt_ids=ids, response_ids=ids, response_mask=[1], metrics={}, extra_fields={"tir_answer": "x+1"}
        )
        await self._compute_score([answered], kwargs=row)

    async def generating_s(self) -> float:
        """Seconds, so far, during which this worker had at least one request with an LLM server."""
        seconds: float = self.llm_client.busy.seconds
        return seconds

    async def _draw(self, request: SampleRequest, seed: int) -> Outcome:
        rollout, key = self.config.actor_rollout_ref.rollout, request.key
        sampling = {
            "temperature": rollout.val_kwargs.temperature,
            "top_p": rollout.val_kwargs.top_p,
            "top_k": rollout.val_kwargs.top_k,
            "repetition_penalty": 1.0,
            "logprobs": rollout.calculate_log_probs,
            "seed": sample_seed(seed, *key),
        }
        trajectory = {"step": -1, "sample_index": key.sample_index, "rollout_n": key.sample_index, "validate": True}
        error = "not tried"
        for _ in range(TRIES):
            try:
                graded = await self._run_agent_loop(
                    dict(sampling),
                    trajectory,
                    agent_name=rollout.agent.default_agent_loop,
                    trace=False,
                    session_id=key.sample_index,
                    **request.row,
                )
                return Outcome(key, float(graded["score"]), str(graded["sample"]))
            except Exception as problem:  # of any kind: the server's, the sandbox', the grader's
                error = f"{type(problem).__name__}: {problem}"
        return Outcome(key, error=error)

    async def _agent_loop_postprocess(self, output: AgentLoopOutput, validate: bool, **kwargs: Any) -> dict[str, Any]:
        """Grade and keep only what a row needs, where verl would pad tensors for a training batch."""
        await self._compute_score([output], kwargs=kwargs)
        info: dict[str, Any] = output.extra_fields["reward_extra_info"]
        return info


class EvaluationManager(AgentLoopManager):
    """verl's manager of the workers above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.agent_loop_workers_class = ray.remote(EvaluationWorker)
        super().__init__(*args, **kwargs)

    def warm_up(self, row: dict[str, Any]) -> None:
        """Return when all workers, and what they work with, are ready to work at full speed."""
        ray.get([worker.warm_up.remote(row) for worker in self.agent_loop_workers])

    def evaluate(self, requests: list[SampleRequest], seed: int, concurrency: int) -> Iterator[list[Outcome]]:
        """Outcomes of all `requests`, spread over the workers, as they come."""
        workers = self.agent_loop_workers
        streams = [
            worker.evaluate.options(num_returns="streaming").remote(requests[i :: len(workers)], seed, concurrency)
            for i, worker in enumerate(workers)
        ]
        while streams:
            (ready,), _ = ray.wait(streams, num_returns=1)
            try:
                yield ray.get(next(ready))
            except StopIteration:
                streams.remove(ready)

    def generating_s(self) -> float:
        """Seconds with at least one request at a server; of several workers the largest, so never too much."""
        return max(ray.get([worker.generating_s.remote() for worker in self.agent_loop_workers]))


class EvaluationServers(LLMServerManager):
    """verl's LLM servers, started while whoever will use them starts, too: most of both is imports."""

    @auto_await
    async def start(self) -> None:
        """Start the servers and let the router, which `create_empty` has made, know of them."""
        await self._initialize_llm_servers()
        started = dict(zip(self.server_addresses, self.server_handles, strict=True))
        await self.global_load_balancer.add_servers.remote(started)
