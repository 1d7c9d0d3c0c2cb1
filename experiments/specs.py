"""What `model_spec` and `dataset_spec` of a configuration may say: one shape for each kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import AfterValidator, BeforeValidator, Field

from ctpo.records.shapes import Count, PositiveShare, Shape, problems
from ctpo.tir.prompts import SYSTEM_PROMPTS
from experiments.errors import BadRequest
from experiments.tiny.spec import ArithmeticSpec, TinyModelSpec


def names(given: Any) -> Any:
    """A list as it is; a text (an environment variable) at its commas."""
    if isinstance(given, str):
        return [item.strip() for item in given.split(",") if item.strip()]
    return [] if given is None else given


def distinct(given: list[str]) -> list[str]:
    if len(set(given)) < len(given) or not all(name.strip() for name in given):
        raise ValueError("must hold each name once and no empty one")
    return given


def _prompt(given: str) -> str:
    if given not in SYSTEM_PROMPTS and not any(character.isspace() for character in given.strip()):
        raise ValueError(f"must be {' or '.join(SYSTEM_PROMPTS)}, or the prompt itself, of several words")
    return given


Names = Annotated[list[str], AfterValidator(distinct), BeforeValidator(names)]


class FolderSpec(Shape):
    """A model in Hugging Face format."""

    kind: Literal["folder"]
    hub_id: str | None = None
    path: str | None = None


class Checks(Shape):
    """`dataset_spec.checks`: what becomes of training problems that cannot or should not be trained on.

    `unusable`: `drop` or `refuse` rows without a problem, without a readable answer, or given twice.
    `overlap`: `drop` or `report` training problems that share at least `overlap_share` of their n-grams
    (`overlap_ngram` tokens) with a benchmark problem. A benchmark is never changed: there every such row is
    refused, except an unreadable answer, which is reported (it can still be matched word for word).
    """

    unusable: Literal["drop", "refuse"] = "drop"
    overlap: Literal["drop", "report"] = "drop"
    overlap_ngram: Annotated[int, Field(ge=1, le=1000)] = 8
    overlap_share: PositiveShare = 0.6


class ProblemsSpec(Shape):
    """Problems of the catalogue or of files.

    `system_prompt`: a name in `SYSTEM_PROMPTS` or the prompt itself; None: `math`, or the tiny model's own.
    """

    kind: Literal["problems"]
    train: Names = Field(default_factory=list)
    test: Names = Field(default_factory=list)
    system_prompt: Annotated[str, AfterValidator(_prompt)] | None = None
    checks: Checks = Checks()


class CatalogEntry(Shape):
    """A data set of `data_catalog`: where it is published, or the `path` of a copy; names of its columns."""

    hub_id: str
    files: str | list[str]
    rows: Count | None = None
    path: str | None = None
    columns: dict[str, str] | None = None


KINDS: dict[str, dict[str, type[Shape]]] = {
    "model_spec": {"tiny": TinyModelSpec, "folder": FolderSpec},
    "dataset_spec": {"arithmetic": ArithmeticSpec, "problems": ProblemsSpec},
}


def unset(split: str) -> str:
    """The message for data that is not named."""
    return (
        f"dataset_spec.{split} is not set: name data sets of data_catalog, or files or folders; or use "
        "model=tiny dataset=arithmetic"
    )


def spec_of(config: DictConfig, node: str) -> Any:
    """The node `model_spec` or `dataset_spec` as an object of its kind.

    Raises BadRequest: it is missing, of no known kind, or has an unknown field or a value out of range.
    """
    found = OmegaConf.select(config, node)
    kinds = KINDS[node]
    if found is None:
        raise BadRequest(f"{node} is missing: give {node}.kind, one of {', '.join(kinds)}")
    given: Any = OmegaConf.to_container(found, resolve=True)
    shape = kinds.get(str(given.get("kind")))
    if shape is None:
        raise BadRequest(f"{node}.kind={given.get('kind')}: use one of {', '.join(kinds)}")
    if wrong := problems(shape, given, node):
        raise BadRequest(*wrong)
    return shape.model_validate(given)


def catalog_of(config: DictConfig) -> dict[str, Any]:
    """`data_catalog`: its entries, and `folder`. Raises BadRequest."""
    node = OmegaConf.select(config, "data_catalog")
    given: Any = {} if node is None else OmegaConf.to_container(node, resolve=True)
    folder = given.pop("folder", None)
    wrong = [line for name, entry in given.items() for line in problems(CatalogEntry, entry, f"data_catalog.{name}")]
    if wrong:
        raise BadRequest(*wrong)
    return {"folder": folder, **{name: CatalogEntry.model_validate(entry) for name, entry in given.items()}}
