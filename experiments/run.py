"""Train a method on a model; alone, `ctpo` on the tiny model, here.

  python experiments/run.py [-m] [group=choice ...] [field=value ...]

-m runs a grid: commas separate the values. A sweep is a file of sweeps/ or any YAML file, sweeps=/path/to/mine.yaml.
slurm=<profile> submits each run as a job and returns; wait=true stays and watches. Useful fields: run.seed, run.sweep,
preflight=only (check and stop), trainer.total_training_steps, trainer.test_freq, method.window.*, tir.*.
"""

from __future__ import annotations

import sys

try:
    from experiments import command
except ModuleNotFoundError as missing:
    sys.exit(f"error: {sys.executable}: {missing}; run `make setup` once and start this with .venv/bin/python")
from experiments.compose import composed_sweep


def main(arguments: list[str]) -> int:
    """Train or submit what `arguments` ask for; returns an exit code of `experiments.command`."""
    options = command.parsed(
        __doc__,
        arguments,
        ("-m --multirun", "run every combination of values with commas"),
        ("--dry-run", "show what would be trained or submitted, and stop; the same as dry_run=true"),
    )
    overrides = [*options.overrides, *(["dry_run=true"] if options.dry_run else [])]
    configs = [config for _, config in composed_sweep(overrides, options.multirun)]
    if configs[0].slurm.executor != "none":
        from experiments.submission.submit import submit

        return submit(configs)
    from experiments.launch import launch

    launch(configs)
    return 0


if __name__ == "__main__":
    sys.exit(command.ended(main))
