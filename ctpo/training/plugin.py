"""Entry point ``verl.plugins``: the platform, which verl asks for first. All else registers itself when imported.

verl imports this module at the end of its own import, in every process of a run, and logs a failure at
DEBUG only. So a failure here is made loud: inside a run (``CTPO_RUN`` is set) it ends the process.
"""

from __future__ import annotations

import os

from ctpo.training.platforms.environment import RUN_ENV


def register_platform() -> None:
    """The CPU platform, where ``VERL_PLATFORM=cpu`` asks for it. Cheap; needed before verl asks for a device."""
    from ctpo.training.platforms import cpu

    cpu.register()


try:
    register_platform()
except Exception as error:
    if os.environ.get(RUN_ENV):
        raise SystemExit(f"ctpo: the verl plugin did not load: {type(error).__name__}: {error}") from error
    raise
