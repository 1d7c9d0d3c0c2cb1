"""Position statistics on disk: ``position_stats/step_<n>.npz``, the arrays of a step (`ctpo.records.position_stats`).

A file is checked when it is read: right arrays, shapes and types, finite sums, counts that agree with each other.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpo.records.files import RecordError, content_of, json_numbers, json_safe, write_whole
from ctpo.records.position_stats import (
    D_SQUARE,
    D_SQUARE_FINE,
    D_SUM,
    OWN_HIGH,
    OWN_LOW,
    R_SQUARE,
    R_SQUARE_FINE,
    R_SUM,
    S_SQUARE,
    S_SQUARE_FINE,
    S_SUM,
    TOKENS,
    IntArray,
    PositionSums,
    Sums,
)
from ctpo.records.steps import step_of

#: Key of an archive under which its `meta` lies, as JSON text.
META_KEY = "__meta__"
Arrays = Mapping[str, NDArray[Any]]


def write_position_stats(path: Path, step: int, arrays: Arrays, meta: Mapping[str, Any]) -> None:
    """Writes `arrays` and `meta`, which gets the `step`, as one compressed archive.

    Raises:
        RecordError: an array of objects, or `meta` that is not JSON.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype == object or name == META_KEY:
            raise RecordError(f"position_stats: array {name!r} is of objects or of a reserved name")
    text = json.dumps(json_safe({**meta, "step": step}, "meta"), allow_nan=False, sort_keys=True)
    content: dict[str, Any] = {META_KEY: np.array(text), **arrays}
    write_whole(path, lambda file: np.savez_compressed(file, **content))


def read_position_stats(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """`(arrays, meta)` of one archive; `meta` has at least `step` and `method`.

    Raises:
        RecordError: the file is no such archive, is of another step than its name says, or its numbers cannot be.
    """
    content = content_of(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(str(arrays.pop(META_KEY)))
        recorded_step, _ = meta["step"], meta["method"]
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds
        raise RecordError(f"{path}: not a position-stats archive ({type(error).__name__}: {error})") from None
    if recorded_step != step_of(path):
        raise RecordError(f"{path}: holds step {recorded_step!r}")
    try:
        sums = PositionSums.from_arrays(arrays)
        problem = _type_defect(arrays, sums) or _defect(sums)
    except RecordError as error:
        problem = str(error).removeprefix("position_stats: ")
    if problem:
        raise RecordError(f"{path}: {problem}")
    return arrays, json_numbers(meta)


def _type_defect(arrays: Arrays, sums: PositionSums) -> str:
    known = {f"{grid}_{part}" for grid in sums.layout.grids for part in ("sums", "counts")}
    if unknown := sorted(arrays.keys() - known - {"layout", "histogram", "overflow"}):
        return f"unknown array {unknown[0]!r}"
    for name, array in arrays.items():
        kinds = "f" if name.endswith("_sums") else "U" if name == "layout" else "iu"
        if array.dtype.kind not in kinds:
            return f"{name} is of {array.dtype}"
    return ""


def _defect(sums: PositionSums) -> str:
    """What cannot be about the numbers; empty where nothing is wrong."""
    grids = {"position": sums.positions, "first": sums.first, "update": sums.updates, "fold": sums.folds}
    for name, grid in grids.items():
        if problem := _sums_defect(grid):
            return f"{name}_{problem}"
    if (sums.histogram < 0).any() or (sums.overflow < 0).any():
        return "negative counts in histogram or overflow"
    later, folds = sums.bins.count, sums.folds.total().count
    views = {
        "by position": (sums.positions, later),
        "by position of the first update": (sums.first, sums.updates[:1].total().count),
    }
    for name, (grid, expected) in views.items():
        if ((found := _binned(grid.count, sums.bin_width)) != expected).any():
            return f"{found.sum()} tokens {name}, {expected.sum()} by update"
    if (sums.histogram.sum(-1) != later).any():
        return f"{sums.histogram.sum((1, 2)).tolist()} tokens in the histograms, {later.sum()} by update"
    if folds.any() and (folds != later).any():  # a batch may come without folds
        return f"{folds.sum()} tokens by fold, {later.sum()} by update"
    return ""


def _binned(counts: IntArray, width: int) -> IntArray:
    return np.add.reduceat(counts, np.arange(0, len(counts), width))


def _sums_defect(grid: Sums) -> str:
    counts, tokens = grid.counts, grid.counts[TOKENS]
    if (counts > tokens).any() or (counts[OWN_HIGH] + counts[OWN_LOW] > tokens).any():
        return "counts: more tokens clipped than there are"
    if (grid.sums[:, tokens == 0] != 0).any():
        return "sums: sums without tokens"
    rows = (
        (S_SUM, S_SQUARE, S_SQUARE_FINE),
        (D_SUM, D_SQUARE, D_SQUARE_FINE),
        (R_SUM, R_SQUARE, R_SQUARE_FINE),
    )
    for first, square, fine in rows:
        squares = grid.sums[square] + grid.sums[fine]
        # No n numbers have a sum of squares below (sum)^2 / n.
        with np.errstate(over="ignore"):
            impossible = (squares * tokens * (1 + 1e-6) + 1e-9 < grid.sums[first] ** 2) | (squares < 0)
        if impossible.any():
            return "sums: a sum of squares is smaller than any numbers of that sum can have"
    return ""
