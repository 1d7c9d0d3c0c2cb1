"""The shape of a request: types and ranges of the fields that decide a run, checked on the resolved configuration.

verl's own trees appear where verl would find a wrong value late or never; `preflight.verl_checks` has the rest.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, Field, model_validator

from ctpo.records.shapes import NO_GROUP, Count, Part, PositiveShare, Seed, Shape, Share, problems, shown
from ctpo.tir.config import TirConfig
from experiments.errors import BadRequest
from experiments.evaluation.problems import parse_shard
from experiments.planner.plan_request import GPU_BYTES, NonNegative, Positive
from experiments.specs import distinct

_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]{0,63}")

#: Advantages from the rewards of a prompt's responses alone: no critic, no second rollout, no gradient norms.
ESTIMATORS = Literal[
    "grpo", "grpo_vectorized", "grpo_passk", "rloo", "rloo_vectorized", "opo", "gpg", "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
]  # fmt: skip


def _component(name: str) -> str:
    if not _COMPONENT.fullmatch(name):
        raise ValueError(
            "must be one name for a folder, a job and a wandb run: 1 to 64 of A-Z a-z 0-9 _ . + = @ -, and neither "
            "'.' nor a sign first"
        )
    return name


def _never_or_positive(value: int) -> int:
    if value != -1 and not 1 <= value <= 10**9:
        raise ValueError("must be a whole number of at least 1, or -1 for never")
    return value


def _shard(text: str) -> str:
    parse_shard(text)
    return text


Component = Annotated[str, AfterValidator(_component)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Length = Annotated[int, Field(ge=1, le=10**7)]
Few = Annotated[int, Field(ge=1, le=10_000)]
Every = Annotated[int, AfterValidator(_never_or_positive)]
Temperature = Annotated[float, Field(gt=0, le=100)]
TemperatureOrGreedy = Annotated[float, Field(ge=0, le=100)]
TopK = Annotated[int, Field(ge=-1, le=10**9)]


class Run(Shape):
    """Where a run lives. `sweep` is null in an evaluation, which takes the checkpoint's."""

    sweep: Component | None
    seed: Seed
    root: Text
    dir: Text
    variant: Annotated[str, AfterValidator(lambda name: name and _component(name))]
    method: Component
    model: Component
    dataset: Component
    preflight: Literal["run", "only"]


class Records(Shape):
    position_stats_every: Count
    allow_gaps: bool


class Evaluation(Shape):
    """The `evaluation` node of `experiments/evaluate.py`."""

    checkpoint: Text | None
    benchmarks: Annotated[list[str], Field(min_length=1), AfterValidator(distinct)] | None
    k: Few
    temperature: TemperatureOrGreedy
    top_p: PositiveShare
    max_turns: Few
    max_response_length: Length
    seed: Seed
    shard: Annotated[str, AfterValidator(_shard)]
    problems: Count | None
    concurrency: Few

    @model_validator(mode="after")
    def _samples_differ(self) -> Evaluation:
        if self.temperature == 0 and self.k != 1:
            raise ValueError(
                f"evaluation.k={self.k}: at evaluation.temperature=0 all samples are the same; give evaluation.k=1"
            )
        return self


class PositionStats(Shape):
    """Sizes of the arrays that hold the statistics by position."""

    max_position: Length
    bin_width: Few
    folds: Few
    max_updates: Annotated[int, Field(ge=1, le=10**6)]


class RolloutSeeds(Shape):
    """The top-level `rollout` node."""

    seeded: bool


class Method(Part):
    """`ctpo.methods` checks the parts of a method."""

    name: Component
    position_stats: PositionStats


class Data(Part):
    train_batch_size: Annotated[int, Field(ge=1, le=10**6)]
    max_prompt_length: Length
    max_response_length: Length
    train_max_samples: Every
    val_max_samples: Every
    truncation: Literal["error", "left", "right", "middle"]
    dataloader_num_workers: Annotated[int, Field(ge=0, le=1024)]
    seed: Seed | None


class Optim(Part):
    lr: Share
    weight_decay: NonNegative
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]


class Actor(Part):
    strategy: Literal["fsdp", "fsdp2"]
    ppo_mini_batch_size: Count
    ppo_micro_batch_size_per_gpu: Count | None
    ppo_max_token_len_per_gpu: Count
    use_dynamic_bsz: bool
    ppo_epochs: Annotated[int, Field(ge=1, le=1000)]
    ulysses_sequence_parallel_size: Few
    data_loader_seed: Seed
    grad_clip: Positive
    entropy_coeff: NonNegative
    kl_loss_coef: NonNegative
    optim: Optim


class Sampling(Part):
    n: Few
    temperature: TemperatureOrGreedy
    top_p: PositiveShare
    top_k: TopK

    @model_validator(mode="after")
    def _samples_differ(self) -> Sampling:
        if self.temperature == 0 and self.n != 1:
            raise ValueError(
                f"actor_rollout_ref.rollout.val_kwargs.n={self.n}: at temperature=0 all samples are the same; give n=1"
            )
        return self


