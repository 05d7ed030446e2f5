"""What a recipe is made of: frozen values that refuse unknown fields.

A `Part` is a closed value (a base, a training budget). An `OpenPart` is a family that
anyone may extend (tasks, methods): each class registers itself under its `kind`, which is its
name for peftkit's own classes and `module:Class` for everybody else's.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import importlib.util
import json
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from peftkit.errors import PeftkitError, RecipeError, did_you_mean, quoted


@dataclass
class Collector:
    """Problems of all parts that one recipe script built, so that they are told at once."""

    failed: list[tuple[Part, ValidationError]] = field(default_factory=list)
    parents: dict[int, tuple[Part, str]] = field(default_factory=dict)
    """id of a part -> the part that holds it, and under which field."""

    def path(self, part: Part) -> tuple[str, ...]:
        """Dotted place of a part in the recipe; its class name where it was never placed."""
        names: list[str] = []
        while id(part) in self.parents:
            part, name = self.parents[id(part)]
            names.insert(0, name)
        return tuple(names) if names or type(part).__name__ == "Recipe" else (type(part).__name__,)


_collector: ContextVar[Collector | None] = ContextVar("collector", default=None)


class Part(BaseModel):
    """A frozen value with documented fields; unknown fields are errors, changes are copies."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        defer_build=True,  # most kinds are never used in a process
    )

    def __init__(self, /, **data: Any) -> None:
        collector = _collector.get()
        if collector is None:
            super().__init__(**data)
            return
        for name, value in data.items():
            if isinstance(value, Part):
                collector.parents[id(value)] = (self, name)
        try:
            super().__init__(**data)
        except ValidationError as error:
            collector.failed.append((self, error))
            object.__setattr__(self, "__dict__", {})  # hollow: only its problems are used
        except AttributeError:
            if not collector.failed:  # else a hollow part inside was asked for a field
                raise
            object.__setattr__(self, "__dict__", {})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # dicts skip it

    def with_(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self).model_validate({**dict(self), **changes})


