"""Imports go downwards only, the recipe side loads no torch, and the public names are these."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import peftkit

PACKAGE = Path(peftkit.__file__).parent
LAYERS = [
    "wording", "errors", "packages", "terminal", "parts", "packaged", "data", "bases", "losses",
    "metrics", "tasks", "architectures", "peft_plugin", "methods", "recipe", "rehearsal", "output",
    "training", "measuring", "planning", "evaluation", "adapters", "early", "outcome", "preparing",
    "fitting", "run", "comparing", "compare_command", "adapter_commands", "cli",
    "__init__", "__main__",
]  # fmt: skip
"""From the lowest to the highest. A module may import from its own layer and from lower ones."""
BELOW_EACH_OTHER = {("data", "bases"), ("losses", "bases"), ("metrics", "bases")}
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def imported(path: Path) -> set[str]:
    """Layers of peftkit that a module imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("peftkit"):
            names.add(layer_of(node.module))
        elif isinstance(node, ast.Import):
            names |= {layer_of(a.name) for a in node.names if a.name.startswith("peftkit")}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_downwards(path):
    assert layer(path) in LAYERS, "name the new module's layer in LAYERS"
    own = LAYERS.index(layer(path))
    upward = {name for name in imported(path) if LAYERS.index(name) > own}
    assert not upward


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 75, node.name


def test_exported_names():
    assert sorted(peftkit.__all__) == [
        "AdaLoRA", "Base", "BitFit", "BottleneckAdapter", "Budget", "Chat", "Conversations", "Data",
        "DoRA", "EVA", "FullFineTuning", "Generation", "HeadOnly", "IA3", "LayerNormTuning", "LoRA",
        "Method", "OLoRA", "PTuning", "PeftMethod", "PeftkitError", "PiSSA", "PrefixTuning",
        "PromptTuning", "Recipe", "Source", "Task", "TextClassification", "TopLayers", "Training",
        "compare", "load", "main",
    ]  # fmt: skip
    assert all(getattr(peftkit, name) is not None for name in peftkit.__all__)


def test_import_loads_nothing_heavy_and_is_quick():
    code = (
        "import sys, time; start = time.process_time(); import peftkit;"
        "heavy = {'torch', 'numpy', 'transformers', 'peft', 'datasets'} & set(sys.modules);"
        "print(time.process_time() - start, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert float(seconds) < 0.5


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
