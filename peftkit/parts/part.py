"""The parts of a recipe: frozen values that refuse unknown fields.

A `Part` is a closed value (a base, a training budget). An `OpenPart` is a family that
anyone may extend (tasks, methods). Each class registers itself under its `kind`: the class
name for peftkit's own classes, `module:Class` for all others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from peftkit.errors import did_you_mean, quoted
from peftkit.parts.hooks import check_hooks


@dataclass
class Collector:
    """Collects the problems of all parts that a recipe script makes, to report them at once."""

    failed: list[tuple[Part, ValidationError]] = field(default_factory=list)
    parents: dict[int, tuple[Part, str]] = field(default_factory=dict)
    """id of a part -> (the part that holds it, name of the field)."""

    def path(self, part: Part) -> tuple[str, ...]:
        """Names of the fields that lead to a part; its class name if no part holds it."""
        names: list[str] = []
        while id(part) in self.parents:
            part, name = self.parents[id(part)]
            names.insert(0, name)
        return tuple(names) if names or type(part).__name__ == "Recipe" else (type(part).__name__,)


current_collector: ContextVar[Collector | None] = ContextVar("collector", default=None)


class Part(BaseModel):
    """A frozen value with documented fields. Unknown fields are errors; changes make a copy."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        defer_build=True,  # most kinds are never used in a process
    )

    def __init__(self, /, **data: Any) -> None:
        collector = current_collector.get()
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
            if not collector.failed:  # after a failure, it can come from a hollow part
                raise
            object.__setattr__(self, "__dict__", {})

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # pydantic skips it for dicts

    def with_(self, **changes: Any) -> Self:
        """A validated copy with some fields changed."""
        return type(self).model_validate({**dict(self), **changes})


class OpenPart(Part):
    """A family of parts chosen by `kind`. Direct subclasses are families (`Task`, `Method`)."""

    kinds: ClassVar[dict[str, type[OpenPart]]] = {}
    renamed_hooks: ClassVar[Mapping[str, str]] = {}
    """Former name of a method that subclasses override -> its replacement."""
    abstract: ClassVar[bool] = False
    """Whether a class serves only as a base class; a recipe cannot give it as `kind`."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        family = cls._family()
        if family is not cls and not cls.__module__.startswith("peftkit."):
            check_hooks(cls, family, family.renamed_hooks)
        if OpenPart in cls.__bases__:
            cls.kinds = {}
        elif not cls.__name__.startswith("_") and not vars(cls).get("abstract"):
            cls.kinds[cls.kind()] = cls

    @classmethod
    def _family(cls) -> type[OpenPart]:
        """The family of a class: its ancestor directly below `OpenPart`."""
        return next(parent for parent in cls.__mro__ if OpenPart in parent.__bases__)

    @classmethod
    def kind(cls) -> str:
        """Returns the class's name in recipes: `LoRA`, or `my_module:MyMethod` for a class from
        elsewhere.
        """
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
        return f"`kind` is `{kind}`, not one of {known}" + (f"; {guess}" if guess else "")

    @model_serializer(mode="wrap")
    def _record_kind(self, dump: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        return {"kind": self.kind(), **dump(self)}
