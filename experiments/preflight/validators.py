"""verl's validators, run beside the other checks in a process of their own (`verl_checks`)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctpo.platforms import environment
from experiments.resolvers import PROJECT_ROOT

TIMEOUT_S = 120.0
#: Filled in by `prepare` before training; any text will do for the validators.
MADE_LATER = {"actor_rollout_ref.model.path": "model", "data.train_files": ["train"], "data.val_files": ["test"]}


class Validation:
    """A running check of some configurations."""

    def __init__(self, process: subprocess.Popen[str], given: str, refused: list[list[str] | None]):
        self._process, self._given, self._refused = process, given, refused

    def problems(self) -> list[list[str]]:
        """Wait for the result: the problems of each configuration."""
        try:
            output, log = self._process.communicate(self._given, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return self._with_all(f"verl's validators did not end within {TIMEOUT_S:.0f} s; try again")
        if self._process.returncode != 0:
            last = next((line for line in reversed(log.splitlines()) if line.strip()), "")
            return self._with_all(f"verl's validators did not run: {last.strip()}; run `make setup`")
        found = iter(json.loads(output))
        return [next(found) if own is None else own for own in self._refused]

    def _with_all(self, problem: str) -> list[list[str]]:
        return [[problem] if own is None else own for own in self._refused]


@contextlib.contextmanager
def started(configs: Sequence[DictConfig]) -> Iterator[Validation]:
    """Begin validating; the process is gone when the block ends."""
    plain: list[Any] = []
    refused: list[list[str] | None] = []
    for config in configs:
        try:
            plain.append(_resolved(config))
            refused.append(None)
        except OmegaConfBaseException as error:
            refused.append([f"{error.full_key}: {str(error).splitlines()[0]}; correct the value or the reference"])
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.preflight.verl_checks"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT_ROOT,
        # What is checked here does not depend on the device, and there may be none.
        env=os.environ | environment.for_device("cpu"),
    )
    try:
        yield Validation(process, json.dumps(plain), refused)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _resolved(config: DictConfig) -> Any:
    copy = config.copy()
    OmegaConf.set_struct(copy, False)
    for field, value in MADE_LATER.items():
        if OmegaConf.is_missing(OmegaConf.select(copy, field.rpartition(".")[0]), field.rpartition(".")[2]):
            OmegaConf.update(copy, field, value)
    return OmegaConf.to_container(copy, resolve=True)
