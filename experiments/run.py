"""Train a method on a model: ``python experiments/run.py [-m] [method=...] [model=...] [sweeps=...] [slurm=...]``.

Alone it trains `ctpo` on the tiny model on this machine. ``--help`` lists every group and field.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from experiments import resolvers

resolvers.register()


@hydra.main(version_base="1.3", config_path="configs", config_name="run")
def main(config: DictConfig) -> None:
    from experiments.launch import launch

    launch(config)


if __name__ == "__main__":
    main()
