"""What a request will need, before anything is queued.

  python experiments/plan.py [group=choice ...] [field=value ...] [assume.<name>=value ...]

Parameters, memory of each GPU by part, the largest micro-batch and KV pool, hours, disk, sandbox workers. With
``sweeps=main_results``, or commas as for ``run.py -m``, the GPU-hours of all runs. ``assume.<name>=<value>`` changes an
assumption, for example ``assume.mfu=0.5``. Nothing is started and no weight is loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

try:
    from experiments import command
except ModuleNotFoundError as missing:
    sys.exit(f"error: {sys.executable}: {missing}; run `make setup` once and start this with .venv/bin/python")
import yaml

from ctpo.training.platforms import environment
from experiments.compose import composed_sweep
from experiments.planner.plan_request import Assumptions
from experiments.request import value_problems

ASSUME = "assume."


def split_assumptions(arguments: Sequence[str]) -> tuple[list[str], Assumptions]:
    """`(overrides for Hydra, assumptions)`. Raises BadRequest for an unknown assumption or a wrong value."""
    given = {}
    for argument in arguments:
        if argument.startswith(ASSUME):
            name, _, value = argument.removeprefix(ASSUME).partition("=")
            given[name] = yaml.safe_load(value)
    return [argument for argument in arguments if not argument.startswith(ASSUME)], Assumptions.given(given)


def main(arguments: list[str]) -> int:
    """Print the plan of every run that `arguments` ask for; 0 if all fit, 1 if one does not, 2 for a wrong request."""
    options = command.parsed(__doc__, arguments)
    # Inert on a CPU and without effect on a plan: verl, which the chunked logits come from, must not look for a GPU.
    os.environ.update(environment.for_device("cpu"))
    overrides, assume = split_assumptions(options.overrides)
    runs = composed_sweep(overrides)
    command.refuse(list(dict.fromkeys(problem for _, config in runs for problem in value_problems(config))))
    from experiments.planner.planning import plan
    from experiments.planner.report import run_report, show, sweep_report

    plans = [(" ".join(own), plan(config, assume)) for own, config in runs]
    if len(plans) == 1:
        show(run_report(plans[0][1], assume))
    else:
        show(sweep_report(plans))
    hours = sum(each.run.gpu_hours for _, each in plans)
    misfits = [name or each.request.model for name, each in plans if not each.memory.fits]
    if misfits:
        print(f"does not fit in {plans[0][1].request.gpu_gb} GB: {'; '.join(misfits)}")
        return 1
    runs_text = "1 run" if len(plans) == 1 else f"{len(plans)} runs"
    print(f"fits: {runs_text}, about {hours:,.0f} GPU-hours under these assumptions")
    return 0


if __name__ == "__main__":
    sys.exit(command.ended(main))
