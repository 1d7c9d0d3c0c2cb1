"""verl's configuration classes and validators without the rest of verl: 3 s of imports instead of 7.

`import verl` loads Ray, tensordict and torch's compiler for what it does in training. Its configuration classes use
none of that, but lie in packages whose `__init__` does. Here those packages are entered without running their
`__init__`, and libraries that only annotations and functions never called here name are stand-ins. Only for a process
that validates and ends.
`tests/unit/experiments/test_preflight_validators.py` holds the result against the whole of verl.
"""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

#: Entered without running `__init__`; parents first.
HOLLOW = ("verl", "verl.utils", "verl.utils.profiler", "verl.workers")
#: Large libraries that no configuration class runs.
STAND_INS = ("peft", "ray", "tensordict", "transformers")
#: Names that other modules import from a hollow package: (package, module that has it, name).
REEXPORTS = (
    ("verl.utils.profiler", "verl.utils.profiler.config", "ProfilerConfig"),
    ("verl.utils", "verl.utils.config", "omega_conf_to_dataclass"),
    ("verl.utils", "verl.utils.tokenizer", "hf_tokenizer"),
    ("verl.utils", "verl.utils.tokenizer", "hf_processor"),
)


class _StandIn(types.ModuleType):
    """A module any of whose names is a class without content."""

    __path__: list[str] = []  # noqa: RUF012  submodules are stand-ins too

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `STAND_INS` and their submodules before anything else does."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in STAND_INS:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


def load() -> Any:
    """`verl.utils.config`, imported lightly; the whole of verl where that does not work with the installed version."""
    gc.disable()  # collections while importing take longer than the imports
    finder = _StandIns()
    sys.meta_path.insert(0, finder)
    try:
        return _load_lightly()
    except Exception as error:
        print(f"verl's configuration classes do not load alone ({error!r}); loading all of verl", file=sys.stderr)
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("verl", "ctpo", *STAND_INS)]:
            del sys.modules[name]
        importlib.import_module("verl.workers.config")
        return importlib.import_module("verl.utils.config")


def _load_lightly() -> Any:
    for name in HOLLOW:
        _enter(name)
    for package, module, name in REEXPORTS:
        setattr(sys.modules[package], name, getattr(importlib.import_module(module), name))
    importlib.import_module("verl.workers.config")
    return importlib.import_module("verl.utils.config")


def _enter(name: str) -> None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{name} is not installed")
    module = types.ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations)
    module.__spec__ = spec
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
