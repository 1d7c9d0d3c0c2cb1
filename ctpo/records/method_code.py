"""The source of a user's own method (`method=custom`): part of the run's identity, and kept with its records.

What counts: the file of the module that `method.import_path` names, and every module that it imports, directly or
through others, from the folder that it lies in. Import statements are read, nothing is run. This project's own packages
do not count, for the git commit and `uncommitted.diff` have them; of an installed package its own modules count.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from ctpo.records.files import RecordError, read_bytes, write_bytes

FOLDER = "method_code"
_PROJECT = ("ctpo", "experiments", "analysis", "tests")


def fingerprints(import_path: str | None, search_path: str | None) -> dict[str, str]:
    """Hash of each source file by its path below the method's folder; empty where the method cannot be found."""
    return {name: _hash(content) for name, content in sources(import_path, search_path).items()}


def keep(run: Path, import_path: str, search_path: str | None, recorded: Mapping[str, str]) -> None:
    """Copies the sources into the run's directory, where they are not yet.

    Raises:
        RecordError: a file is not the `recorded` one any more.
    """
    for name, content in sources(import_path, search_path).items():
        if recorded.get(name) != _hash(content):
            raise RecordError(f"method.import_path={import_path}: {name} was edited while the run started; start again")
        copy = run / FOLDER / name
        if not copy.exists():
            write_bytes(copy, content)


def sources(import_path: str | None, search_path: str | None) -> dict[str, bytes]:
    """Content of each source file by its path below the method's folder."""
    name = str(import_path or "").partition(":")[0]
    top = name.partition(".")[0]
    spec = _top_level(top, search_path) if top else None
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent.parent if spec.submodule_search_locations else Path(spec.origin).parent
    installed = folder in [Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")]
    found: dict[str, bytes] = {}
    waiting, seen = [name], set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen or (module != name and module.partition(".")[0] in _PROJECT):
            continue
        seen.add(module)
        if installed and module.partition(".")[0] != top:
            continue
        for part, package in _files(module, folder):
            try:
                content = read_bytes(part)
                imported = list(_imports(content, package)) if part.suffix == ".py" else []
            except (OSError, SyntaxError, ValueError):
                continue  # it does not load either, which is said where it is loaded
            found[part.relative_to(folder).as_posix()] = content
            waiting += imported
    return dict(sorted(found.items()))


def _top_level(name: str, search_path: str | None) -> ModuleSpec | None:
    """Where Python would import it from, `search_path` last."""
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    return spec or PathFinder.find_spec(name, [str(search_path)] if search_path else [])


def _files(module: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """Files that importing `module` from `folder` runs, packages first, each with the package it is in."""
    places, package = [str(folder)], ""
    for part in module.split("."):
        spec: ModuleSpec | None = PathFinder.find_spec(f"{package}.{part}".lstrip("."), places)
        if spec is None:
            return
        own = list(spec.submodule_search_locations or [])
        inner = f"{package}.{part}".lstrip(".")
        if spec.origin is not None and spec.has_location:
            yield Path(spec.origin), inner if own else package
        if not own:
            return
        places, package = own, inner


def _imports(content: bytes, package: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(part for part in [*parents, node.module or ""] if part)
            # What is imported from a package can be a module of it.
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
