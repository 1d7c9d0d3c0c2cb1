"""Load vLLM's compiled part as vLLM itself would: ``python check_vllm.py``; ends with an error if it does not load.

The CPU wheel has a library for each instruction set, and importing the wrong library ends the process with an illegal
instruction. vLLM's platform chooses, but only warns where loading fails. The GPU lock's CUDA wheel has one library.
"""

import importlib
import importlib.util

import torch

CUDA_LIBRARY = "vllm._C_stable_libtorch"

if importlib.util.find_spec(CUDA_LIBRARY):
    importlib.import_module(CUDA_LIBRARY)
else:
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    if not hasattr(torch.ops._C, "rms_norm"):
        raise SystemExit("vLLM registered no operators on this processor")
