"""One's own method: `method=custom method.import_path=my_ratio:method`, from a file outside this package.

The file defines a `Method`, most simply of a log-ratio of its own:

    from ctpo.methods import LogRatio, Method, PositionAdaptiveWindow

    def half_of_the_past(d, mask):  # d_t, 0 where masked, and the mask, [batch, length]
        return 0.5 * d.cumsum(-1) + 0.5 * d

    method = Method("half_past", LogRatio("half_past", half_of_the_past), PositionAdaptiveWindow(0.02, 0.04), "mine")

It is imported in every training process, from the folder that the run was started in or from `method.search_path`,
which on a cluster must be a folder that all nodes see.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ctpo.methods.method import Method, MethodError

CUSTOM = "custom"
_FIELD = "method.import_path"


def load(import_path: str | None, search_path: str | None = None) -> Method:
    """The `Method` at `import_path`, named `custom`, as its loss and its run are.

    Args:
        import_path: `module:attribute`, the module as in an import statement.
        search_path: folder to look in after the usual places; None or empty for the usual places alone.

    Raises:
        MethodError: no such module or attribute, a module that fails to load, or an attribute that is no `Method`.
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
    return dataclasses.replace(found, name=CUSTOM)


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
