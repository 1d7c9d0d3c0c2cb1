"""The whole test process runs as a CPU run does, so that importing verl finds this project's platform."""

from __future__ import annotations

import os

from ctpo.platforms import environment

os.environ.update(environment.for_device("cpu"))
