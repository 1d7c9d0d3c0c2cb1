"""avg@k of a model or checkpoint; alone, of the warm-started tiny model on its held-out problems.

  python experiments/evaluate.py [group=choice ...] [field=value ...]

The same command again continues an evaluation that was interrupted. Fields: evaluation.checkpoint (a run's directory, a
checkpoint, a Hugging Face folder or hub id), evaluation.benchmarks=[aime25,...], evaluation.problems (the first so many
of each), evaluation.k, evaluation.temperature, evaluation.top_p, evaluation.max_turns, evaluation.max_response_length,
evaluation.seed, evaluation.shard=0/4 (one of four jobs), evaluation.shard=merge, run.sweep (where the samples go).
"""

from __future__ import annotations

import sys

try:
    from experiments import command
except ModuleNotFoundError as missing:
    sys.exit(f"error: {sys.executable}: {missing}; run `make setup` once and start this with .venv/bin/python")
from experiments.compose import composed

#: Put on top of run.yaml and its groups, so that an evaluation is configured as a run is.
GROUP = "+evaluation=default"


def main(arguments: list[str]) -> int:
    """Evaluate what `arguments` ask for; returns an exit code of `experiments.command`."""
    options = command.parsed(__doc__, [GROUP, *arguments])
    config = composed(options.overrides)
    from experiments.evaluation.job import evaluate

    evaluate(config)
    return 0


if __name__ == "__main__":
    sys.exit(command.ended(main))
