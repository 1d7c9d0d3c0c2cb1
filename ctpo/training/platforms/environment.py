"""Environment variables of a run, for every process of it. Imports nothing heavy: set before verl is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Set for every process of a run, to the run's directory. Elsewhere verl may be imported without ceremony.
RUN_ENV = "CTPO_RUN"

#: True of every run, on any device.
COMMON = {
    "PYTHONWARNINGS": "ignore",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    # Ray starts one idle worker a slot ahead of need; slots here are bookkeeping, not cores.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # Sets of strings, the grader's too, are then walked in the same order in every run.
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}

CPU = {
    "VERL_PLATFORM": "cpu",
    # verl picks its training engine by (device, strategy): the stock FSDP engine is listed under cuda.
    "VERL_ENGINE_DEVICE": "cuda",
    "OMP_NUM_THREADS": "1",
    # torch.compile costs minutes of C++ compilation and gains nothing on a tiny model.
    "TORCH_COMPILE_DISABLE": "1",
    # Read by vLLM's CPU platform only to let `distributed_executor_backend: uni` pass; it refuses that otherwise
    # because a worker of its own could set OMP_NUM_THREADS, which is 1 here anyway.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

#: What a run does not inherit. Another program left it for processes of its own (a Ray cluster to join, a rank under
#: torchrun, a wandb run to write to), or it changes what is computed, which is the recorded configuration's business.
#: Ray's tuning, in lower case, and paths, keys and addresses of the site stay.
NOT_INHERITED = re.compile(
    r"RAY_[A-Z][A-Z_]*"
    r"|VLLM_(?!CACHE_ROOT$|CONFIG_ROOT$).*"
    r"|VERL_.*|TRANSFER_QUEUE_.*"
    r"|MASTER_(ADDR|PORT)|RANK|WORLD_SIZE|(LOCAL|GROUP|NODE|ROLE)_(RANK|WORLD_SIZE|NAME)|TORCHELASTIC_.*"
    r"|WANDB_(RUN_ID|RESUME|DIR|NAME|PROJECT|RUN_GROUP|JOB_TYPE|SWEEP_ID|LAUNCH.*)"
    # verl refuses these beside CUDA_VISIBLE_DEVICES; Slurm sets all of them.
    r"|(ROCR|HIP|ASCEND_RT)_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|ZE_AFFINITY_MASK"
    r"|PYTHON(INSPECT|STARTUP|OPTIMIZE|VERBOSE|DEBUG)"
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_HERE = ("localhost", "127.0.0.1", "::1")


def for_device(device: str) -> dict[str, str]:
    """The variables for ``trainer.device``."""
    return COMMON | (CPU if device == "cpu" else {})


def inherited(outer: Mapping[str, str], device: str, addresses: tuple[str, ...] = ()) -> dict[str, str]:
    """The environment of a run's processes, from the one that it was started in.

    Args:
        outer: as it was started.
        device: ``trainer.device``. A run on the CPU ignores which GPUs are visible.
        addresses: of this machine, which no proxy may stand in front of.
    """
    kept = {name: value for name, value in outer.items() if not NOT_INHERITED.fullmatch(name)}
    if device == "cpu":
        kept.pop("CUDA_VISIBLE_DEVICES", None)
    if any(kept.get(name) for name in _PROXIES):
        direct = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), *_HERE, *addresses]))
        kept |= {"NO_PROXY": direct, "no_proxy": direct}
    return kept | for_device(device)