class OpenPart(Part):
    """A family of parts chosen by `kind`. Direct subclasses are families (`Task`, `Method`)."""

    kinds: ClassVar[dict[str, type[OpenPart]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if OpenPart in cls.__bases__:
            cls.kinds = {}
        elif not cls.__name__.startswith("_"):
            cls.kinds[cls.kind()] = cls

    @classmethod
    def kind(cls) -> str:
        """What the recipe records: `LoRA`, or `my_module:MyMethod` for a class from elsewhere."""
        module = cls.__module__
        if module.startswith("peftkit."):
            return cls.__name__
        if module == "__main__":
            module = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem
        return f"{module}:{cls.__qualname__}"

    @model_validator(mode="wrap")
    @classmethod
    def _choose_kind(cls, value: Any, build: Callable[[Any], Self]) -> Self:
        if not isinstance(value, Mapping) or (
            OpenPart not in cls.__bases__ and "kind" not in value
        ):
            return build(value)
        fields = dict(value)
        kind = fields.pop("kind", None)
        if kind not in cls.kinds:
            raise PydanticCustomError("unknown_kind", "{reason}", {"reason": cls._unknown(kind)})
        chosen: Any = cls.kinds[kind].model_validate(fields)
        return chosen  # type: ignore[no-any-return]

    @classmethod
    def _unknown(cls, kind: object) -> str:
        known = quoted(sorted(cls.kinds))
        if kind is None:
            return f"needs a `kind`: one of {known}"
        if isinstance(kind, str) and ":" in kind:
            module = kind.split(":")[0]
            return (
                f"`kind` is `{kind}`, a class from outside peftkit; "
                f"its module is imported only with `--trust-module {module}`"
            )
        guess = did_you_mean(str(kind), cls.kinds)
        return f"`kind` is `{kind}`, which is none of {known}" + (f"; {guess}" if guess else "")

    @model_serializer(mode="wrap")
    def _record_kind(self, dump: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        return {"kind": self.kind(), **dump(self)}


def import_trusted(module: str) -> None:
    """Imports a module the user trusts, so that its classes register: a name, or a .py file.

    Names are looked up from the current folder too, as `python -m` does.
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
    """The module in a .py file, imported under the file's stem."""
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
    """Raises RecipeError if a script is named like an installed module, which libraries that want
    that one would import in its place.
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
    """Inside, what the user's own script raises becomes an error that names file and line."""
    try:
        yield
    except (PeftkitError, ValidationError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame.lineno for frame in frames if Path(frame.filename).name == path.name]
        line = error.lineno if isinstance(error, SyntaxError) else (own[-1] if own else None)
        where = f"`{path}`" + (f", line {line}" if line else "")
        raise RecipeError(
            f"{where}: {type(error).__name__}: {error}", "`--debug` shows the traceback"
        ) from error


@contextlib.contextmanager
def all_problems(what: str) -> Iterator[None]:
    """Inside, wrong parts are collected; on leaving, all their problems are raised as one error."""
    token = _collector.set(collector := Collector())
    try:
        yield
    except Exception:
        if not collector.failed:  # else a consequence of a hollow part
            raise
    finally:
        _collector.reset(token)
    if collector.failed:
        problems = [
            problem
            for part, error in collector.failed
            for problem in describe(error, type(part), collector.path(part))
        ]
        raise problems_error(what, problems)


def parse(model: type[Part], text: str, what: str) -> Any:
    """A part from JSON text; every problem at once as one `RecipeError`."""
    try:
        value = json.loads(text, object_pairs_hook=unrepeated)
    except (ValueError, RecursionError) as error:  # its text has the line and column
        raise RecipeError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{what} holds {type(value).__name__}, not an object with fields")
    strange = [name for name in value if name not in model.model_fields]
    if len(strange) > max(3, len(value) - len(strange)):  # another file, not a slip in one
        raise RecipeError(
            f"{what} is no {model.__name__}: it has {quoted(strange[:4])} and more",
            f"fields of a {model.__name__} are {quoted(sorted(model.model_fields))}",
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise problems_error(what, describe(error, model, (), value)) from error


class RepeatedName(ValueError):
    """An object of JSON gives a name twice."""

    def __init__(self, name: str) -> None:
        super().__init__(f"`{name}` is given more than once in one object")
        self.name = name


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for `json.loads`, which would take the last of two values in silence.

    Raises:
        RepeatedName: a name is given twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedName(next(name for name in names if names.count(name) > 1))
    return found


def problems_error(what: str, problems: list[str]) -> RecipeError:
    """One error of all problems: one line, or a count and a line each."""
    if len(problems) == 1:
        return RecipeError(f"{what}: {problems[0]}")
    lines = "".join(f"\n  {problem}" for problem in problems)
    return RecipeError(f"{what}: {len(problems)} problems\n{lines}")


def describe(
    error: ValidationError, model: type[Part], path: tuple[str, ...], value: object = None
) -> list[str]:
    """A line for each problem: the dotted field, what was found, and did-you-mean.

    `path` is where `model` stands in the recipe; `value` is what was validated (it tells the
    kinds of open parts, so that their fields can be suggested).
    """
    lines: dict[str, None] = {}
    for details in error.errors():
        lines[_describe_one(details, model, path, value)] = None
    return list(lines)


def _describe_one(
    details: ErrorDetails, model: type[Part], path: tuple[str, ...], value: object
) -> str:
    location = details["loc"]
    tags = ("str", "int", "float", "bool")  # pydantic names the branch of a union too
    names = [str(n) for n in location if n not in tags and not re.search(r"[\[(-]", str(n))]
    where = ".".join((*path, *names)) or "recipe"
    found = details["input"]
    if details["type"] == "extra_forbidden":
        fields = _fields_at(model, value, location[:-1])
        guess = did_you_mean(str(location[-1]), fields)
        known = f"fields here are {quoted(sorted(fields), 30)}"
        return f"{where}: no such field (found {_shown(found)}); {guess or known}"
    if details["type"] == "missing":
        return f"{where}: required, but not given"
    if details["type"] == "unknown_kind":
        return f"{where}: {details['msg']}"
    message = details["msg"].removeprefix("Value error, ")
    message = message.replace("Input should", "should", 1)
    if details["type"] == "value_error" and isinstance(found, Part | Mapping):
        return f"{where}: {message}"
    return f"{where}: {message} (found {_shown(found)})"


def _shown(value: object) -> str:
    text = repr(value)
    return f"`{text}`" if len(text) <= 60 else f"`{text[:57]}...`"


def _fields_at(model: type[Part], value: object, location: tuple[int | str, ...]) -> set[str]:
    """Field names of the part at `location` below `model`, following the kinds in `value`."""
    for name in location:
        value = value.get(name) if isinstance(value, Mapping) else None
        info = model.model_fields.get(str(name))
        if info is None:
            return set()
        candidates = [info.annotation, *get_args(info.annotation)]
        parts = [c for c in candidates if isinstance(c, type) and issubclass(c, Part)]
        if not parts:
            return set()
        model = parts[0]
        if issubclass(model, OpenPart) and isinstance(value, Mapping):
            model = model.kinds.get(str(value.get("kind")), model)
    names = set(model.model_fields)
    return names | {"kind"} if issubclass(model, OpenPart) else names


def differences(one: Any, other: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted places in which two JSON values differ, and what is there; of parts of different
    kinds, the kinds.
    """
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [(place, one, other)]
    if one.get("kind") != other.get("kind"):
        return [(place, one.get("kind"), other.get("kind"))]
    return [
        found
        for name in dict.fromkeys((*one, *other))
        for found in differences(one.get(name), other.get(name), f"{place}.{name}".lstrip("."))
    ]


def as_json(value: Any) -> Any:
    """A value of a configuration as JSON has it: sets sorted, enums by their value.

    Raises:
        TypeError: it is nothing that JSON has.
    """
    return json.loads(json.dumps(value, default=_plainer))


def _plainer(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