class Agent(Part):
    num_workers: Few


class CheckpointEngine(Part):
    update_weights_bucket_megabytes: Count


class Rollout(Part):
    name: Literal["vllm"]
    mode: Literal["async"]
    dtype: Literal["bfloat16", "float16", "float32"]
    n: Few
    temperature: Temperature
    top_p: PositiveShare
    top_k: TopK
    seed: Seed
    gpu_memory_utilization: PositiveShare
    tensor_model_parallel_size: Few
    max_num_seqs: Count
    max_num_batched_tokens: Count
    max_model_len: Length | None
    log_prob_micro_batch_size_per_gpu: Count | None
    agent: Agent
    checkpoint_engine: CheckpointEngine
    val_kwargs: Sampling


class ActorRolloutRef(Part):
    actor: Actor
    rollout: Rollout


class RolloutCorrection(Part):
    rollout_is: Literal["token", "sequence"] | None
    rollout_is_threshold: Positive | None


class Algorithm(Part):
    adv_estimator: ESTIMATORS
    gamma: Share
    lam: Share
    rollout_correction: RolloutCorrection


class Critic(Part):
    enable: Literal[False] | None


class TrainerV1(Part):
    trainer_mode: Literal["ctpo"]
    poll_interval_s: Annotated[float, Field(gt=0, le=3600)]
    max_failed_share: Share


class Trainer(Part):
    device: Literal["cpu", "cuda"]
    nnodes: Few
    n_gpus_per_node: Annotated[int, Field(ge=1, le=1024)]
    total_training_steps: Count
    total_epochs: Count
    save_freq: Every
    test_freq: Every
    max_actor_ckpt_to_keep: Count | None
    resume_mode: Literal["auto", "disable", "resume_path"]
    logger: list[Literal["console", "wandb", "file"]]
    project_name: Component
    experiment_name: Text
    use_v1: Literal[True]
    v1: TrainerV1


class Reward(Part):
    num_workers: Few


def _tir(node: dict[str, Any]) -> dict[str, Any]:
    TirConfig.from_node(node)
    return node


class Request(Part):
    """The resolved configuration of one run or evaluation."""

    run: Run
    tir: Annotated[dict[str, Any], AfterValidator(_tir)]
    rollout: RolloutSeeds
    method: Method
    records: Records
    evaluation: Evaluation | None = None
    data: Data
    actor_rollout_ref: ActorRolloutRef
    algorithm: Algorithm
    critic: Critic
    trainer: Trainer
    reward: Reward
    dry_run: bool
    wait: bool

    @model_validator(mode="after")
    def _a_run_has_a_sweep(self) -> Request:
        if self.run.sweep is None and self.evaluation is None:
            raise ValueError("run.sweep=null: must be a name")
        return self


#: Fields without a value until `prepare` fills them in, each with a value of the right kind for checks before that.
MADE_LATER = {"actor_rollout_ref.model.path": "model", "data.train_files": ["train"], "data.val_files": ["test"]}


def resolved(config: DictConfig) -> dict[str, Any]:
    """The composed configuration with every reference followed. Raises BadRequest."""
    size = OmegaConf.select(config, "hardware.gpu_memory_gb")
    if size is not None and size not in GPU_BYTES:  # layouts are found by it
        raise BadRequest(f"hardware.gpu_memory_gb={shown(size)}: must be one of {', '.join(map(str, GPU_BYTES))}")
    copy = config.copy()
    OmegaConf.set_struct(copy, False)
    for field, value in MADE_LATER.items():
        parent, _, name = field.rpartition(".")
        node = OmegaConf.select(copy, parent)
        if isinstance(node, DictConfig) and OmegaConf.is_missing(node, name):
            node[name] = value
    try:
        plain: dict[str, Any] = OmegaConf.to_container(copy, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raw: Any = OmegaConf.to_container(copy)
        values = [problem for problem in problems(Request, raw) if problem.endswith(NO_GROUP)]
        why = f"{error.full_key}: {str(error).splitlines()[0]}; correct the value or the reference"
        raise BadRequest(values[0] if values else why) from error
    return plain


def value_problems(config: DictConfig, request: Any = None) -> list[str]:
    """Fields of a composed configuration with values that no run can have. A wrong value that other fields refer to is
    one problem. `request` is `resolved(config)`, where that is at hand."""
    try:
        found = problems(Request, request or resolved(config))
    except BadRequest as error:
        return [str(error)]
    return [problem for problem in found if not _refers(config, problem.partition("=")[0])] or found


def _refers(config: DictConfig, field: str) -> bool:
    parent, _, name = field.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and name in node and OmegaConf.is_interpolation(node, name)
