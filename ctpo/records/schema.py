"""What the JSON files of a run directory hold: files are checked against these types when they are read.

A checked record is a plain dict. Whatever does not fit is one named problem of one run (`ctpo.records.files.parsed`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import NotRequired, TypedDict

from ctpo.records.files import json_numbers

SCHEMA = 1
#: Node of a recorded config that only an evaluation has.
EVALUATION = "evaluation"
State = Literal["created", "running", "finished", "failed", "interrupted"]

_OPEN = ConfigDict(extra="allow")
_CLOSED = ConfigDict(extra="forbid")
_INT64 = 2**63
Step = Annotated[int, Field(ge=0, lt=2**53)]
Natural = Annotated[int, Field(ge=0, lt=_INT64)]
Name = Annotated[str, Field(min_length=1)]


@with_config(_OPEN)
class RunNames(TypedDict):
    """`config.run`: which run it is."""

    sweep: Name
    model: Name
    method: Name
    seed: Annotated[int, Field(ge=0)]


@with_config(_OPEN)
class TrainerNode(TypedDict):
    total_training_steps: NotRequired[Step | None]


@with_config(_OPEN)
class MethodNode(TypedDict):
    name: NotRequired[Name]


@with_config(_OPEN)
class RecordedConfig(TypedDict):
    """The resolved configuration of a run."""

    run: RunNames
    trainer: NotRequired[TrainerNode]
    method: NotRequired[MethodNode]
    evaluation: NotRequired[dict[str, Any]]


@with_config(_OPEN)
class Git(TypedDict):
    commit: str | None
    dirty: bool | None


@with_config(_OPEN)
class Hardware(TypedDict):
    host: NotRequired[str]


@with_config(_OPEN)
class Restart(TypedDict):
    time: str
    step: Step | None
    previous_state: State
    previous_error: str | None
    hardware: NotRequired[Hardware]


@with_config(_OPEN)
class Manifest(TypedDict):
    """`manifest.json`."""

    schema: Literal[1]
    state: State
    config: RecordedConfig
    config_hash: str
    seeds: dict[str, int]
    git: Git
    hardware: Hardware
    created: str
    started: str | None
    ended: str | None
    error: str | None
    restarts: list[Restart]


@with_config(_CLOSED)
class SubmissionFields(TypedDict):
    """`submission.json`; `job_id` goes into a command line of Slurm's."""

    job_id: Annotated[str, Field(pattern=r"^\w+$")]
    profile: str
    submitted: str
    config_hash: str


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    for name, value in row.items():
        if isinstance(value, int) and abs(value) >= _INT64:
            raise ValueError(f"{name}={str(value)[:20]}... has more than 64 bits")
    return json_numbers(row)


@with_config(_OPEN)
class _MetricsRow(TypedDict):
    step: Step


@with_config(_CLOSED)
class SampleRow(TypedDict):
    """One evaluated sample; in this order the columns of a samples file."""

    step: Step
    problem_id: Name
    sample_index: Natural
    score: Annotated[float, Field(ge=0, le=1)]
    answer: str | None
    model_tokens: Natural
    turns: Natural
    tool_calls: Natural
    tool_failures: Natural
    finish_reason: str | None
    wall_s: float


@with_config(_CLOSED)
class SealedFile(TypedDict):
    bytes: Natural
    xxh3: str


@with_config(_CLOSED)
class SealFields(TypedDict):
    """`sealed.json` of a checkpoint: whose it is, and every file by its path."""

    config_hash: str
    files: dict[str, SealedFile]


@with_config(_OPEN)
class BestNote(TypedDict):
    """`best.json` beside the best checkpoint."""

    step: Step
    accuracy: Annotated[float, Field(allow_inf_nan=False)]


def _dicts(kind: Any) -> TypeAdapter[dict[str, Any]]:
    return TypeAdapter(kind)


MANIFEST = _dicts(Manifest)
NAMES = _dicts(RunNames)
SUBMISSION = _dicts(SubmissionFields)
METRICS_ROW = _dicts(Annotated[_MetricsRow, AfterValidator(_numbers)])
SAMPLE_ROW = _dicts(SampleRow)
SEAL = _dicts(SealFields)
BEST_NOTE = _dicts(BestNote)
MAPPING = _dicts(dict[str, Any])
