"""Code blocks of README and docs run; those that cannot run here parse, and name real options.

A comment before a block says how it is treated:

    <!-- needs the Hub -->   it parses only; the same for `needs a GPU`, `needs hours`
    <!-- long -->            `make docs-run` runs it
    <!-- run -->             a shell block that the default tests run, and compare with its output
    <!-- fails -->           the same, with an error
    <!-- file: NAME -->      the content of that file, which later blocks use
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser

import peftkit
from peftkit.cli.main import command_line
from peftkit.recipe import recipe_schema
from tests.conftest import call_forked
from tests.docs_place import write_files

ROOT = Path(__file__).parents[1]
WRITTEN_BY_COMMANDS = {"log.md", "matrix.md", "recipes.md"}
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "docs" / "quickstart.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in WRITTEN_BY_COMMANDS),
]
PAGES = list(dict.fromkeys(PAGES))
MARK = re.compile(r"<!-- (?P<how>long|run|file|needs|fails)(?:[: ] *(?P<what>[^>]*?))? -->\s*\Z")
LANGUAGES = ("python", "bash", "console", "toml", "text")
OTHER_PROGRAMS = {"accelerate", "cd", "git", "llama-cli", "llama-server", "ollama", "pip", "vllm"}
RECIPE_COMMANDS = ("run", "check", "plan", "compare")


class Block:
    """A code block of a page."""

    def __init__(self, page: Path, example: Example, language: str) -> None:
        self.page, self.example, self.language = page, example, language
        self.source = str(example.parsed)
        found = MARK.search(example.document.text[: example.region.start])
        self.how, self.what = (found["how"], found["what"] or "") if found else ("", "")

    def __repr__(self) -> str:
        return f"{self.page.name}:{self.example.line}"

    def commands(self) -> Iterator[list[str]]:
        """The words of each command that is shown."""
        joined = self.source.replace("\\\n", " ")
        for line in joined.splitlines():
            if self.language == "console" and not line.startswith("$ "):
                continue
            if words := shlex.split(line.removeprefix("$ "), comments=True):
                yield words


def blocks_of(page: Path) -> list[Block]:
    if not page.exists():
        return []
    parsers = [CodeBlockParser(language, lambda example: None) for language in LANGUAGES]
    document = Document.parse(str(page), *parsers)
    return [
        Block(page, example, example.region.lexemes["arguments"]) for example in document.examples()
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language in ("bash", "console")]


@pytest.fixture(scope="module")
def place(tmp_path_factory, bases, chat_base) -> Path:
    """A folder with what the pages name: the repository's recipes, files with data, tiny bases."""
    import peftkit.adapters.verifying  # forked processes have then imported what they need
    import peftkit.evaluation.features
    import peftkit.metrics.classification
    import peftkit.reports.plots
    import peftkit.run  # noqa: F401

    folder = tmp_path_factory.mktemp("docs")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    (folder / "tiny-bert").symlink_to(bases["bert"])
    (folder / "tiny-chat").symlink_to(chat_base)
    write_files(folder)
    for block in BLOCKS:
        if block.how == "file":
            file = folder / block.what
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.source)
    return folder


@pytest.mark.parametrize("block", PYTHON, ids=repr)
def test_python_parses_and_runs(block, place, monkeypatch):
    tree = ast.parse(block.source, filename=repr(block))
    if block.how in ("long", "file") or (block.how == "needs" and not _only_defines(tree)):
        return
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    for family in (peftkit.Method, peftkit.Task):  # classes of the pages are not kept
        monkeypatch.setattr(family, "kinds", dict(family.kinds))
    namespace = block.example.document.namespace
    namespace.setdefault("__name__", "docs")
    for name in peftkit.__all__:
        namespace.setdefault(name, getattr(peftkit, name))
    namespace.pop("recipe", None)
    PythonEvaluator()(block.example)
    if "recipe" in namespace:
        assert isinstance(namespace["recipe"](), peftkit.Recipe)


