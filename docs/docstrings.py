"""Sphinx extension: docstrings are plain text with Markdown's `code`, and are read as such."""

from __future__ import annotations

import re
from typing import Any

SPECIAL = re.compile(r"([*|\\]|_\b)")
CODE = re.compile(r"(``.+?``|`[^`]+`)")
INDENTED = "    "
ATTRIBUTES = ("attribute", "property", "data")
attributes: dict[str, list[str]] = {}
"""Full name -> converted docstring."""


def setup(app: Any) -> dict[str, bool]:
    """Registers the conversion, before napoleon reads `Args:` and `Raises:`."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)
    app.connect("autodoc-process-docstring", whole_attribute, priority=600)
    app.connect("autodoc-process-signature", without_pydantic_arguments)
    return {"parallel_read_safe": True}


def as_restructured_text(
    _app: Any, what: str, name: str, _of: Any, _how: Any, lines: list[str]
) -> None:
    """Makes a docstring's code and formulas literal, in place."""
    found: list[str] = []
    for line in lines:
        if line.startswith(INDENTED) and found and not found[-1].strip():
            found[-1:] = ["", "::", ""]  # a formula or a drawing after a blank line
        in_formula = line.startswith(INDENTED) and "::" in found
        found.append(line if in_formula else _escaped(line))
    lines[:] = found
    if what in ATTRIBUTES:
        attributes[name] = found


def whole_attribute(_app: Any, what: str, name: str, _of: Any, _how: Any, lines: list[str]) -> None:
    """Undoes what napoleon makes of an attribute: it takes text before a colon for a type."""
    if what in ATTRIBUTES and name in attributes:
        lines[:] = attributes[name]


def without_pydantic_arguments(
    _app: Any, what: str, _name: str, of: Any, _how: Any, _signature: Any, _returns: Any
) -> tuple[str, str | None] | None:
    """A recipe's part lists its fields below its name, so that its signature repeats none."""
    if what == "class" and hasattr(of, "model_fields"):
        return "", None
    return None


def _escaped(line: str) -> str:
    """A line with `code` as reStructuredText has it, and nothing else that is markup there."""
    parts = CODE.split(line)
    return "".join(
        f"``{part.strip('`')}``" if place % 2 else SPECIAL.sub(r"\\\1", part)
        for place, part in enumerate(parts)
    )
