from __future__ import annotations

import os

from ctpo.training.platforms.environment import for_device

# Before anything imports verl: it asks for its platform once.
for name, value in for_device("cpu").items():
    os.environ.setdefault(name, value)
