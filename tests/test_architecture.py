"""Imports go downwards only, the recipe side loads no torch, and the public names are these."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import peftkit

PACKAGE = Path(peftkit.__file__).parent
FLOORS = [
    "errors", "wording", "atomic", "parts", "metrics", "data", "bases", "tasks", "methods",
    "recipe", "training", "evaluation", "adapters", "reports", "stages", "deploy", "run",
    "experiments", "cli", "peft_plugin", "__init__", "__main__",
]  # fmt: skip
"""From the ground up; docs/architecture.md shows them. A module imports from its own floor and from
lower ones."""
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 300
MOST_IN_FUNCTION = 50


def name_of(path: Path) -> str:
    """`peftkit.data.rows`; `peftkit.data` for its __init__.py."""
    parts = ("peftkit", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in MODULES}


def floor(module: str) -> int:
    return FLOORS.index([*module.split("."), "__init__"][1])


def imported(path: Path) -> set[str]:
    """Modules of peftkit that a module imports, wherever in the file, for types too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if name in NAMES else node.module for name in inside}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == "peftkit"}


def cycle(imports: dict[str, set[str]]) -> list[str]:
    """The names of a cycle; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        done.add(name)
        return next(filter(None, (visit(n, [*path, name]) for n in imports[name])), [])

    return next(filter(None, (visit(name, []) for name in imports)), [])


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = floor(name_of(path))
    assert not {name for name in imported(path) if floor(name) > own}


def test_no_cycle():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert not cycle({name_of(path): imported(path) & NAMES for path in MODULES})


def test_the_house_is_listed_at_a_glance():
    names = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(names) <= 22
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    missing = [name for name in FLOORS if not name.startswith("__") and f"`{name}" not in page]
    assert not missing


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < MOST_IN_FUNCTION, node.name


ROOMS_OF_BAGS = ("parts", "data")
"""The rooms of JSON and of users' rows; in all others, what is handed on is a value with named
fields, and a foreign object is narrowed where it is read."""
BAG = r"\b(dict|(Mutable)?Mapping)\[str, (typing\.)?Any\]"


def matches(part: ast.expr | None, pattern: str) -> bool:
    return part is not None and re.search(pattern, ast.unparse(part), re.IGNORECASE) is not None


def other_names(trees: list[ast.Module]) -> list[str]:
    """Names of types that are a dict of anything: aliases, aliases of those, subclasses."""
    defined: list[tuple[str, ast.expr]] = []
    for tree in trees:
        blocks = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.If))]
        for node in (node for block in blocks for node in block):
            if isinstance(node, ast.ClassDef):
                defined += [(node.name, base) for base in node.bases]
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                defined.append((node.targets[0].id, node.value))
            elif isinstance(node, ast.AnnAssign) and matches(node.annotation, "TypeAlias"):
                defined += [(ast.unparse(node.target), node.value)] if node.value else []
    names: list[str] = []
    while found := [n for n, p in defined if n not in names and matches(p, bag_pattern(names))]:
        names += found
    return names


def bag_pattern(names: list[str]) -> str:
    """Of a dict of anything, or one of its other names."""
    return "|".join([BAG, *(rf"(?-i:\b{name}\b)" for name in names)])


def bags(tree: ast.Module, names: list[str]) -> list[str]:
    """Public functions and fields, and names of types, that are a dict of anything.

    Args:
        names: other names of such a type.
    """
    annotations: list[tuple[str, ast.expr | None]] = []
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for owner in (tree, *(node for node in classes if not node.name.startswith("_"))):
        for node in owner.body:
            if isinstance(node, ast.FunctionDef) and not re.match("_(?!_)", node.name):
                every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                annotations += [(f"{node.name}({arg.arg})", arg.annotation) for arg in every]
                annotations.append((f"{node.name}()", node.returns))
            elif isinstance(node, ast.AnnAssign):
                annotations.append((ast.unparse(node.target), node.annotation))
                if matches(node.annotation, "TypeAlias"):
                    annotations.append((ast.unparse(node.target), node.value))
            elif isinstance(node, ast.Assign):
                annotations.append((ast.unparse(node.targets[0]), node.value))
    return [name for name, part in annotations if matches(part, bag_pattern(names))]


def test_what_is_handed_on_is_a_value():
    bad = ast.parse(
        "class A:\n    a: dict[str, Any]\n"
        "    def __init__(self, b: Mapping[str, typing.Any]): ...\n"
        "def f(x: list[dict[str, Any]]): ...\nJ = dict[str, Any]\nK: TypeAlias = list[J]\n"
        "class L(J): ...\ndef g(x: K) -> L: ...\ndef h(x: dict[str, object], y: k): ..."
    )
    names = other_names([bad])
    assert names == ["J", "K", "L"]
    assert bags(bad, names) == ["f(x)", "J", "K", "g(x)", "g()", "a", "__init__(b)"]
    trees = {path: ast.parse(path.read_text()) for path in MODULES}
    names = other_names(list(trees.values()))
    for path, tree in trees.items():
        if path.relative_to(PACKAGE).parts[0] not in ROOMS_OF_BAGS:
            assert not bags(tree, names), path


def test_exported_names():
    assert sorted(peftkit.__all__) == [
        "AdaLoRA", "Answered", "Base", "BitFit", "BottleneckAdapter", "Budget", "Chat",
        "Conversations", "Data", "DoRA", "Documents", "EVA", "FullFineTuning", "Generation",
        "GenerativeAnswering", "HeadOnly", "IA3", "LabelSets", "LayerNormTuning", "LoRA",
        "MarkedTexts", "Method", "MultiLabelClassification", "Numbers", "OLoRA", "PTuning",
        "Pairs", "PeftMethod", "PeftkitError", "PiSSA", "PrefixTuning", "PromptTuning",
        "QuestionAnswering", "Questions", "Recipe", "RelationExtraction",
        "ScoredPairs", "Source", "Summarization", "TaggedWords", "Task", "TextClassification",
        "TextPairScoring", "TextRegression", "TokenClassification", "TopLayers", "Training",
        "Translation", "compare", "cross_validate", "load", "main",
    ]  # fmt: skip
    assert all(getattr(peftkit, name) is not None for name in peftkit.__all__)


def test_import_loads_nothing_heavy():
    code = (
        "import sys, peftkit;"
        "heavy = {'torch', 'numpy', 'transformers', 'peft', 'datasets'} & set(sys.modules);"
        "print(len(sys.modules), sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, heavy = done.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert int(modules) < 500  # pydantic and the standard library


def test_every_field_of_a_recipe_is_documented():
    schema = peftkit.recipe.recipe_schema()
    parts = {"Recipe": schema, **schema["$defs"]}
    undocumented = [
        f"{name}.{field}"
        for name, part in parts.items()
        for field, value in part.get("properties", {}).items()
        if field != "kind" and "description" not in value
    ]
    assert not undocumented
