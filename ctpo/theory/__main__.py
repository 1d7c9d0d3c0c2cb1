"""The theory, computed: ``python -m ctpo.theory``."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctpo.theory.checks import all_checks
from ctpo.theory.family import family_rows, family_text
from ctpo.theory.groups import group_rows, groups_statement, groups_text
from ctpo.theory.statements import square_root_law, statements, variance_counterexamples
from ctpo.theory.study import BATCH, DecisionProcess, against_horizon, against_off_policyness, against_window, measure
from ctpo.theory.tables import checks_text, table_1_text, walk_rows, winners_text, write_csv

VOCABULARY, HORIZON = 3, 6
KL = 0.25
LEVELS = tuple(float(f"{level:.3g}") for level in np.geomspace(1e-3, 1.0, 7))
HORIZONS = tuple(range(2, 9))
KL_PER_TOKEN = 0.04
WINDOWS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
WALKS = {"responses": 2000, "positions": 1024, "seed": 0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if every check holds, 1 if one fails, 2 if there is nowhere to write."""
    options = _parser().parse_args(arguments)
    if (wrong := _wrong(options)) is not None:
        print(f"error: {wrong}")
        return 2
    started = time.perf_counter()
    checks = all_checks()
    print(f"Propositions, by enumeration (worst deviation found)\n{checks_text(checks)}\n", flush=True)
    seeds = range(options.problems)
    problems = [DecisionProcess.random(seed, VOCABULARY, HORIZON) for seed in seeds]
    table_1 = [row for problem in problems for row in measure(problem, problem.pair(KL), by_position=True, more=True)]
    print(
        f"Table 1 as numbers: vocabulary {VOCABULARY}, horizon {HORIZON}, policies {KL:g} nats per response apart;\n"
        f"median of {options.problems} random problems; bias, variance and MSE relative to the true gradient\n"
        f"{table_1_text(table_1)}\n",
        flush=True,
    )
    groups = group_rows(problems, KL)
    print(
        f"The advantage of practice, over groups of G responses: mean squared error of {BATCH} responses, no\n"
        f"clipping, at the gradient's length\n{groups_text(groups)}\n"
    )
    family = family_rows(problems, KL)
    print(
        "Every method, its window scaled to 1.5 deviations of its log-ratio; at the gradient's length\n"
        f"{family_text(family)}\n",
        flush=True,
    )
    off_policyness = against_off_policyness(seeds, LEVELS, VOCABULARY, HORIZON)
    horizon = against_horizon(seeds, HORIZONS, VOCABULARY, KL_PER_TOKEN)
    window = against_window(seeds, WINDOWS, KL, (VOCABULARY, HORIZON))
    print(
        "Least mean squared error, no clipping (tie: within 1 %)\n"
        f"{winners_text(off_policyness, 'kl', 'KL in nats per response')}\n"
        f"{winners_text(horizon, 'horizon', f'horizon, {KL_PER_TOKEN:g} nats a token')}\n",
        flush=True,
    )
    walks, walk_text = walk_rows(**WALKS)
    print(f"Exponent b of std(log rho_t) = sigma t^b, simulated; `exact` from the closed form\n{walk_text}\n")
    for sentence in [
        *statements(table_1, horizon, window),
        groups_statement(groups),
        variance_counterexamples(100),
        square_root_law(problems, (0.01, 0.1, 1.0)),
    ]:
        print(textwrap.fill(sentence, 116, initial_indent="- ", subsequent_indent="  "))
    files = {
        "table1": table_1,
        "theory_off_policyness": off_policyness,
        "theory_horizon": horizon,
        "theory_window": window,
        "theory_random_walk": walks,
        "theory_groups": groups,
        "theory_methods": family,
    }
    for name, rows in files.items():
        write_csv(options.out / f"{name}.csv", rows)
    failed = sum(not check.holds for check in checks)
    verdict = f"{'FAILED: ' if failed else ''}{len(checks) - failed} of {len(checks)} checks hold"
    print(f"\n{verdict}; {len(files)} CSV files in {options.out}, {time.perf_counter() - started:.0f} s")
    return 1 if failed else 0


def _wrong(options: argparse.Namespace) -> str | None:
    if options.problems < 1:
        return f"--problems {options.problems}: must be at least 1"
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"--out {options.out}: {error.strerror}; name a folder to write the CSV files to"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ctpo.theory",
        description="Check Propositions 1 and 2 by exact enumeration, print Table 1 as numbers and write the numbers "
        "of the theory's figures (drawn by python -m analysis).",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/theory"), help="folder for the CSV files (default: %(default)s)"
    )
    parser.add_argument(
        "--problems", type=int, default=16, help="random decision processes per setting (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
