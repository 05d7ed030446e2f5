"""Writes a recipe as a Python script, in lines of at most 79 characters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftkit.parts.part import Part
from peftkit.recipe import Recipe

LINE = 79
COMMENTS = {
    "base": "a Hub id, a folder, a .gguf file or packaged:NAME",
    "data": "a .csv, .jsonl or .parquet file, a folder of splits or a Hub id",
}
"""Field -> the comment above it in a script, which lists its possible values."""


def script_of(recipe: Recipe, shown: Recipe, name: str) -> str:
    """Returns the text of a Python script that defines a recipe.

    Args:
        shown: a recipe; the fields that it sets explicitly are written even with default values.
        name: name of the script, without `.py`.
    """
    value = "\n".join(_lines("return ", recipe, "    ", "", shown))
    return f'''"""Results of {name}: write them here once you have measured them.

`peftkit check {name}.py` finds what is wrong, `python {name}.py` trains,
`python {name}.py --method.r 16` trains with another value.
"""

{_imports(recipe, shown)}


def recipe() -> Recipe:
{value}


if __name__ == "__main__":
    main(recipe)
'''


def _imports(recipe: Recipe, shown: Recipe) -> str:
    classes = {type(part) for part in _parts(recipe, shown)}
    ours = {cls for cls in classes if cls.__module__.startswith("peftkit.")}
    lines = [_import("peftkit", [*sorted(cls.__name__ for cls in ours), "main"])]
    foreign = sorted((cls.__module__, cls.__name__) for cls in classes - ours)
    others = [_import(module, [name]) for module, name in foreign]
    return "\n".join([*lines, *([""] if others else []), *others])


def _import(module: str, names: Sequence[str]) -> str:
    constants = [name for name in names if name.isupper()]  # isort's order: EVA before Base
    names = [*constants, *(name for name in names if name not in constants)]
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= LINE:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])


def _parts(part: Part, shown: Any) -> Iterator[Part]:
    """Yields a part of the recipe and the parts inside it that the script writes."""
    yield part
    for name, value in _written(part, shown):
        if isinstance(value, Part):
            yield from _parts(value, getattr(shown, name, None))


def _lines(before: str, value: Any, indent: str, after: str, shown: Any) -> list[str]:
    """Returns the lines of a value's code: a single line if the code fits, or lines for each item.

    Args:
        before: text before the value.
        after: text after the value.
        shown: the corresponding value in `shown` of `script_of`.
    """
    line = f"{indent}{before}{_inline(value, shown)}{after}"
    nested = isinstance(value, Part) and any(isinstance(v, Part) for _, v in _written(value, shown))
    if not isinstance(value, Part | Mapping | tuple) or (len(line) <= LINE and not nested):
        return [line]
    inner = f"{indent}    "
    if isinstance(value, Part):
        opening, closing = f"{type(value).__name__}(", ")"
        body: list[str] = []
        for name, part in _written(value, shown):
            body += [f"{inner}# {COMMENTS[name]}"] if name in COMMENTS else []
            body += _lines(f"{name}=", part, inner, ",", getattr(shown, name, None))
    elif isinstance(value, Mapping):
        opening, closing = "{", "}"
        items = value.items()
        body = [line for k, v in items for line in _lines(f"{_inline(k)}: ", v, inner, ",", None)]
    else:
        opening, closing = "(", ")"
        body = [line for v in value for line in _lines("", v, inner, ",", None)]
    return [f"{indent}{before}{opening}", *body, f"{indent}{closing}{after}"]


def _inline(value: Any, shown: Any = None) -> str:
    """Returns a value's code on one line; strings get the quotes that need fewer escapes."""
    if isinstance(value, Part):
        parts = (
            f"{name}={_inline(part, getattr(shown, name, None))}"
            for name, part in _written(value, shown)
        )
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, str):
        fewer = value.count('"') > value.count("'")  # single quotes need fewer escapes
        return repr(value) if fewer else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_inline(k)}: {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_inline, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return repr(int(value))
    return repr(value)


def _written(part: Part, shown: Any) -> list[tuple[str, Any]]:
    """Returns (name, value) of each field that is set in `shown` or differs from its default."""
    always = shown.model_fields_set if isinstance(shown, type(part)) else set()
    fields = type(part).model_fields
    return [
        (name, value)
        for name, value in part
        if name in always
        or fields[name].is_required()
        or value != fields[name].get_default(call_default_factory=True)
    ]
