"""vLLM plugin (entry point ``vllm.general_plugins``), run by vLLM in each process of its own.

Imports neither verl nor anything that does: vLLM loads it while verl is still importing, and a circle
there would leave the shim silently unapplied (weight sync then fails and the trainer hangs).
"""

from __future__ import annotations

import os

from ctpo.training.platforms import weight_socket


def register() -> None:
    """Name the weight socket by the run, on any platform; keep linear weights on the CPU."""
    weight_socket.name_receiver()
    keep_linear_weights()


def keep_linear_weights() -> None:
    """On the CPU keep linear weights as they are; on any other platform do nothing.

    vLLM's CPU backend packs linear weights for oneDNN at load time and drops ``layer.weight``, so a later
    weight sync from the trainer has nothing to write into. Plain ``F.linear`` on the live parameter does.
    """
    if os.environ.get("VERL_PLATFORM", "").strip().lower() != "cpu":
        return
    import torch
    import vllm.model_executor.layers.utils as layer_utils

    if not hasattr(layer_utils, "dispatch_cpu_unquantized_gemm"):
        raise RuntimeError("ctpo: this vLLM has no dispatch_cpu_unquantized_gemm; weight sync on the CPU would hang")

    def keep_weight(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]

    layer_utils.dispatch_cpu_unquantized_gemm = keep_weight
