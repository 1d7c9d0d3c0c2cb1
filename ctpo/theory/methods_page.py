"""The list of methods, ``docs/methods.md``, made from `METHODS`: ``python -m ctpo.theory.methods_page [--check]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ctpo.methods import METHODS, Method
from ctpo.methods.settings import TUNABLE, settings_of
from ctpo.methods.windows import (
    CalibratedWindow,
    LogWindow,
    NoWindow,
    PositionAdaptiveWindow,
    RatioWindow,
    Window,
)
from ctpo.theory.family import family_rows
from ctpo.theory.study import BATCH, OUTCOME_LEVEL, TOKEN_LEVEL, WINDOW_DEVIATIONS, DecisionProcess, Row
from ctpo.theory.tables import ROUNDING, median

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
PROBLEMS, VOCABULARY, HORIZON, KL = 16, 3, 6, 0.25

HEAD = f"""# Methods

Made from `ctpo/methods` by `python -m ctpo.theory.methods_page`; a test holds it to be current. Choose one with
`method=<name>`; what a setting is called is in the method's own section (`method.window.high=1.3`). A ratio of your
own, from a file outside this package: `method=custom method.import_path=my_ratio:method` (see `ctpo/methods/custom.py`
and `experiments/examples/my_ratio.py`).

`pi_t` and `pi_old_t` are the probabilities of token t under the policy that is trained and the one that sampled, `rho`
the method's ratio, `A` the advantage, `|o|` the response's length. The gradient is what multiplies `grad log pi_t`.
What the theory says of each is computed by exact enumeration through the method's own training code
(`ctpo.theory.family`): {PROBLEMS} random decision processes (vocabulary {VOCABULARY}, horizon {HORIZON}, policies
{KL:g} nats a response apart, 0/1 rewards), medians, with windows {WINDOW_DEVIATIONS:g} standard deviations wide and
other rules as they are. Everything is relative to the true gradient: `length` is the expectation's component along it;
`bias`, `variance` (of one response) and `MSE` (of {BATCH} responses) are taken at equal length. With the exact
token-level advantage of the theory, and with the outcome-level one of practice.
"""


def page() -> str:
    """The whole page."""
    rows = family_rows([DecisionProcess.random(seed, VOCABULARY, HORIZON) for seed in range(PROBLEMS)], KL)
    sections = [section(method) for method in METHODS.values()]
    return "\n".join([HEAD, summary(rows), *sections])


def summary(rows: Sequence[Row]) -> str:
    """The table with every method's numbers."""
    kinds = (TOKEN_LEVEL, OUTCOME_LEVEL)
    columns = [f"{kind}-level: {what}" for kind in kinds for what in ("length", "bias", "variance", "MSE", "clipped")]
    lines = ["| method | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in METHODS:
        cells = []
        for kind in kinds:
            where = {"method": name, "advantage": kind}
            values = {q: median(rows, q, **where) for q in ("length", "bias", "variance", "mse_batch", "clip_rate")}
            cells += [number(values[q]) for q in ("length", "bias", "variance", "mse_batch")]
            cells.append(f"{100 * values['clip_rate']:.0f} %")
        lines.append(f"| [`{name}`](#{name}) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def section(method: Method) -> str:
    """One method: a list of what it is made of."""
    settings = {f"{part}.{key}": value for part in TUNABLE for key, value in settings_of(getattr(method, part)).items()}
    shown = ", ".join(f"`{name}={value:g}`" for name, value in settings.items()) or "none"
    advantage = "divided by" if method.std_normalised else "not divided by"
    entries = {
        "Source": method.citation,
        "Ratio": f"`rho = {method.notes.ratio}`",
        "Objective": f"`{method.rule.formula}`",
        "Gradient": f"`{method.rule.gradient}`",
        "Window": window_text(method.window) + (", dual clip for A < 0" if method.dual_clip else ""),
        "Clipped means": method.rule.clipped,
        "Aggregation": f"`{method.aggregation}`; advantages {advantage} their group's standard deviation",
        "Settings": f"{shown}. {method.notes.defaults}.",
        "Code and paper": method.notes.differences,
    }
    return f"## {method.name}\n\n" + "\n".join(f"- **{name}**: {text}" for name, text in entries.items()) + "\n"


def window_text(window: Window) -> str:
    """A window in words."""
    match window:
        case NoWindow():
            return "none: the rule has its own trust region"
        case RatioWindow(low, high):
            lower = "no bound below" if low < 1e-6 else f"{low:g}"
            return f"ratio in [{lower}, {high:g}] at every position"
        case LogWindow(low, high):
            return f"log-ratio in [{low:g}, {high:g}] at every position"
        case PositionAdaptiveWindow(low, high, power):
            return f"log-ratio in [-{low:g}, {high:g}] t^{power:g} at position t"
        case CalibratedWindow(low, high):
            return f"log-ratio in [-{low:g}, {high:g}] sigma_t, sigma_t measured at position t"
    return repr(window)


def number(value: float) -> str:
    """Three digits, at least two decimals: differences below that are nobody's business."""
    return "0" if abs(value) < ROUNDING else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 if `--check` finds that the page is out of date."""
    parser = argparse.ArgumentParser(prog="python -m ctpo.theory.methods_page", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the page is out of date")
    options = parser.parse_args(arguments)
    made = page()
    current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == made
    if options.check:
        print(f"{PAGE.name}: {'current' if current else 'out of date; run python -m ctpo.theory.methods_page'}")
        return 0 if current else 1
    PAGE.write_text(made, encoding="utf-8")
    print(f"{PAGE}: {len(METHODS)} methods")
    return 0


if __name__ == "__main__":
    sys.exit(main())
