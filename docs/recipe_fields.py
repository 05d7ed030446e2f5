"""Sphinx extension: the directive `recipe-fields`, every field of a recipe from its JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from peftkit.recipe import recipe_schema

Schema = Mapping[str, Any]
PARTS = ("Recipe", "Base", "Training")
FAMILIES = {"Task": "Tasks", "Method": "Methods"}


def setup(app: Any) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("recipe-fields", RecipeFields)
    return {"parallel_read_safe": True}


class RecipeFields(SphinxDirective):
    """Tables of the fields of all parts that a recipe can have."""

    def run(self) -> list[nodes.Node]:
        """The tables, one section for each part."""
        text = "\n".join(tables(recipe_schema()))
        return list(self.parse_text_to_nodes(text, allow_section_headings=True))


def tables(schema: Schema) -> Iterator[str]:
    """Lines of Markdown: a heading and a table for each part."""
    parts = {"Recipe": schema, **schema["$defs"]}
    families = {
        name: [option["$ref"].rsplit("/", 1)[-1] for option in parts[name]["oneOf"]]
        for name in FAMILIES
    }
    members = {kind for kinds in families.values() for kind in kinds}
    for name in PARTS:
        yield from table(name, parts[name], "##")
    for family, title in FAMILIES.items():
        yield from (f"## {title}", "")
        for kind in sorted(families[family], key=str.casefold):
            yield from table(kind, parts[kind], "###")
    yield from ("## Parts of tasks", "")
    rest = [name for name in parts if name not in {*PARTS, *FAMILIES, *members}]
    for name in sorted(rest):
        yield from table(name, parts[name], "###")


def table(name: str, part: Schema, heading: str) -> Iterator[str]:
    """A part's heading, what it is, and its fields."""
    yield from (f"{heading} {name}", "", _one_line(part.get("description", "")), "")
    fields = {
        field: value for field, value in part.get("properties", {}).items() if field != "kind"
    }
    if not fields:
        yield from ("It has no fields.", "")
        return
    yield from ("| field | values | default | |", "|---|---|---|---|")
    needed = part.get("required", ())
    for field, value in fields.items():
        default = "needed" if field in needed else _default(value)
        cells = (f"`{field}`", _values(value), default, _one_line(value.get("description", "")))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _default(value: Schema) -> str:
    default = value.get("default")
    if isinstance(default, dict) and default:
        return "see below"
    shown = {None: "none", True: "`True`", False: "`False`", "": '`""`'}
    if default is None or isinstance(default, bool | str):
        return shown.get(default, f"`{default}`")
    return f"`{default}`"


def _values(value: Schema) -> str:
    """The values that a field takes, with their bounds."""
    if "$ref" in value:
        return value["$ref"].rsplit("/", 1)[-1]
    for join in ("anyOf", "oneOf"):
        if join in value:
            return " or ".join(dict.fromkeys(_values(option) for option in value[join]))
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    kind = str(value.get("type", "any"))
    if kind == "array" and isinstance(value.get("items"), dict):
        kind = f"list of {_values(value['items'])}"
    if kind == "object" and isinstance(value.get("additionalProperties"), dict):
        kind = f"{{name: {_values(value['additionalProperties'])}}}"
    return ", ".join((kind.replace("null", "none"), *_bounds(value)))


def _bounds(value: Schema) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for name, sign in signs.items():
        if name in value:
            bound = value[name]
            yield f"{sign} {int(bound):,}" if bound == int(bound) else f"{sign} {bound}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
