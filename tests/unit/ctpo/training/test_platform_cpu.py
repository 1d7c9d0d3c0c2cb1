"""The CPU platform makes verl and vLLM run without an accelerator, and is inert on CUDA."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch

from ctpo.training.platforms import environment

pytestmark = pytest.mark.slow


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter with nothing but `variables` and the path in its environment."""
    import os

    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120,
        env={**kept, **variables},
    )  # fmt: skip


def test_verl_finds_the_platform_by_itself() -> None:
    code = (
        "import verl; from verl.utils.device import get_device_name, get_nccl_backend\n"
        "from verl.plugin.platform.platform_manager import get_platform\n"
        "print(get_device_name(), get_nccl_backend(), type(get_platform()).__name__)"
    )
    done = python(code, **environment.for_device("cpu"))
    assert done.stdout.split() == ["cpu", "gloo", "CpuPlatform"], done.stderr


def test_everything_is_inert_without_the_cpu_platform() -> None:
    code = (
        "import verl, sys\n"
        "import verl.utils.distributed as d; import verl.workers.engine.fsdp.transformer_impl as t\n"
        "import verl.utils.torch_functional as f\n"
        "before, scoring = t.CPUOffloadPolicy, f.logprobs_from_logits_v2\n"
        "from ctpo.training.platforms import cpu; cpu.register_training_shims()\n"
        "from verl.plugin.platform import PlatformRegistry\n"
        "assert 'cpu' not in PlatformRegistry.registered_names()\n"
        "assert t.CPUOffloadPolicy is before\n"
        "assert f.logprobs_from_logits_v2 is scoring\n"
        "assert d.initialize_global_process_group_ray.__module__ == 'verl.utils.distributed'\n"
        "assert sys.modules.get('verl.checkpoint_engine.hccl_checkpoint_engine', 1) is not None\n"
        "print('inert')"
    )
    done = python(code, VERL_PLATFORM="nvidia")
    assert done.stdout.strip().endswith("inert"), done.stderr


VLLM_SHIM = (
    "import vllm.model_executor.layers.utils as u\n"
    "before = u.dispatch_cpu_unquantized_gemm\n"
    "from ctpo.training.platforms import vllm_cpu; vllm_cpu.register()\n"
    "print(u.dispatch_cpu_unquantized_gemm is before)"
)


def test_vllm_keeps_linear_weights_on_the_cpu_alone() -> None:
    for platform, untouched in [("nvidia", "True"), ("cpu", "False")]:
        done = python(VLLM_SHIM, VERL_PLATFORM=platform)
        assert done.stdout.split()[-1:] == [untouched], done.stderr


def test_the_kept_weight_is_live() -> None:
    """After vLLM's load a write into the parameter changes what the layer computes: weight sync works."""
    from vllm.model_executor.layers import utils

    from ctpo.training.platforms import vllm_cpu

    original = utils.dispatch_cpu_unquantized_gemm
    try:
        vllm_cpu.register()
        layer: Any = torch.nn.Linear(4, 3, bias=False)
        utils.dispatch_cpu_unquantized_gemm(layer, True)
        x = torch.randn(2, 4)
        with torch.no_grad():
            layer.weight.fill_(2.0)
        assert torch.equal(layer.cpu_linear(x, layer.weight, None), x @ layer.weight.T)
    finally:
        utils.dispatch_cpu_unquantized_gemm = original