def _only_defines(tree: ast.Module) -> bool:
    """Whether running a block imports and defines only, a recipe for example."""
    harmless = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.If)
    return all(isinstance(node, harmless) for node in tree.body)


@pytest.mark.parametrize("block", SHELL, ids=repr)
def test_commands_have_the_options_that_are_shown(block, place):
    commands = list(block.commands())
    for words in commands:
        check_command(words, place, made_by(commands))


def made_by(commands: list[list[str]]) -> set[str]:
    """The scripts that the commands of a block write."""
    return {f"{words[2]}.py" for words in commands if words[:2] == ["peftkit", "new"]}


def check_command(words: list[str], place: Path, made: Collection[str] = ()) -> None:
    program, *rest = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if program == "peftkit":
        if not rest:
            return
        command, *rest = rest
        known = options_of(command)
        assert known, f"no command `peftkit {command}`"
        for option in given_options(rest):
            fits = option in known or (command in RECIPE_COMMANDS and is_field(option))
            assert fits, f"`peftkit {command}` has no `{option}`"
    elif program == "python":
        if rest[0] in ("-m", "-c"):
            return
        written = rest[0] in made
        assert written or any((folder / rest[0]).is_file() for folder in (place, ROOT)), rest[0]
        if rest[0].startswith("benchmarks/"):
            return
        for option in given_options(rest[1:]):
            own = ("--help", "--json", "--debug", "--output-dir")
            assert option in own or is_field(option), f"no field `{option}`"
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        for target in (word for word in rest if "=" not in word):
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    else:
        assert program in OTHER_PROGRAMS, program


def given_options(words: list[str]) -> list[str]:
    return [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]


@cache
def options_of(command: str) -> frozenset[str]:
    """The options that a command's help names; empty if there is no such command."""
    told = io.StringIO()
    streams = contextlib.redirect_stdout(told), contextlib.redirect_stderr(told)
    with streams[0], streams[1], contextlib.suppress(SystemExit):
        command_line([command, "--help"])
    if "invalid choice" in told.getvalue() or "error:" in told.getvalue():
        return frozenset()
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", told.getvalue()))


def is_field(option: str) -> bool:
    """Whether a dotted option is a field of some recipe."""
    names = [name.replace("-", "_") for name in option.lstrip("-").split(".")]
    return _has({"$ref": ""}, names)


@cache
def _schema() -> dict[str, Any]:
    return recipe_schema()


def _has(value: dict[str, Any], names: list[str]) -> bool:
    if not names:
        return True
    schema = _schema()
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[-1]
        return _has(schema["$defs"][name] if name else schema, names)
    options = [option for join in ("anyOf", "oneOf", "allOf") for option in value.get(join, ())]
    if any(_has(option, names) for option in options):
        return True
    inside = value.get("properties", {}).get(names[0])
    if inside is None:
        return isinstance(value.get("additionalProperties"), dict)
    return _has(inside, names[1:])


@pytest.mark.parametrize(
    "block", [block for block in SHELL if block.how in ("run", "fails")], ids=repr
)
def test_a_quick_command_says_what_the_page_shows(block, place):
    for words in block.commands():
        done = call_forked(lambda words=words: _call(words), place)
        assert (done.returncode == 0) == (block.how == "run"), done.stdout + done.stderr
        shown = [line for line in block.source.splitlines() if not line.startswith("$ ")]
        if block.language == "console":
            _compare(shown, done.stdout + done.stderr)


def _call(words: list[str]) -> None:
    os.environ["COLUMNS"] = "110"
    if words[0] == "python":
        sys.argv = words[1:]
        sys.path.insert(0, "")
        runpy.run_path(words[1], run_name="__main__")
        return
    assert words[0] == "peftkit"
    command_line(words[1:])


