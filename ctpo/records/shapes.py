"""Shapes of values from outside (requests, rows, records), declared with pydantic; each wrong field is one line."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Shape(BaseModel):
    """A node whose fields are all declared here. Nothing is converted: True is no number, "3" is none, inf is none."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Part(Shape):
    """A node of which only some fields are declared here; the others are someone else's business."""

    model_config = ConfigDict(extra="ignore")


Count = Annotated[int, Field(ge=1, le=10**9)]
#: What numpy, torch and vLLM all take as a seed.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
#: A share of something that must not be empty.
PositiveShare = Annotated[float, Field(gt=0, le=1)]

NO_GROUP = "must be a group of fields"
_SHOULD = re.compile(r"^(Input|String|List) should")
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80
_MESSAGES = {
    "extra_forbidden": "no such field", "missing": "is missing",
    "model_type": NO_GROUP, "dict_type": NO_GROUP,
}  # fmt: skip


def shown(value: Any) -> str:
    """A value in a message: on one line, of bounded length, whatever it is."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**80:
        return "a number of more than 80 digits"
    plain = isinstance(value, str) and value.isprintable() and value == value.strip() and 0 < len(value) <= 80
    return value if plain else "null" if value is None else _SHORT.repr(value)


def problems(shape: type[Shape], given: Any, where: str = "") -> list[str]:
    """What is wrong with `given`: one line `field=value: what must be` each; `where` goes before the field's name."""
    try:
        shape.model_validate(given)
    except ValidationError as error:
        return lines(shape, error, where)
    return []


def lines(shape: type[Shape], error: ValidationError, where: str = "") -> list[str]:
    """`problems` of an error that `shape` raised."""
    return list(dict.fromkeys(_line(shape, where, each) for each in error.errors(include_url=False)))


def nearest(name: str, known: Iterable[str]) -> str:
    """The fix for an unknown name: the known name nearest to it, or all of them where there are few."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"there are {', '.join(names)}" if 0 < len(names) <= 20 else "remove it"


def _line(shape: type[Shape], where: str, error: Mapping[str, Any]) -> str:
    path, kind = error["loc"], error["type"]
    name = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    message = _MESSAGES.get(kind) or _SHOULD.sub("must", error["msg"].removeprefix("Value error, "))
    if kind == "extra_forbidden":
        message += f"; {nearest(str(path[-1]), _fields(shape, path[:-1]))}"
    if kind == "value_error" and isinstance(error["input"], Mapping):
        return message  # about several fields, which it names
    value = "" if kind == "missing" else f"={shown(error['input'])}"
    return f"{name.removeprefix('.')}{value}: {message}"


def _fields(shape: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the node at `path`."""
    for part in path:
        field = shape.model_fields.get(part) if isinstance(part, str) else None
        inner = (field.annotation, *get_args(field.annotation)) if field else ()
        shape = next((kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)), shape)
    return list(shape.model_fields)