@pytest.mark.parametrize(("outputs", "inputs"), [(576, 64), (384, 64), (64, 192), (64, 128)])
def test_a_row_of_a_product_does_not_depend_on_the_other_rows(outputs: int, inputs: int) -> None:
    """Alone, among neighbours, and at any place among them: equal bits, at the tiny model's sizes.

    `F.linear` fails this for few rows.
    """
    from ctpo.training.platforms.vllm_cpu import ROWS, linear_in_blocks

    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, inputs, generator=generator) for n in (3 * ROWS + 5, outputs))
    whole = linear_in_blocks(x, weight)
    torch.testing.assert_close(whole, torch.nn.functional.linear(x, weight), rtol=1e-4, atol=1e-4)
    for rows in (1, 2, 3, 7, ROWS - 1, ROWS, ROWS + 1):
        for start in (0, 1, 50):
            assert torch.equal(linear_in_blocks(x[start : start + rows], weight), whole[start : start + rows])
    shuffled = torch.randperm(len(x), generator=generator)
    assert torch.equal(linear_in_blocks(x[shuffled], weight), whole[shuffled])
    assert linear_in_blocks(x[:6].reshape(2, 3, inputs), weight, torch.ones(outputs)).shape == (2, 3, outputs)


def test_gloo_is_named_once() -> None:
    code = (
        "import os; os.environ.update(RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='29511')\n"
        "import verl.utils.distributed as d, torch.distributed as t\n"
        "d.initialize_global_process_group_ray()\n"
        "x = __import__('torch').ones(1); t.all_reduce(x); print(x.item(), t.get_backend())"
    )
    done = python(code, **environment.for_device("cpu"))
    assert done.stdout.split() == ["1.0", "cpu:gloo"], done.stderr


def test_an_offload_policy_is_never_pinned() -> None:
    code = (
        "import verl.workers.engine.fsdp.transformer_impl as t\n"
        "from ctpo.training.platforms import cpu; cpu.register_training_shims()\n"
        "print(t.CPUOffloadPolicy(pin_memory=True))"
    )
    assert python(code, **environment.for_device("cpu")).stdout.split() == ["None"]


def test_log_probs_keep_their_last_digits() -> None:
    """verl's own float32 difference loses 1e-6 at logits of 20; the CPU's scoring stays at rounding level."""
    code = (
        "import torch, verl.utils.torch_functional as f\n"
        "torch.manual_seed(0); logits = 20 * torch.rand(4, 500, 576); labels = logits.argmax(-1)\n"
        "exact = logits.double().log_softmax(-1).gather(-1, labels[..., None])[..., 0]\n"
        "error = lambda: (f.logprobs_from_logits(logits, labels) - exact).abs().max().item()\n"
        "before = error()\n"
        "from ctpo.training.platforms import cpu; cpu.register_training_shims()\n"
        "print(before, error())"
    )
    done = python(code, **environment.for_device("cpu"))
    upstream, ours = map(float, done.stdout.split()[-2:])
    assert upstream > 8e-7, done.stderr
    assert ours < 4.8e-7  # two float32 steps at log-probabilities between -4 and -2, on AVX2 and AVX-512 alike


def test_verl_reads_a_version_of_vllm() -> None:
    from importlib.metadata import version

    assert version("vllm").split("+")[0] == version("vllm-cpu")


def test_entry_points_name_what_exists() -> None:
    for group, wanted in {
        "verl.plugins": "ctpo.training.plugin",
        "vllm.general_plugins": "ctpo.training.platforms.vllm_cpu:register",
    }.items():
        (entry,) = (entry for entry in entry_points(group=group) if entry.name == "ctpo")
        assert entry.value == wanted
        assert entry.load() is not None


@pytest.mark.parametrize("in_a_run", [True, False])
def test_a_plugin_that_does_not_load_ends_a_run_and_only_a_run(in_a_run: bool) -> None:
    """verl logs a plugin's failure at DEBUG; a run must stop instead."""
    code = "import sys; sys.modules['ctpo.training.platforms.cpu'] = None\nimport verl; print('went on')"
    variables = {**environment.for_device("cpu"), **({environment.RUN_ENV: "/somewhere"} if in_a_run else {})}
    done = python(code, **variables)
    if in_a_run:
        assert done.returncode != 0
        assert "ctpo: the verl plugin did not load" in done.stderr
    else:
        assert done.stdout.strip() == "went on"
