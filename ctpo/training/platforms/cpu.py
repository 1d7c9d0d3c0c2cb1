"""verl on the CPU: a platform for verl's registry and the shims that no registry reaches.

Selected by ``VERL_PLATFORM=cpu``; on any other platform `register` does nothing at all. Each shim says
which upstream behaviour makes it necessary; ``tests/unit/ctpo/test_platform_cpu.py`` holds them to it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

NAME = "cpu"


def selected() -> bool:
    """True where this process was told to run verl on the CPU."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == NAME


class _CpuDevice(types.ModuleType):
    """``torch.cpu`` with the ``torch.cuda`` calls that verl makes; memory is the host's."""

    def __init__(self) -> None:
        super().__init__("ctpo_cpu_device")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None: ...

    def synchronize(self, device: Any = None) -> None: ...

    def empty_cache(self) -> None: ...

    def ipc_collect(self) -> None: ...

    def reset_peak_memory_stats(self, device: Any = None) -> None: ...

    def set_per_process_memory_fraction(self, fraction: float, device: Any = None) -> None: ...

    def memory_allocated(self, device: Any = None) -> int:
        return psutil.Process().memory_info().rss

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def get_device_name(self, device: Any = None) -> str:
        return NAME


class CpuPlatform(PlatformBase):
    """verl's view of a machine without an accelerator. One "device" stands for one training process."""

    device_name = NAME
    vendor_name = NAME
    device_module = _CpuDevice()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        # Never chosen by auto-detection: a GPU node whose driver is broken must fail, not crawl.
        return selected()

    def current_device(self) -> str:
        return NAME

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        # ray.init(num_gpus=N) needs no hardware: placement groups, accelerator ids and verl's
        # "enough GPUs" check then work as they stand, one slot for each training process.
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False  # weights travel to vLLM through POSIX shared memory instead of CUDA IPC

    def cudart(self) -> None:
        return None


def plain_gloo_backend() -> None:
    """Hand torch "cpu:gloo" once: verl builds "cpu:gloo,<device>:<backend>" and torch rejects a key twice."""
    import verl.utils.distributed as distributed

    original = distributed.initialize_global_process_group_ray

    def initialize(timeout_second: int | None = None, backend: str | None = None) -> Any:
        return original(timeout_second, backend or "cpu:gloo")

    distributed.initialize_global_process_group_ray = initialize


def no_pinned_offload() -> None:
    """No CPU offload policy for a reference policy: torch cannot pin memory without an accelerator.

    The parameters are on the CPU as it is, so there is nothing to offload.
    """
    import verl.workers.engine.fsdp.transformer_impl as transformer_impl

    transformer_impl.CPUOffloadPolicy = lambda pin_memory=True: None


def skip_ascend_checkpoint_engine() -> None:
    """Keep verl from importing the Ascend weight-transfer engine, which pulls all of vLLM into each actor.

    verl treats it as optional and records the ImportError; it costs 10 s of start-up in each of three actors.
    """
    sys.modules.setdefault("verl.checkpoint_engine.hccl_checkpoint_engine", None)  # type: ignore[arg-type]


def log_softmax_log_probs() -> None:
    """Score tokens by log_softmax, as vLLM does, where verl subtracts logsumexp from the logit.

    In float32 that difference is off by half a unit in the last place of the logit, 1e-6 at a logit of 20: as much
    as all of the rest of trainer and rollout disagree. verl takes it wherever flash-attn's kernel is missing.
    """
    import verl.utils.torch_functional as torch_functional

    torch_functional.logprobs_from_logits_v2 = torch_functional.logprobs_from_logits_naive


def register() -> None:
    """Make ``VERL_PLATFORM=cpu`` work in this process; a no-op on every other platform."""
    if not selected():
        return
    PlatformRegistry.register(platform=NAME)(CpuPlatform)
    plain_gloo_backend()
    skip_ascend_checkpoint_engine()


def register_training_shims() -> None:
    """Shims for processes that build a training engine: they import it, so not for every process."""
    if selected():
        no_pinned_offload()
        log_softmax_log_probs()
