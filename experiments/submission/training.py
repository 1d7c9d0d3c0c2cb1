"""The training process of a job: ``python -m experiments.submission.training < configuration.json``.

A process of its own, so that whatever kills it is seen and answered by the job that started it.
"""

from __future__ import annotations

import json
import sys
import traceback

from omegaconf import OmegaConf

from ctpo.records import RunDirectory, Stopped
from ctpo.records.progress import REFUSED, set_phase
from experiments import resolvers
from experiments.command import STOPPED, USAGE
from experiments.errors import BadRequest
from experiments.launch import launch
from experiments.submission.attempts import attempts


def main() -> int:
    """Train; returns an exit code of `experiments.command`."""
    resolvers.register()
    config = OmegaConf.create(json.load(sys.stdin))
    run = RunDirectory(config.run.dir)
    before = attempts(run)
    try:
        launch([config])
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return STOPPED
    except BadRequest as refusal:
        print(refusal.report(), file=sys.stderr)
        set_phase(run.path, REFUSED + str(refusal))
        return USAGE
    except Exception as error:
        traceback.print_exc()
        if attempts(run) == before:  # it ended before it had begun
            set_phase(run.path, f"{REFUSED}{type(error).__name__}: {error}")
            return USAGE
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
