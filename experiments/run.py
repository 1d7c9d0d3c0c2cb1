"""Train a method on a model: ``python experiments/run.py [-m] [method=...] [model=...] [sweeps=...] [slurm=...]``.

Alone it trains `ctpo` on the tiny model on this machine. ``--help`` lists every group and field.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from experiments import resolvers

resolvers.register()


@hydra.main(version_base="1.3", config_path="configs", config_name="run")
def main(config: DictConfig) -> None:
    from ctpo.stopping import Stopped
    from experiments.launch import STOPPED, USAGE, Refused, launch

    try:
        launch(config)
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(USAGE)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(STOPPED)


if __name__ == "__main__":
    # Hydra has its own options and refuses any other; every other setting here is `name=value` as well.
    sys.argv[1:] = ["dry_run=true" if argument == "--dry-run" else argument for argument in sys.argv[1:]]
    main()
