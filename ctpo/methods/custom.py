"""One's own method: `method=custom method.import_path=my_ratio:method`, from a file outside this package.

The file defines a `Method`, most simply of a log-ratio of its own:

    from ctpo.methods import LogRatio, Method, PositionAdaptiveWindow

    def half_of_the_past(d, mask):  # d_t, 0 where masked, and the mask, [batch, length]
        return 0.5 * d.cumsum(-1) + 0.5 * d

    method = Method("half_past", LogRatio("half_past", half_of_the_past), PositionAdaptiveWindow(0.02, 0.04), "mine")

It is imported in every training process, from the folder that the run was started in or from `method.search_path`,
which on a cluster must be a folder that all nodes see. The file, with what it imports from its folder, is part of the
run's identity and is copied into the run's `method_code/` (`ctpo.records.method_code`): a run does not continue with
edited code. No part of it may bear a name of this project for something else.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from ctpo.methods.log_ratios import LogRatio
from ctpo.methods.method import Method, MethodError
from ctpo.methods.registry import METHODS
from ctpo.records.method_code import FOLDER, fingerprints

CUSTOM = "custom"
_FIELD = "method.import_path"


def load(import_path: str | None, search_path: str | None = None, code: Mapping[str, str] | None = None) -> Method:
    """The `Method` at `import_path`, named `custom`, as its loss and its run are.

    Args:
        import_path: `module:attribute`, the module as in an import statement.
        search_path: folder to look in after the usual places; None or empty for the usual places alone.
        code: the sources that the run was started with, as of `fingerprints`; None for whatever is there.

    Raises:
        MethodError: no such module or attribute, a module that fails to load or was edited, an attribute that is no
            `Method`, or one that bears a name of this project's methods.
    """
    if not import_path:
        raise MethodError(f"{_FIELD}: missing; name your file's method, for example {_FIELD}=my_ratio:method")
    module_name, colon, attribute = str(import_path).partition(":")
    if not (colon and attribute and module_name):
        raise MethodError(f"{_FIELD}={import_path}: expected module:attribute, for example my_ratio:method")
    module = _module(module_name, search_path)
    found = getattr(module, attribute, None)
    if found is None:
        names = [name for name, value in vars(module).items() if isinstance(value, Method)]
        hint = f"; it defines {', '.join(names)}" if names else ""
        raise MethodError(f"{_FIELD}={import_path}: {module.__file__} has no {attribute!r}{hint}")
    if not isinstance(found, Method):
        raise MethodError(
            f"{_FIELD}={import_path}: {attribute} is a {type(found).__name__}; it must be a ctpo.methods.Method"
        )
    if code is not None and dict(code) != (now := fingerprints(import_path, search_path)):
        edited = sorted(name for name in {*code, *now} if code.get(name) != now.get(name))
        raise MethodError(
            f"{_FIELD}={import_path}: {', '.join(edited)} was edited since the run began, which has a copy in "
            f"{FOLDER}/; restore it, or choose another run.sweep"
        )
    _check_names(str(import_path), found)
    return dataclasses.replace(found, name=CUSTOM)


def _check_names(import_path: str, found: Method) -> None:
    """Raises MethodError where the method or a part of it bears the name of another one in this project."""
    if found.name in METHODS:
        raise MethodError(f"{_FIELD}={import_path}: its name {found.name!r} is one of this project's; choose another")
    for part in ("log_ratio", "window", "rule"):
        own = getattr(found, part)
        for other in (getattr(method, part) for method in METHODS.values()):
            same = own == other if isinstance(own, LogRatio) else type(own) is type(other)
            if _called(own) == _called(other) and not same:
                raise MethodError(
                    f"{_FIELD}={import_path}: its {part} is called {_called(own)!r}, as another one in this project; "
                    "choose another name"
                )


def _called(part: object) -> str:
    return part.name if isinstance(part, LogRatio) else type(part).__name__


def _module(name: str, search_path: str | None) -> ModuleType:
    folder = str(Path(search_path).resolve()) if search_path else None
    if folder and folder not in sys.path:
        # Last, so that it shadows nothing; for good, since the file's functions may be unpickled here later.
        sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise MethodError(f"{_FIELD}: {name} needs {error.name}, which is not installed here") from error
        where = f"{folder} or on the Python path" if folder else "on the Python path"
        raise MethodError(
            f"{_FIELD}: no module {name!r} in {where}; start the run in the folder of {name}.py or name it with "
            "method.search_path"
        ) from None
    except Exception as error:
        raise MethodError(f"{_FIELD}: {name} does not load: {type(error).__name__}: {error}") from error
    return module
