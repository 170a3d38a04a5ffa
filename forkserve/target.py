"""Find what the user wants to serve: package.module:name or path/to/file.py:name."""

import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from forkserve import source
from forkserve.errors import TargetError, describe


def load_target(text: str, *, is_beside: bool = False) -> Any:
    """Import the module from its source, the current folder on the path; return the name in it.

    What stands beside another target is taken from that one's module if it is in the same file.
    Raises TargetError; its ``__cause__`` is what the user's module raised, if that is at fault.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise TargetError(f"target {text!r}: expected package.module:name or path/to/file.py:name")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    source.install()
    is_file = place.endswith(".py") or "/" in place
    try:
        module = (
            _import_file(text, place, is_beside=is_beside)
            if is_file
            else _import_module(text, place)
        )
    except TargetError:
        raise
    except BaseException as error:
        raise TargetError(f"target {text!r}: importing {place} raised {describe(error)}") from error
    target: Any = module
    for part in name.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise TargetError(f"target {text!r}: {place} has no {name!r}") from None
        except BaseException as error:
            raise TargetError(f"target {text!r}: {name} raised {describe(error)}") from error
    return target


def _import_module(text: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise TargetError(f"target {text!r}: there is no module {error.name!r}") from None
        raise


def _import_file(text: str, path: str, *, is_beside: bool) -> ModuleType:
    if not os.path.isfile(path):
        raise TargetError(f"target {text!r}: there is no file {path!r}")
    folder, file = os.path.split(os.path.abspath(path))
    if folder not in sys.path:
        sys.path.append(folder)  # what lies beside the file can be imported, and hides nothing
    name = file.removesuffix(".py")
    for loaded in tuple(sys.modules.values()) if is_beside else ():
        if getattr(loaded, "__file__", None) == os.path.join(folder, file):
            return loaded
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"forkserve_target_{name}"
    whole = os.path.join(folder, file)
    loader = source.SourceLoader(name, whole) if file.endswith(".py") else None
    spec = importlib.util.spec_from_file_location(name, whole, loader=loader)
    if spec is None or spec.loader is None:
        raise TargetError(f"target {text!r}: {path!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