def _compare(shown: list[str], told: str) -> None:
    """Each line that is shown is told, whatever its numbers and spaces are."""

    def plain(text: str) -> str:
        return re.sub(r"\d[\d,.e-]*", "#", re.sub(r"\s+", " ", text)).strip()

    whole = plain(told)
    for line in shown:
        for part in line.split(" ..."):
            assert plain(part) in whole, f"not told: {part!r}\n\n{told}"


@pytest.mark.parametrize(
    ("script", "module"),
    [("steering.py", "steering.py"), ("stars.py", "star_ratings"), ("good_or_bad.py", "")],
)  # a method in a script, a task in a package, a task in a script
def test_a_class_of_ones_own_trains_and_runs_again(script, module, place):
    """What extending.md shows, on a tiny base: run, verify, and run again to the same bytes."""
    small = ["--base.name-or-path", "./tiny-bert", "--training.num-epochs", "1",
             "--task.data.max-rows", "40", "--base.max-unknown-tokens", "1"]  # fmt: skip
    name = script.removesuffix(".py")
    commands = [["python", script, *small] if module else ["peftkit", "check", script, *small]]
    if module:
        trust = ["--trust-module", module]
        commands.append(["peftkit", "verify", f"runs/{name}", *trust])
        recipe = f"runs/{name}/recipe.json"
        commands.append(["peftkit", "run", recipe, *trust, "--output-dir", f"runs/{name}_again"])
    for words in commands:
        done = call_forked(lambda words=words: _call(words), place)
        assert done.returncode == 0, done.stdout + done.stderr
    runs = [place / "runs" / folder / "adapter" for folder in (name, f"{name}_again")]
    if module:
        for file in runs[0].glob("*.safetensors"):
            assert file.read_bytes() == (runs[1] / file.name).read_bytes()


@pytest.mark.docs
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_long_blocks_run(page, long_place):
    """In the order of the pages, and in one folder: quickstart's run serves the others."""
    namespace: dict[str, Any] = {name: getattr(peftkit, name) for name in peftkit.__all__}
    for block in (block for block in BLOCKS if block.page == page and block.how == "long"):
        with contextlib.chdir(long_place):
            if block.language == "python":
                exec(
                    compile("\n" * block.example.line + block.source, str(page), "exec"), namespace
                )
                continue
            for words in block.commands():
                if words[0] in ("peftkit", "python"):
                    told = _in_a_shell(words)
                    shown = [line for line in block.source.splitlines() if line[:2] != "$ "]
                    if block.language == "console":
                        _compare(shown, told)


@pytest.fixture(scope="module")
def long_place(place, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    for path in place.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def _in_a_shell(words: list[str]) -> str:
    python = Path(sys.executable)
    found = {"peftkit": [str(python), "-m", "peftkit"], "python": [str(python)]}
    done = subprocess.run(
        [*found[words[0]], *words[1:]], capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "110", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_every_public_name_is_in_the_reference():
    text = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    missing = [
        name
        for name in peftkit.__all__
        if not re.search(rf"auto(class|function):: (peftkit\.)?{name}\b", text)
    ]
    assert not missing


def test_the_troubles_are_messages_of_the_code():
    """Each piece of a trouble, between code and `...`, is part of a text in the code."""
    trees = (ast.parse(path.read_text()) for path in (ROOT / "peftkit").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree))
    texts = "\n".join(str(node.value) for node in nodes if isinstance(node, ast.Constant))
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    page = page[: page.index("## Not an error")]
    rows = re.findall(r"^\| (?P<trouble>[^|]+?) \|", page, re.MULTILINE)
    assert len(rows) > 40
    pieces = [(row, piece.strip(" ,:.").casefold()) for row in rows if row[0] not in "-0123456789"
              for piece in re.split(r"`[^`]*`|\.\.\.|;", row)]  # fmt: skip
    headings = {"message", "exit code", "code"}
    gone = {row for row, piece in pieces if piece not in texts.casefold()} - headings
    assert not gone
