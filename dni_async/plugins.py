"""Loads what a user writes outside this project: a rule, an SG network, an engine, a task.

A name is either one of a registry's own or a dotted path to a class, `my_pkg.my_module:MyClass`. Every
failure is one line: the name, what is wrong with it, and what to do.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from dni_async.errors import UserError

Plugin = TypeVar("Plugin")


def find_class(
    name: str, registry: Mapping[str, str], kind: str, *bases: type[Plugin], advice: str
) -> type[Plugin]:
    """Return the class that `name` stands for in a registry of dotted paths, or that is at the path `name`.

    Raises UserError as `load_class` does, and with `advice` if `name` is neither.
    """
    path = registry.get(name, name)
    if not is_path(path):
        raise UserError(f"unknown {kind} ({name}){advice}")
    return load_class(path, kind, *bases)


def load_class(path: str, kind: str, *bases: type[Plugin]) -> type[Plugin]:
    """Return the class at `path`, "my_pkg.my_module:MyClass", which must be a subclass of one of `bases`.

    kind: what the class is called in errors, such as "rule". They name the first of `bases`.
    Raises UserError if there is no such module or class, or the class is another.
    """
    module, _, name = path.partition(":")
    found = getattr(load_module(module, kind), name, None)
    if found is None:
        raise UserError(f"{kind} class not found ({name}): define it in {module}, or mend its name")
    if not (isinstance(found, type) and issubclass(found, bases)):
        first = bases[0]
        raise UserError(f"no {kind} ({path}): derive the class from {first.__module__}.{first.__qualname__}")
    lacking = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
    if lacking:
        raise UserError(f"{kind} is not complete ({path}): define {lacking}")
    return found


def load_module(name: str, kind: str) -> types.ModuleType:
    """Import the module `name`, from the working folder too, as `python -m` does.

    Raises UserError if the module is not there, or raises an error while it is imported.
    """
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"{kind} module not found ({name}): {_how_to_find(name)}") from error
        raise _broken(name, kind, error) from error
    except (Exception, SystemExit) as error:  # whatever the user's module does wrong
        raise _broken(name, kind, error) from error


def describe(error: BaseException) -> str:
    """Return type and text of an error, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def is_path(name: str) -> bool:
    """Whether `name` is a dotted path to a class, not the name of something built in."""
    module, colon, cls = name.partition(":")
    return bool(module and colon and cls)


def _broken(name: str, kind: str, error: BaseException) -> UserError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    advice = _name_here(error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    return UserError(
        f"{kind} module cannot be imported ({name}): mend {describe(error)} (raised at {where}){advice}"
    )


def _how_to_find(name: str) -> str:
    """Return what to do about a module that was not found; another package of its name may hide it."""
    package = name.partition(".")[0]
    imported, mine = sys.modules.get(package), Path.cwd() / package
    places = [str(Path(place)) for place in getattr(imported, "__path__", ())]
    if places and mine.is_dir() and str(mine) not in places:
        return f"rename {mine}, because {package} is imported from {places[0]}"
    return f"run where Python can import it{_name_here(name)}"


def _name_here(name: str) -> str:
    """Return the name that a module of this project has here, if `name` is its name in the other layout.

    See setup.py for the two layouts.
    """
    prefix = f"{__package__}."
    other = name.removeprefix(prefix) if name.startswith(prefix) else prefix + name
    try:
        found = importlib.util.find_spec(other)
    except (ImportError, ValueError):
        return ""
    return f"; here it is called {other}" if found else ""
