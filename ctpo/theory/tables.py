"""The study's numbers as CSV files and as text."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctpo.theory.estimators import TABLE_1
from ctpo.theory.random_walk import SCENARIOS, Growth, fit_exponent, growth
from ctpo.theory.study import BATCH, OUTCOME_LEVEL, THROUGH_THE_SUM, TOKEN_LEVEL, Row

NAMES = tuple(ratio.name for ratio in TABLE_1)
LABELS = {
    "token": "token",
    "length_normalized": "length-normalised",
    "sequence": "full sequence",
    "cumulative": "cumulative",
    THROUGH_THE_SUM: "grad. through sum",
}

ROUNDING = 1e-12
"""Relative biases below this are rounding: written as 0, so that every machine writes the same file."""


@dataclass(frozen=True)
class Check:
    """A claim, how far off it is at worst and how far it may be."""

    claim: str
    deviation: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.deviation <= self.tolerance


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One file with a header, six significant digits, replaced whole."""
    temporary = path.with_suffix(".csv.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([_cell(value) for value in row.values()] for row in rows)
    temporary.replace(path)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if np.isnan(value):
        return ""
    return "0" if abs(value) < ROUNDING else f"{value:.6g}"


def median(rows: Iterable[Row], quantity: str, **where: Any) -> float:
    """Median over problems of a quantity, in the rows whose columns have these values.

    Raises:
        KeyError: no row has.
    """
    chosen = [row[quantity] for row in rows if all(row[column] == value for column, value in where.items())]
    if not chosen:
        raise KeyError(f"no row with {where}")
    return float(np.median(chosen))


def checks_text(checks: Sequence[Check]) -> str:
    """One line a check."""
    return "\n".join(
        f"  {'ok  ' if check.holds else 'FAIL'}  {check.deviation:8.1e}  (at most {check.tolerance:.0e})  {check.claim}"
        for check in checks
    )


def table_1_text(rows: Sequence[Row]) -> str:
    """Table 1 as numbers: per kind of advantage, the four ratios without and with a window."""
    lines = []
    for kind, title in ((TOKEN_LEVEL, "exact token-level advantage"), (OUTCOME_LEVEL, "outcome-level advantage")):
        lines.append(f"  {title:33s} {'---- no clipping ----':^28s} {'---- window of 1.5 std ----':^34s}")
        header = f"{'bias':>8s} {'variance':>9s} {f'MSE/{BATCH}':>9s}"
        lines.append(f"    {'ratio':20s} {'Var(rho)':>9s} {header} {header} {'clipped':>8s}")
        for name in (*NAMES, THROUGH_THE_SUM):
            where = {"advantage": kind, "estimator": name, "position": "total"}
            ratio = median(rows, "ratio_variance", **where)
            cells = [f"{ratio:9.3f}" if name in NAMES else " " * 9, _numbers(rows, **where, clipping="none")]
            if name in NAMES:
                rate = median(rows, "clip_rate", **where, clipping="window")
                cells += [_numbers(rows, **where, clipping="window"), f"{100 * rate:7.1f}%"]
            lines.append(f"    {LABELS[name]:20s} {' '.join(cells)}")
    return "\n".join(lines)


def _numbers(rows: Sequence[Row], **where: Any) -> str:
    bias, variance, error = (median(rows, quantity, **where) for quantity in ("bias", "variance", "mse_batch"))
    shown = "0" if bias < ROUNDING else f"{bias:.3f}"
    return f"{shown:>8s} {variance:9.2f} {error:9.3f}"


def winners_text(rows: Sequence[Row], axis: str, label: str) -> str:
    """Which unclipped estimator has the least mean squared error, along an axis, for batches of several sizes."""
    values = sorted({row[axis] for row in rows})
    lines = [f"    {label:33s}" + " ".join(f"{value:>9.3g}" for value in values)]
    for kind in (TOKEN_LEVEL, OUTCOME_LEVEL):
        for batch in (1, BATCH, 16 * BATCH):
            cells = [_winner(rows, batch, **{"advantage": kind, "clipping": "none", axis: value}) for value in values]
            lines.append(f"    {f'{kind}-level A, {batch} responses':33s}" + " ".join(f"{cell:>9s}" for cell in cells))
    return "\n".join(lines)


_SHORT = {"token": "token", "length_normalized": "length-n.", "sequence": "full seq.", "cumulative": "cumul."}


def _winner(rows: Sequence[Row], batch: int, **where: Any) -> str:
    errors = {}
    for name in NAMES:
        chosen = [
            row["bias"] ** 2 + row["variance"] / batch
            for row in rows
            if row["estimator"] == name and all(row[column] == value for column, value in where.items())
        ]
        errors[name] = float(np.median(chosen))
    best = min(errors.values())
    # Closer than one per cent is no difference that anyone should act on.
    tied = [name for name in NAMES if errors[name] <= 1.01 * best]
    return _SHORT[tied[0]] if len(tied) == 1 else "(tie)"


def walk_rows(responses: int, positions: int, seed: int) -> tuple[list[Row], str]:
    """Rows of every scenario's spread by position, and a table of exponents as text."""
    rows: list[Row] = []
    lines = [f"    {'scenario':21s} {'limit':>6s} {'1-32':>6s} {'256-':>6s} {'robust':>7s} {'exact':>6s}  assumption"]
    for index, scenario in enumerate(SCENARIOS):
        found = growth(scenario.draw(np.random.default_rng([seed, index]), responses, positions))
        exact = np.full(len(found.positions), np.nan)
        if scenario.variance is not None:
            exact = np.sqrt(scenario.variance(found.positions))
        cells = [scenario.exponent, *_exponents(found), fit_exponent(found.positions, exact, 256)]
        shown = [f"{cell:6.2f}" if np.isfinite(cell) else f"{'-':>6s}" for cell in cells]
        lines.append(f"    {scenario.name:21s} {' '.join(shown)}   {scenario.assumption}")
        for position, count, std, robust, truth in zip(
            found.positions, found.responses, found.std, found.robust, exact, strict=True
        ):
            settings: Mapping[str, Any] = {"scenario": scenario.name, "assumption": scenario.assumption, "seed": seed}
            rows.append(
                {**settings, "exponent": scenario.exponent, "position": int(position), "responses": int(count)}
                | {"std": float(std), "robust": float(robust), "exact_std": float(truth)}
            )
    return rows, "\n".join(lines)


def _exponents(found: Growth) -> tuple[float, float, float]:
    early, late = (fit_exponent(found.positions, found.std, *window) for window in ((1, 32), (256, np.inf)))
    return early, late, fit_exponent(found.positions, found.robust, 256)
