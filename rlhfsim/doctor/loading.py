"""Finding a user's function or module from `module:function` or `path/to/file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def load_function(target: str) -> Callable[..., Any]:
    """Return the callable that a target names.

    Parameters
    ----------
    target : str
        `module:function` or `path/to/file.py:function`; the name may have dots.  A module is
        looked for in the current folder too, and a file finds its neighbours.

    Raises
    ------
    ValueError
        If the target is not of this form, the file or module cannot be imported, or has no such
        callable.
    """
    place, separator, name = target.rpartition(":")
    if not (place and separator and name):
        raise ValueError(
            f"target is {target!r}; it must be module:function or path/to/file.py:function"
        )
    found: Any = load_module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"target is {target!r}; {place} has no {name}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"target is {target!r}; {name} is a {type(found).__name__}, not callable")
    return found


def load_module(place: str) -> ModuleType:
    """Return the module that `module` or `path/to/file.py` names.

    Raises
    ------
    ValueError
        If it cannot be imported.
    """
    path = Path(place)
    try:
        if place.endswith(".py"):
            return _from_file(path)
        _add_to_path(Path.cwd())
        return importlib.import_module(place)
    except SystemExit as error:
        raise ValueError(f"{place} exits when it is imported: {error}") from error
    except Exception as error:
        raise ValueError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    _add_to_path(path.parent.resolve())
    # Under a name of its own, so that a file called torch.py hides nothing.
    name = f"_rlhfsim_doctor_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
