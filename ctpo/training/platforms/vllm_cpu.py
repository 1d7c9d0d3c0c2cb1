"""vLLM plugin (entry point ``vllm.general_plugins``), run by vLLM in each process of its own.

Imports neither verl nor anything that does: vLLM loads it while verl is still importing, and a circle
there would leave the shim silently unapplied (weight sync then fails and the trainer hangs).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ctpo.training.platforms import weight_socket

if TYPE_CHECKING:
    from torch import Tensor

#: Rows of every matrix product of vLLM on the CPU.
ROWS = 64


def register() -> None:
    """Name the weight socket by the run, on any platform; keep linear weights on the CPU."""
    weight_socket.name_receiver()
    keep_linear_weights()


def keep_linear_weights() -> None:
    """On the CPU keep linear weights as they are; on any other platform do nothing.

    vLLM's CPU backend packs linear weights for oneDNN at load time and drops ``layer.weight``, so a later
    weight sync from the trainer has nothing to write into. `linear_in_blocks` on the live parameter does.
    """
    if os.environ.get("VERL_PLATFORM", "").strip().lower() != "cpu":
        return
    import torch
    import vllm.model_executor.layers.utils as layer_utils

    if not hasattr(layer_utils, "dispatch_cpu_unquantized_gemm"):
        raise RuntimeError("ctpo: this vLLM has no dispatch_cpu_unquantized_gemm; weight sync on the CPU would hang")

    def keep_weight(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = linear_in_blocks  # type: ignore[assignment]

    layer_utils.dispatch_cpu_unquantized_gemm = keep_weight


def linear_in_blocks(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, `ROWS` rows at a time, so that a token's result does not depend on what else is in its batch.

    The matrix library takes another kernel, with another order of summation, for few rows: requests that run alone
    differ in the last bits from requests that run together, and once in many tokens that turns a draw. Here every
    product has the same shape. The library promises nothing about a row's place within it; a test holds it for the
    tiny model's sizes. vLLM's own batch-invariant mode is for CUDA.

    Args:
        x: `[..., in]`; its rows are padded with zeros to whole blocks.
    """
    import torch
    from torch.nn.functional import linear, pad

    rows = x.reshape(-1, x.shape[-1])
    blocks = pad(rows, (0, 0, 0, -len(rows) % ROWS)).split(ROWS)
    products = [linear(block, weight, bias) for block in blocks]
    return torch.cat(products)[: len(rows)].reshape(*x.shape[:-1], weight.shape[0])
