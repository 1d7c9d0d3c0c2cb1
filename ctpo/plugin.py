"""Entry point ``verl.plugins``: what this project adds to verl, all of it listed here.

verl imports this module at the end of its own import, in every process of a run, and logs a failure at
DEBUG only. So a failure here is made loud: inside a run (``CTPO_RUN`` is set) it ends the process.
"""

from __future__ import annotations

import os

from ctpo.platforms.environment import RUN_ENV


def register_platform() -> None:
    """The CPU platform, where ``VERL_PLATFORM=cpu`` asks for it. Cheap; needed before verl asks for a device."""
    from ctpo.platforms import cpu

    cpu.register()


def register_training() -> None:
    """Everything that a process which trains needs: policy losses and device shims."""
    from ctpo import policy_loss
    from ctpo.platforms import cpu

    policy_loss.register_policy_losses()
    cpu.register_training_shims()


def register_rollout() -> None:
    """Everything that a process which runs trajectories needs: the tool-integrated agent loop."""
    import ctpo.tir.agent_loop  # noqa: F401  registers itself with verl


def register_trainer() -> None:
    """Everything that the controlling process needs: the recording trainer."""
    import ctpo.trainer  # noqa: F401  registers itself with verl


try:
    register_platform()
except Exception as error:
    if os.environ.get(RUN_ENV):
        raise SystemExit(f"ctpo: the verl plugin did not load: {type(error).__name__}: {error}") from error
    raise
