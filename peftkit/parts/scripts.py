"""Imports a user's own scripts and modules."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from peftkit.errors import PeftkitError, RecipeError


def import_trusted(module: str) -> None:
    """Imports a module that the user trusts, by name or .py file, so that its classes register.

    The module can be installed or in the current folder, as with `python -m`.
    """
    if not module.endswith(".py"):
        if (folder := str(Path.cwd())) not in sys.path:
            sys.path.append(folder)
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.split(".", maxsplit=1)[0] and error.name != module:
                raise
            raise RecipeError(
                f"--trust-module: no module `{module}` in {Path.cwd()} or installed",
                "give the file itself: `--trust-module path/to/file.py`",
            ) from error
        return
    import_file(Path(module))


def import_file(path: Path) -> Any:
    """Imports a .py file under the file's stem, and returns the module."""
    if not path.is_file():
        raise RecipeError(f"no file `{path}`")
    refuse_shadowing(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    shadowed = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # pydantic resolves annotations through it
    sys.path.insert(0, str(path.parent.resolve()))  # as `python path` does
    try:
        with script_errors(path):
            spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
        if shadowed is not None:
            sys.modules[path.stem] = shadowed
    return module


def refuse_shadowing(script: Path) -> None:
    """Raises RecipeError if a script has the name of an installed module: libraries that need the
    module would import the script instead.
    """
    name = script.stem
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    spec = None if "." in name else PathFinder.find_spec(name, sorted(installed))
    if name in sys.stdlib_module_names or (spec is not None and spec.origin):
        raise RecipeError(
            f"`{script.name}` hides the installed module `{name}` from the libraries that need it",
            f"give it another name, such as `{name}_recipe.py`",
        )


@contextlib.contextmanager
def script_errors(path: Path) -> Iterator[None]:
    """Turns an error that the user's script raises inside the block into a RecipeError that names
    file and line.
    """
    try:
        yield
    except (PeftkitError, ValidationError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).name == path.name]
        line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
        where = f"`{path}`" + (f", line {line}" if line else "")
        raise RecipeError(
            f"{where}: {type(error).__name__}: {error}", "`--debug` shows the traceback"
        ) from error
