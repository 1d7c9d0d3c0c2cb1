"""What a run needs of the machine's own services: the sandbox, its processes' limits, and wandb."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from omegaconf import DictConfig

from experiments.preflight.hardware import trains_elsewhere
from experiments.surroundings import FALLBACKS, LONGEST_FOLDER, folder_for_sockets

CONNECT_S = 2.0
WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
#: Open files of one process, and processes with threads of a user, below which a run does not start.
FILES, PROCESSES = 1024, 1024
#: Of /dev/shm where GPUs train; containers have 64 MB of it unless told otherwise.
SHARED_BYTES = 8 * 2**30


def sandbox_problems() -> Iterator[str]:
    """Whether one call runs isolated on this machine."""
    from ctpo.sandbox import SandboxUnavailable, require_isolation

    try:
        require_isolation()
    except SandboxUnavailable as error:
        yield str(error)


def process_problems(config: DictConfig) -> Iterator[str]:
    """What this machine denies a run's processes: a folder for sockets, files, processes, shared memory."""
    if trains_elsewhere(config):
        return
    if folder_for_sockets(os.environ) is None:
        yield (
            f"TMPDIR={os.environ.get('TMPDIR', '')}: cannot hold a run's sockets, nor can {', '.join(FALLBACKS)}; set "
            f"it to a folder that can be written to, of at most {LONGEST_FOLDER} bytes"
        )
    for limit, name, least in ((resource.RLIMIT_NOFILE, "n", FILES), (resource.RLIMIT_NPROC, "u", PROCESSES)):
        _, hard = resource.getrlimit(limit)
        if hard != resource.RLIM_INFINITY and hard < least and not (name == "u" and os.geteuid() == 0):
            yield f"ulimit -H{name}={hard}: a run needs {least}; raise it in /etc/security/limits.conf or the container"
    if config.trainer.device != "cpu" and (shared := shutil.disk_usage("/dev/shm").total) < SHARED_BYTES:
        yield (
            f"/dev/shm={shared / 2**30:.2g} GiB: NCCL and Ray need {SHARED_BYTES / 2**30:.0f} GiB; start the container "
            "with --ipc=host or --shm-size=64g"
        )


def wandb_problems(config: DictConfig) -> Iterator[str]:
    """What wandb would refuse, and whether its server can be reached where the run would write to it."""
    if "wandb" not in config.trainer.logger:
        return
    mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    if mode not in WANDB_MODES:
        yield f"WANDB_MODE={mode}: wandb knows {', '.join(WANDB_MODES)}; set one of them or none"
    project = str(config.trainer.project_name)
    if len(project) > 128 or any(sign in project for sign in "/\\#?%:"):
        yield f"trainer.project_name={project}: wandb takes at most 128 characters and none of / \\ # ? % :"
    if mode not in ("online", "shared", "run"):
        return
    address = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        with socket.create_connection((address.hostname or "", port), timeout=CONNECT_S):
            pass
    except (OSError, ValueError) as error:
        yield (
            f"WANDB_BASE_URL={address.geturl()}: cannot be reached from here ({error}); set WANDB_MODE=offline (the "
            "run's own records are complete without it) or mend the connection"
        )
