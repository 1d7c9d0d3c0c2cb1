"""One evaluation job: find out what is missing, draw it, record each sample as it comes, put all together."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ctpo.records import RecordError, Sampling
from ctpo.records.evaluation import SampleParts, close_evaluation, log_file, open_evaluation
from ctpo.tir.config import TirConfig
from ctpo.tir.samples import sample_row
from ctpo.tir.tools import tool_server
from ctpo.training.platforms import environment
from experiments import prepare
from experiments.command import Interrupted, RunFailed, refuse
from experiments.errors import BadRequest
from experiments.evaluation import checks
from experiments.evaluation.checkpoint import Checkpoint, find
from experiments.evaluation.engine import rollout
from experiments.evaluation.problems import (
    Benchmark,
    SampleKey,
    agent_loop_row,
    load_benchmarks,
    own_part,
    parse_shard,
)
from experiments.evaluation.sample_bar import SampleBar
from experiments.evaluation.summary import accuracy, in_words
from experiments.progress import captured_output
from experiments.surroundings import of_a_run

if TYPE_CHECKING:
    from experiments.evaluation.worker import Outcome

#: Samples that may fail, each after a second try, before a job gives up.
MAX_FAILED = 8


class EvaluationFailed(RunFailed):
    """Sampling started and ended badly. What was drawn is recorded; the same command again goes on."""


@dataclass(frozen=True)
class Evaluation:
    """What one job works on: the resolved configuration, where samples go, and all keys of each benchmark."""

    config: dict[str, Any]
    directory: Path
    benchmarks: list[Benchmark]
    parts: dict[str, SampleParts]
    checkpoint: Checkpoint

    @property
    def settings(self) -> dict[str, Any]:
        """The `evaluation` node."""
        node: dict[str, Any] = self.config["evaluation"]
        return node

    def keys(self, benchmark: Benchmark) -> list[SampleKey]:
        return benchmark.keys(self.settings["k"])


@dataclass(frozen=True)
class Timing:
    """Where a job's time went, in seconds.

    start_up: until servers and workers are ready (imports, mostly).
    drawing: from then until the last sample is on disk and all are put together.
    generating: of that, the time in which at least one request was with an LLM server.
    """

    samples: int
    start_up: float
    drawing: float
    generating: float

    @property
    def overhead(self) -> float:
        """Share of `drawing` in which nothing was generated."""
        return 1 - self.generating / self.drawing


def evaluate(config: DictConfig) -> Timing | None:
    """Evaluate what `config` describes, or go on with it; prints avg@k once all samples are there.

    Returns:
        How long drawing took; None where nothing was left to draw.

    Raises:
        BadRequest: something is wrong with the request; nothing was started.
        EvaluationFailed: samples are missing at the end; the message says how many and why.
        Interrupted: Ctrl-C.
    """
    _apply(config)
    refuse([*checks.check_settings(config), *checks.check_machine(config)])
    # Before anything imports verl, which looks for its device once.
    os.environ.update(environment.for_device(config.trainer.device))
    try:
        evaluation = _open(config)
    except RecordError as error:
        raise BadRequest(str(error)) from None
    shard = parse_shard(config.evaluation.shard)
    timing = None if shard is None else _draw(evaluation, *shard)
    merging = time.perf_counter()
    merged = _merge(evaluation)
    if timing is not None:
        timing = replace(timing, drawing=timing.drawing + time.perf_counter() - merging)
        print(
            f"drew {timing.samples} samples in {timing.drawing:.1f} s, {timing.overhead:.1%} of it outside of "
            f"generation; start-up took {timing.start_up:.0f} s"
        )
    if shard is None and not merged:
        missing = f"evaluation.shard=merge: {_missing(evaluation)} samples are missing"
        refuse([f"{missing}; run their jobs (evaluation.shard=i/n) first"])
    if merged:
        close_evaluation(evaluation.directory, "finished")
        found = [accuracy(b.name, evaluation.parts[b.name].scores()) for b in evaluation.benchmarks]
        sampling = Sampling.of_config(evaluation.config)
        print(in_words(found, sampling, evaluation.checkpoint.in_training, evaluation.directory))
    else:
        print(
            f"part {config.evaluation.shard} is drawn, {_missing(evaluation)} samples of other parts are missing: "
            f"{evaluation.directory}"
        )
    return timing


def _apply(config: DictConfig) -> None:
    """Let the fields of `evaluation` that have their place elsewhere take effect there."""
    turns, length = config.evaluation.max_turns, config.evaluation.max_response_length
    with open_dict(config):
        config.tir.max_turns = turns
        config.data.max_response_length = length


def _open(config: DictConfig) -> Evaluation:
    """Find model and problems, check them, and claim the directory for these settings."""
    files = prepare.prepare_benchmarks(config, config.evaluation.benchmarks or prepare.benchmark_names(config))
    benchmarks = load_benchmarks(files.values(), config.evaluation.problems)
    checkpoint = find(config)
    refuse(checks.check_model(config, checkpoint.path, benchmarks))
    with open_dict(config):
        config.actor_rollout_ref.model.path = str(checkpoint.path)
        config.data.train_files, config.data.val_files = [], [str(file) for file in files.values()]
        config.run.sweep = config.run.sweep or checkpoint.sweep
        config.run.model, config.run.method, config.run.seed = checkpoint.model, checkpoint.method, checkpoint.seed
        config.trainer.total_training_steps = 0  # what this directory's records are complete with
    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    directory = Path(config.run.dir)
    in_training = dict(checkpoint.in_training.values) if checkpoint.in_training else None
    open_evaluation(directory, {**resolved, "in_training": in_training}, seeds={"evaluation": config.evaluation.seed})
    parts = {benchmark.name: SampleParts(directory, benchmark.name, checkpoint.step) for benchmark in benchmarks}
    for benchmark in benchmarks:
        parts[benchmark.name].claim(checks.identity(config, checkpoint.fingerprint, benchmark))
    return Evaluation(resolved, directory, benchmarks, parts, checkpoint)


def _draw(evaluation: Evaluation, shard: int, shards: int) -> Timing | None:
    """Draw this job's samples that no job has drawn yet; each is on disk as soon as it is graded."""
    wanted: list[SampleKey] = []
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    own = 0
    for benchmark in evaluation.benchmarks:
        parts = evaluation.parts[benchmark.name]
        mine = own_part(evaluation.keys(benchmark), shard, shards)
        own += len(mine)
        if parts.complete:
            continue
        try:
            parts.open_part(shard, shards)
        except RecordError as error:
            refuse([str(error)])
        done = parts.rows()
        wanted += [key for key in mine if (key.problem_id, key.sample_index) not in done]
        for index, row in enumerate(benchmark.rows):
            rows[benchmark.name, str(row["extra_info"]["problem_id"])] = agent_loop_row(row, index)
    try:
        if not wanted:
            return None
        return _sample(evaluation, wanted, rows, own, f"{shard}-of-{shards}")
    finally:
        for parts in evaluation.parts.values():
            parts.close()


