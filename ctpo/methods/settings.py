"""A method from its settings: the defaults with some fields replaced, as the `method` config node has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ctpo.methods.custom import CUSTOM, load
from ctpo.methods.method import Method, MethodError
from ctpo.methods.registry import METHODS

TUNABLE = ("window", "dual_clip", "rule")


def settings_of(part: Any) -> dict[str, float]:
    """Fields of a window, dual clip or rule that a configuration may set, with their values."""
    if not dataclasses.is_dataclass(part):
        return {}
    chosen = (item.name for item in dataclasses.fields(part) if item.metadata.get("setting", True))
    return {name: getattr(part, name) for name in chosen}


def configure(name: str, overrides: Mapping[str, Any] | None = None) -> Method:
    """`METHODS[name]` with some fields of its window, dual clip or rule replaced.

    Args:
        name: a key of `METHODS`, or `custom`.
        overrides: for example `{"window": {"power": 0.7}}`; a part that is absent or None keeps its defaults. With
            `custom` also `import_path`, `search_path` and `code` (see `ctpo.methods.custom`).

    Raises:
        MethodError: unknown method, part or field, or a value out of range, naming the known ones.
    """
    parts = dict(overrides or {})
    if name == CUSTOM:
        method = load(parts.pop("import_path", None), parts.pop("search_path", None), parts.pop("code", None))
    elif name in METHODS:
        method = METHODS[name]
    else:
        raise MethodError(f"method.name: unknown method {name!r}; known: {', '.join([*METHODS, CUSTOM])}")
    changes = {}
    for part, fields in parts.items():
        if fields is None:
            continue
        if part not in TUNABLE or not settings_of(getattr(method, part)):
            known = ", ".join(key for key in TUNABLE if settings_of(getattr(method, key)))
            raise MethodError(f"method.{part}: {name!r} has no such setting; known: {known}")
        changes[part] = _replace_fields(part, getattr(method, part), fields)
    return dataclasses.replace(method, **changes)


def _replace_fields(part: str, default: Any, fields: Any) -> Any:
    known = list(settings_of(default))
    if not isinstance(fields, Mapping):
        raise MethodError(f"method.{part}: expected a mapping with any of {', '.join(known)}, got {fields!r}")
    for key, value in fields.items():
        if key not in known:
            raise MethodError(f"method.{part}.{key}: unknown field; known: {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise MethodError(f"method.{part}.{key}: expected a number, got {value!r}")
    try:
        return dataclasses.replace(default, **{key: float(value) for key, value in fields.items()})
    except ValueError as error:
        raise MethodError(f"method.{error}") from None
