"""What a run talks to: the sandbox and wandb."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf

CONNECT_S = 2.0


def tir_problems(config: DictConfig) -> Iterator[str]:
    """Settings of trajectories with tools."""
    from ctpo.tir.config import TirConfig

    node: dict[str, Any] = OmegaConf.to_container(config.tir, resolve=True)  # type: ignore[assignment]
    try:
        TirConfig.from_node(node)
    except ValueError as error:
        yield str(error)


def sandbox_problems() -> Iterator[str]:
    """Whether one call runs isolated on this machine."""
    from ctpo.sandbox import SandboxUnavailable, require_isolation

    try:
        require_isolation()
    except SandboxUnavailable as error:
        yield str(error)


def wandb_problems(config: DictConfig) -> Iterator[str]:
    """Whether wandb's server can be reached, where the run would write to it: with a key, and not offline."""
    mode = os.environ.get("WANDB_MODE", "online" if os.environ.get("WANDB_API_KEY") else "offline")
    if "wandb" not in config.trainer.logger or mode not in ("online", "shared"):
        return
    address = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=CONNECT_S):
            pass
    except OSError as error:
        yield (
            f"WANDB_BASE_URL={address.geturl()}: cannot be reached from here ({error}); set WANDB_MODE=offline (the "
            "run's own records are complete without it) or mend the connection"
        )