def _sample(
    evaluation: Evaluation, wanted: list[SampleKey], rows: dict[tuple[str, str], dict[str, Any]], own: int, part: str
) -> Timing:
    config, log = evaluation.config, log_file(evaluation.directory, part)
    variables = {environment.RUN_ENV: str(evaluation.directory)}
    with of_a_run(config["trainer"]["device"], variables) as folder, captured_output(log) as terminal:
        name = f"{evaluation.checkpoint.model} {evaluation.checkpoint.method} step {evaluation.checkpoint.step}"
        bar = SampleBar(name, own - len(wanted), own, terminal)
        bar.phase("starting Ray, verl and vLLM")
        begun = time.perf_counter()
        try:
            from experiments.evaluation.worker import SampleRequest

            with tool_server(TirConfig.from_node(config["tir"])), rollout(config, folder) as manager:
                requests = [SampleRequest(key, rows[key.benchmark, key.problem_id]) for key in wanted]
                manager.warm_up(requests[0].row)
                bar.phase("sampling")
                started = time.perf_counter()
                settings = evaluation.settings
                outcomes = manager.evaluate(requests, settings["seed"], settings["concurrency"])
                failed = _record(evaluation, outcomes, bar.count)
                drawing, generating = time.perf_counter() - started, manager.generating_s()
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
            close_evaluation(evaluation.directory, "interrupted" if interrupted else "failed", reason)
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(
                    f"interrupted; the same command draws what is missing: {evaluation.directory}"
                ) from None
            if interrupted:
                raise
            raise EvaluationFailed(f"{reason}\nthe whole log: {log}\nThe same command again goes on.") from None
        finally:
            bar.close()
    if failed:
        reason = f"{len(failed)} samples failed; the first, {failed[0].key}: {failed[0].error}"
        close_evaluation(evaluation.directory, "failed", reason)
        raise EvaluationFailed(f"{reason}\nthe whole log: {log}\nThe same command again draws them anew.")
    return Timing(len(wanted), started - begun, drawing, generating)


def _record(evaluation: Evaluation, batches: Any, count: Callable[[int], Any]) -> list[Outcome]:
    """Write samples as they come; returns those that failed.

    Raises:
        EvaluationFailed: more than `MAX_FAILED` of them.
    """
    failed: list[Outcome] = []
    step = evaluation.checkpoint.step
    for batch in batches:
        rows: dict[str, list[dict[str, Any]]] = {}
        for outcome in batch:
            if outcome.error is not None:
                failed.append(outcome)
                print(f"sample failed: {outcome.key}: {outcome.error}", flush=True)
            else:
                row = sample_row(step, outcome.score, outcome.sample)
                rows.setdefault(outcome.key.benchmark, []).append(row)
        for benchmark, new in rows.items():
            evaluation.parts[benchmark].append(new)
        count(sum(map(len, rows.values())))
        if len(failed) > MAX_FAILED:
            raise EvaluationFailed(f"more than {MAX_FAILED} samples failed, the first with {failed[0].error}")
    return failed


def _merge(evaluation: Evaluation) -> bool:
    """Put together every benchmark that is complete; whether all are."""
    complete = True
    for benchmark in evaluation.benchmarks:
        keys = [(key.problem_id, key.sample_index) for key in evaluation.keys(benchmark)]
        complete = evaluation.parts[benchmark.name].merge(keys) and complete
    return complete


def _missing(evaluation: Evaluation) -> int:
    return sum(
        len(evaluation.keys(b)) - len(evaluation.parts[b.name].rows())
        for b in evaluation.benchmarks
        if not evaluation.parts[b.name].complete
    )
