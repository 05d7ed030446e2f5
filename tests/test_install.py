"""What is built installs, and works without the repository; what is missing is named."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import peftkit
from peftkit.bases.opening import open_base
from peftkit.bases.packages import ALWAYS, SOMETIMES, check_needed, report_missing_packages, require
from peftkit.cli.main import command_line
from peftkit.errors import MissingPackageError, PeftkitError

ROOT = Path(__file__).parents[1]
PACKAGE = Path(peftkit.__file__).parent
TEMPLATES = """
import peftkit
from peftkit.bases.chat_templates import chat_template
from peftkit.reports.receipt import environment
from peftkit.data.packaged import DATA, find_packaged
for package, name in (("reports", "receipt.html.j2"), ("experiments.comparing", "compare.html.j2")):
    templates = environment(f"peftkit.{package}")
    assert templates.loader.get_source(templates, name) and templates.get_template("theme.css")
assert chat_template("chatml") and chat_template("plain")
find_packaged("packaged:lantern-lane", DATA)
print(peftkit.__file__)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The wheel and the sdist of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory, make_recipe) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "recipe.json"
    file.write_text(make_recipe().to_json())
    return file


class Bare:
    """An environment that has the packages of this one, but for peftkit."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        [own] = folder.glob("lib/python*/site-packages")
        hatchling = importlib.util.find_spec("hatchling")
        places = {path for path in sys.path if path.endswith("site-packages")}
        places.add(str(Path(hatchling.origin).parents[1]))
        # what a .pth file names is searched, but no .pth file there is read, so that no editable
        # install of peftkit is found
        (own / "packages.pth").write_text("\n".join(sorted(places)))

    def run(self, *command: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False,
            cwd=self.folder, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def install(self, file: Path) -> None:
        self.run(
            sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-deps",
            "--no-index", "--no-build-isolation", "--no-compile", "--disable-pip-version-check",
            file,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_installs_and_checks_a_recipe_in_a_bare_environment(kind, built, recipe_file, tmp_path):
    bare = Bare(tmp_path / "bare")
    bare.install(built[kind])
    found = json.loads(bare.run(bare.folder / "bin/peftkit", "check", recipe_file, "--json"))
    assert found["trainable_parameters"] > 0
    if kind == "wheel":
        place = bare.run(bare.python, "-c", TEMPLATES).strip()
        assert Path(place).is_relative_to(bare.folder)
        assert "wrote mine.py" in bare.run(bare.folder / "bin/peftkit", "new", "mine")


def test_the_wheel_has_every_file_of_the_package(built):
    names = set(zipfile.ZipFile(built["wheel"]).namelist())
    files = {
        f"peftkit/{path.relative_to(PACKAGE)}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= names
    assert {name.split("/")[0] for name in names - files} == {
        f"peftkit-{peftkit.__version__}.dist-info"
    }


def test_the_sdist_has_what_its_tests_need(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("peftkit", "recipes", "tests", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            assert str(path.relative_to(ROOT)) in names
    assert {"pyproject.toml", "constraints.txt", "Makefile", "README.md", "LICENSE"} <= names


def test_what_is_imported_is_declared():
    """Every module that peftkit imports is among those it looks for, and those are dependencies, or
    what a dependency cannot be without.
    """
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"peftkit", "pydantic_core"}
    extra = {"hassil"}  # checked where it is used
    assert foreign <= set(ALWAYS) | set(SOMETIMES) | extra
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {name.split(">")[0] for name in project["dependencies"]}
    of_others = {"huggingface_hub", "markupsafe", "numpy", "pandas", "pyarrow", "tokenizers"}
    assert set(ALWAYS.values()) | set(SOMETIMES.values()) == declared | of_others
    for name in declared | of_others:
        importlib.metadata.version(name)


@pytest.fixture
def without(monkeypatch):
    """Makes modules as good as not installed."""

    def hide(*names: str) -> None:
        for name in names:
            for known in [m for m in sys.modules if m.split(".")[0] == name]:
                monkeypatch.delitem(sys.modules, known)
            monkeypatch.setitem(sys.modules, name, None)

    return hide


class TestMissing:
    @pytest.mark.parametrize(
        ("module", "install"),
        [("matplotlib", "matplotlib"), ("rouge_score", "rouge-score"), ("scipy", "scipy")],
    )
    def test_what_every_run_needs_is_told_before_anything(
        self, without, module, install, recipe_file, capsys
    ):
        without(module)
        for command in (["check", str(recipe_file)], ["compare", str(recipe_file), "--dry-run"]):
            with pytest.raises(SystemExit) as ended:
                command_line(command)
            assert ended.value.code == 2
            told = capsys.readouterr().err
            assert f"`{install}` is not installed, and peftkit needs it" in told
            assert f"hint: pip install {install}" in told
        with pytest.raises(MissingPackageError, match="is not installed"):
            peftkit.load("anywhere")
        with pytest.raises(MissingPackageError, match="is not installed"):
            peftkit.compare([])

    def test_several_are_told_at_once(self, without):
        without("sklearn", "tyro")
        with pytest.raises(MissingPackageError) as raised:
            check_needed()
        assert raised.value.message.startswith("`scikit-learn`, `tyro` are not installed")
        assert raised.value.hint == "pip install scikit-learn tyro"

    @pytest.mark.parametrize(
        ("changes", "module", "told"),
        [
            ({"base": {"quantization": "nf4"}}, "bitsandbytes", "`base.quantization nf4` needs it"),
            ({"training": {"optimizer": "lion"}}, "bitsandbytes", "`training.optimizer lion`"),
            ({"training": {"report_to": "tensorboard"}}, "tensorboard", "report_to` is"),
            ({"training": {"report_to": "wandb"}}, "wandb", "report_to` is"),
        ],
    )  # fmt: skip
    def test_what_a_recipe_asks_for_is_told_by_check(
        self, without, changes, module, told, recipe_file, tmp_path, capsys
    ):
        without(module)
        value = json.loads(recipe_file.read_text())
        for part, fields in changes.items():
            value[part] |= fields
        file = tmp_path / "recipe.json"
        file.write_text(json.dumps(value))
        with pytest.raises(SystemExit) as ended:
            command_line(["check", str(file)])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert told in error
        assert f"hint: pip install {module}" in error

    def test_gguf_is_needed_for_its_files_only(self, without, tmp_path, capsys):
        without("gguf")
        check_needed()
        with pytest.raises(SystemExit):
            command_line(["export", "run", "--to", "ollama", "--output", str(tmp_path / "o")])
        assert "`gguf` is not installed, and `--to ollama` needs it" in capsys.readouterr().err
        with pytest.raises(MissingPackageError, match="pip install gguf"):
            require("gguf", "a test needs")

    @pytest.mark.parametrize("name", ["minilm-l6", "smollm2-135m-instruct"])
    def test_packaged_models(self, without, name):
        from peftkit.data.packaged import MODELS, find_packaged

        without(MODELS[name].module)
        with pytest.raises(MissingPackageError) as raised:
            find_packaged(f"packaged:{name}", MODELS)
        assert raised.value.hint.startswith("pip install")

    def test_the_root_of_a_librarys_error_is_named(self):
        def fail(name: str) -> None:
            try:
                raise ModuleNotFoundError(f"No module named '{name}.x'", name=f"{name}.x")
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError("Could not import module 'Auto'") from error

        with pytest.raises(MissingPackageError) as raised, report_missing_packages():
            fail("nowhere_at_all")
        assert raised.value.message == "`nowhere_at_all` is not installed, and a library needs it"
        for own in ("peftkit", "json"):
            with pytest.raises(ModuleNotFoundError), report_missing_packages():
                fail(own)
        with pytest.raises(MissingPackageError) as raised, report_missing_packages():
            raise ImportError("This modeling file requires einopsy. Run `pip install einopsy`")
        assert raised.value.hint == "pip install einopsy"

    for installed in ("-U pytest", "--upgrade pyyaml", "'hypothesis[cli]'"):
        with pytest.raises(ImportError) as kept, report_missing_packages():  # it is another fault
            raise ImportError(f"Please run `pip install {installed}`")
        assert not isinstance(kept.value, MissingPackageError)

    def test_a_tokenizer_of_sentencepiece(self, without, bases, tmp_path):
        """transformers asks for tiktoken, which does not read it."""
        without("sentencepiece", "tiktoken")
        folder = tmp_path / "base"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 8}))
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
        (folder / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
        with pytest.raises(PeftkitError) as raised:
            open_base(peftkit.Base(name_or_path=str(folder)))
        assert isinstance(raised.value, MissingPackageError)
        assert raised.value.hint == "pip install sentencepiece"
