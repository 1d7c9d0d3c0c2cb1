"""avg@k of a model or checkpoint: ``python experiments/evaluate.py [model=...] [evaluation.checkpoint=...]``.

Alone it evaluates the warm-started tiny model on its held-out problems. ``--help`` lists groups and fields.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from experiments import resolvers

resolvers.register()

#: Put on top of run.yaml and its groups, so that an evaluation is configured as a run is.
GROUP = "+evaluation=default"


@hydra.main(version_base="1.3", config_path="configs", config_name="run")
def evaluate(config: DictConfig) -> None:
    from experiments.evaluation.job import evaluate as run_job

    run_job(config)


def main() -> None:
    """The command line."""
    sys.argv.insert(1, GROUP)
    evaluate()


if __name__ == "__main__":
    main()
