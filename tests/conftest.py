"""The whole test process runs as a CPU run does, so that importing verl finds this project's platform."""

from __future__ import annotations

import os

from hypothesis import settings

from ctpo.training.platforms import environment

os.environ.update(environment.for_device("cpu"))

# No example has a deadline: on a busy machine the same example can take many times as long.
settings.register_profile("ctpo", deadline=None)
settings.load_profile("ctpo")
