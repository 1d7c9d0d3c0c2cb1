"""Environment variables of a run, for every process of it. Imports nothing heavy: set before verl is imported."""

from __future__ import annotations

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


def for_device(device: str) -> dict[str, str]:
    """The variables for ``trainer.device``."""
    return COMMON | (CPU if device == "cpu" else {})
