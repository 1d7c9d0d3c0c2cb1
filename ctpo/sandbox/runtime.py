"""What is visible inside the sandbox: an interpreter, its standard library, five packages, their libraries.

The tree is the same on every host, whatever paths the run's own environment lives in:

    /usr/bin/python3          the interpreter
    /usr/lib/pythonX.Y        its standard library, without site-packages
    /usr/lib/*.so             exactly the shared libraries these need
    /packages/{sympy,...}     the packages that tool calls may import
    /dev/{null,zero,urandom}  and nothing else of /dev; no /proc, no /sys, no /etc
    /tmp                      scratch, the only writable place; /dev/shm leads to it

so nothing in it names a user, a host or a project.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ctpo.sandbox.elf import dependencies
from ctpo.sandbox.results import SandboxUnavailable
from ctpo.sandbox.uncaught import OUR_OWN

PACKAGES = ("sympy", "mpmath", "numpy", "scipy", "networkx")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
PYTHON, PACKAGE_ROOT, SCRATCH = "/usr/bin/python3", "/packages", "/tmp"

# Extension modules for networks, terminals, databases and windows: no use inside, many libraries.
_UNUSED_EXTENSIONS = (
    "_ssl",
    "_hashlib",
    "_tkinter",
    "readline",
    "_curses",
    "_gdbm",
    "_dbm",
    "nis",
    "_sqlite3",
)
# Loaded by the C library itself when a thread is cancelled or exits.
_ALSO = ("libgcc_s.so.1",)


@dataclass(frozen=True)
class Layout:
    """The tree as data: what is bound read-only from where, links, and directories to be empty."""

    binds: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    empty: tuple[str, ...]


def inside_program(ending: str, *names: str) -> str:
    """The text of an interpreter inside: the named modules of this package, then `ending`, which uses them.

    Read when the caller is imported: a worker that has given root up may not be able to.
    """
    lines = ["import sys, types", "modules = sys.modules['ctpo.sandbox'] = types.ModuleType('sandbox')"]
    for name in names:
        text = files("ctpo.sandbox").joinpath(f"{name}.py").read_text()
        lines += [
            f"{name} = modules.{name} = types.ModuleType({name!r})",
            f"exec(compile({text!r}, {OUR_OWN!r}, 'exec'), {name}.__dict__)",
        ]
    return "\n".join([*lines, "del sys.modules['ctpo.sandbox'], modules, sys, types", ending])


def find_packages(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Directory of each package in this process's environment, and of its `<name>.libs` neighbour, by name.

    Nothing is imported. Raises SandboxUnavailable naming the packages that are not installed.
    """
    found: dict[str, str] = {}
    missing = []
    for name in names:
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places:
            missing.append(name)
            continue
        found[name] = places[0]
        libraries = f"{places[0]}.libs"
        if os.path.isdir(libraries):
            found[f"{name}.libs"] = libraries
    if missing:
        raise SandboxUnavailable(f"sandbox: tool calls need {', '.join(missing)}: pip install {' '.join(missing)}")
    return found


def build_layout(packages: dict[str, str]) -> Layout:
    """The tree for the running interpreter and `packages` (name -> directory). Takes about 50 ms."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    interpreter = Path(sys.executable).resolve()
    stdlib = Path(os.__file__).resolve().parent
    extensions = [p for p in (stdlib / "lib-dynload").glob("*.so") if not p.name.startswith(_UNUSED_EXTENSIONS)]
    shared = [p for folder in packages.values() for p in Path(folder).rglob("*.so*")]
    loader, libraries = _closure([interpreter, *extensions, *shared])
    library_names = {name: path for name, path in libraries.items() if name != Path(loader).name}
    binds = [
        (str(interpreter), PYTHON),
        (str(stdlib), f"/usr/lib/{version}"),
        (
            os.path.realpath(loader),
            loader if not loader.startswith(("/lib", "/usr/lib")) else f"/usr/lib/{Path(loader).name}",
        ),
        *((str(path), f"/usr/lib/{name}") for name, path in sorted(library_names.items())),
        *((folder, f"{PACKAGE_ROOT}/{name}") for name, folder in sorted(packages.items())),
    ]
    inside = [f"/usr/lib/{version}/{name}" for name in ("site-packages", "dist-packages") if (stdlib / name).is_dir()]
    return Layout(
        tuple(binds),
        (("usr/lib", "/lib"), ("usr/lib", "/lib64"), ("lib", "/usr/lib64"), (SCRATCH, "/dev/shm")),
        tuple(inside),
    )


def _closure(roots: Iterable[Path]) -> tuple[str, dict[str, Path]]:
    """The loader's path, and name -> file of every system library that `roots` need, directly or not."""
    folders = list(_library_folders())
    loader: str | None = None
    found: dict[str, Path] = {}
    seen: set[str] = set()
    queue = list(roots)
    wanted: Iterable[str] = _ALSO
    while True:
        for name in wanted:
            # What is found nowhere lives beside the package that asks for it ($ORIGIN), and is bound with it.
            path = next((f / name for f in folders if (f / name).is_file()), None) if name not in seen else None
            seen.add(name)
            if path is not None:
                found[name] = path.resolve()
                queue.append(found[name])
        if not queue:
            break
        needs = dependencies(queue.pop())
        loader, wanted = loader or needs.loader, needs.libraries
    if loader is None:
        raise SandboxUnavailable(f"sandbox: {sys.executable} is not a dynamically linked 64-bit ELF program")
    return loader, found


def _library_folders() -> Iterator[Path]:
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    for base in (
        f"{sys.base_prefix}/lib",
        f"/lib/{triplet}",
        f"/usr/lib/{triplet}",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ):
        if Path(base).is_dir():
            yield Path(base)
