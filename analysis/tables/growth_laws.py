"""How the cumulative log-ratio spreads along a response, per method: one law over all steps, and where it fails."""

from __future__ import annotations

import pandas as pd

from analysis import style
from analysis.artifacts import Artifact, Table
from analysis.growth import MAX_STEPS, RANGES, local_exponents, measure_growth
from analysis.inputs import NothingToShow, Sweep
from analysis.position_sums import over_steps

_CAPTION = (
    "Exponent b of sigma t^b, fitted to the standard deviation of log rho_t after adding up the sums of {steps}"
    " (at most 12, evenly spread; brackets: 95 % interval, jackknife over prompt groups, over seeds where that "
    "is wider); the same about each update's own mean, because updates that each follow sqrt(t) do not when "
    "they are pooled; local exponents by single positions (brackets: over seeds); and the standard deviation "
    "over the root of the summed variances of increments, which is 1 where increments are uncorrelated and as "
    "volatile in short responses as in long ones."
)
_RANGES = [f"t {first}-{last - 1}" if last else f"t from {first}" for first, last in RANGES]
COLUMNS = ["method", "quantity", "value", "low", "high", "responses", "groups"]


def make(sweep: Sweep, model: str) -> Artifact:
    """One row per method that has position statistics."""
    rows, records, used, steps, reasons = [], [], [], set(), []
    for method in sweep.looked_at(model):
        try:
            runs, loaded = sweep.sums_over_training(model, method, MAX_STEPS)
        except NothingToShow as reason:
            reasons.append(str(reason))
            continue
        sums = over_steps([own for _, own in loaded])
        growth, local = measure_growth(sums), local_exponents(sums)
        used += runs
        steps |= {step for step, _ in loaded}
        within = f"{growth.within_exponent:.2f}"
        cells = [growth.free[1].text(3), within, *(part.text() for part in local), growth.against_increments.text()]
        rows.append([style.look(method).label, *cells, str(sums.responses), str(growth.groups)])
        named = {"exponent": growth.free[1], **dict(zip(_RANGES, local, strict=True))}
        named["std_over_increments"] = growth.against_increments
        records += [(method, name, *map(float, part), sums.responses, growth.groups) for name, part in named.items()]
    if not rows:
        raise NothingToShow("; ".join(reasons))
    header = [
        "Method",
        "b",
        "b within updates",
        *(f"b, {part}" for part in _RANGES),
        "std / increments",
        "responses",
        "groups",
    ]
    data = pd.DataFrame(records, columns=COLUMNS)
    caption = _CAPTION.format(steps=f"steps {', '.join(map(str, sorted(steps)))}")
    return Artifact(f"growth_laws_{model}", f"Growth laws ({model})", caption, used, data, table=Table(header, rows))
