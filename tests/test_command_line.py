"""The command line itself: help, wrong commands and options, versions, completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from peftkit.cli.commands import command_parser
from peftkit.cli.completion import script_for
from peftkit.cli.environment import VARIABLES, environment
from peftkit.cli.groups import GROUPS
from peftkit.recipe import Training
from tests.test_cli import call

RECIPES = Path(__file__).parent.parent / "recipes"


def test_alone_it_prints_help_and_an_example(capsys):
    code, out, error = call(capsys)
    assert (code, out) == (2, "")
    assert "peftkit new mine --data reviews.csv" in error
    code, out, _ = call(capsys, "--help")
    assert (code, out) == (0, error)


def test_help_shows_every_command_in_a_group(capsys):
    _, out, _ = call(capsys, "--help")
    shown = [line for line in out.splitlines() if line.startswith("  ")]
    commands = command_parser().named
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(commands)
    assert all(any(line.split()[0] == name for line in shown) for name in commands)
    assert list(GROUPS) == ["train", "use", "share", "more"]
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", command_parser().named)
def test_every_command_has_help(capsys, name):
    code, out, error = call(capsys, name, "--help")
    assert (code, error) == (0, "")
    assert out.startswith(f"usage: peftkit {name}")


def test_the_version(capsys):
    code, out, _ = call(capsys, "--version")
    assert code == 0
    assert out == f"peftkit {environment().peftkit}\n"


@pytest.mark.parametrize(
    ("arguments", "told", "hint"),
    [
        (["chek", "x.py"], "no command `chek`", "did you mean `check`?"),
        (["dance"], "no command `dance`", "the commands are `"),
        (["--verson"], "no option `--verson`", "did you mean `--version`?"),
        (["verify", "r", "--jsn"], "no option `--jsn`", "did you mean `--json`?"),
        (["verify", "r", "--jsn=1"], "no option `--jsn`", "did you mean `--json`?"),
        (["verify", "r", "s"], "takes no further argument, but got `s`", "`peftkit verify --help`"),
        (["verify"], "`peftkit verify` needs `run`", "`peftkit verify --help` lists the options"),
        (["merge", "r"], "`peftkit merge` needs `--output`", "`peftkit merge --help`"),
        (["predict", "r", "--text"], "`--text` needs a value", "`peftkit predict --help`"),
        (
            ["merge", "r", "--output", "o", "--into", "trind"],
            "`--into` is `trind`, which is none of `trained`, `original`, `requantized`",
            "did you mean `trained`?",
        ),
        (["merge", "r", "--output", "o", "--scale", "a"], "`a`, which is not a number", "--help"),
        (["compare", "a.py", "--trials", "x"], "`x`, which is not a whole number", "--help"),
        (["completion", "bsh"], "which is none of `bash`, `zsh`, `fish`", "did you mean `bash`?"),
        (["new", "x", "--dta", "f"], "no option `--dta`", "did you mean `--data`?"),
    ],
)
def test_what_is_misspelled_is_told_as_every_error(in_tmp, capsys, arguments, told, hint):
    code, out, error = call(capsys, *arguments)
    assert (code, out) == (2, "")
    said, _, way_out = error.partition("\n\nhint: ")
    assert said.startswith("error: ")
    assert told in said
    assert hint in way_out
    assert "usage" not in error


def test_a_wrong_option_is_json_where_that_is_asked_for(capsys):
    code, out, _ = call(capsys, "verify", "r", "--bse", "x", "--json")
    assert code == 2
    assert json.loads(out) == {
        "status": "error",
        "error": "there is no option `--bse`",
        "hint": "did you mean `--base`?",
    }


@pytest.fixture
def recipe_file(in_tmp, make_recipe) -> Path:
    (in_tmp / "recipe.json").write_text(make_recipe().to_json())
    return in_tmp / "recipe.json"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--training.lerning-rate", 1], ["did you mean `--training.learning-rate`?"]),
        (["--training.xyz", 1], ["`--training` has `learning-rate`"]),
        (["--trainin.learning-rate", 1], ["did you mean `--training.learning-rate`?"]),
        (["--output-dri", "x"], ["did you mean `--output-dir`?"]),
        (["--training.batch_size=many"], ["`--training.batch_size`: should be a valid integer"]),
        (["--training.batch-size", 0], ["`--training.batch-size`: should be greater than or"]),
        (["--training.batch-size"], ["`--training.batch-size` needs a value"]),
        (["--training.layout", "flat"], ["should be 'auto' or 'padded' (found `'flat'`)"]),
        (["--method.r", 8, 9], ["`--method.r` does not take `9`"]),
        (["--base.double-quant", "yes"], ["`--base.no-double-quant` is its opposite"]),
        (["16"], ["`16` belongs to no option", "give fields as"]),
        (
            ["--task.data.test-fraction", 0.6, "--task.data.validation-fraction", 0.6],
            ["task.data: `validation_fraction` 0.6 and `test_fraction` 0.6 leave no rows"],
        ),
        (
            ["--training.lerning-rate", 1, "--method.r", "x", "--training.batch-size", 0,
             "--seed", 3, "--method.lora-alpha"],
            ["has 4 problems", "`--training.lerning-rate`; did you", "\n  `--method.r`: should",
             "\n  `--training.batch-size`: should", "\n  `--method.lora-alpha` needs a value"],
        ),
    ],
)  # fmt: skip
def test_wrong_fields_are_told_at_once_with_their_options(recipe_file, capsys, arguments, told):
    code, out, error = call(capsys, "run", recipe_file, *arguments)
    assert (code, out) == (2, "")
    assert error.startswith("error: ")
    for part in told:
        assert part in error
    assert "─" not in error  # tyro's box
    code, out, _ = call(capsys, "run", recipe_file, *arguments, "--json")
    assert code == 2
    assert json.loads(out)["error"] in error


def test_a_script_tells_them_too():
    arguments = ["--training.lerning-rate", "1", "--method.r", "x"]
    done = subprocess.run(
        [sys.executable, "recipes/sentiment_lora.py", *arguments], capture_output=True, text=True,
        check=False, cwd=RECIPES.parent,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: the command line has 2 problems\n\n"
        "  there is no option `--training.lerning-rate`; "
        "did you mean `--training.learning-rate`?\n"
        "  `--method.r`: should be a valid integer, unable to parse string as an integer "
        "(found `'x'`)\n\n"
        "hint: `python recipes/sentiment_lora.py --help` lists the options\n"
    )


def test_a_scripts_help_lists_fields_and_completes(capsys, monkeypatch):
    from peftkit import main
    from peftkit.cli.recipe_files import import_file

    script = import_file(RECIPES / "sentiment_lora.py")
    for arguments in (["--help"], ["--training.lerning-rate", "1", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(script.recipe, arguments)
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert "--training.learning-rate" in out
        assert "Also: --output-dir, --json, --debug." in out
    with pytest.raises(SystemExit):
        main(script.recipe, ["--tyro-print-completion", "bash"])
    assert "--training.learning-rate" in capsys.readouterr().out


def test_the_environment_tells_versions_caches_and_no_secret(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "peftkit" / "gguf").mkdir(parents=True)
    (tmp_path / "peftkit" / "gguf" / "model").write_bytes(bytes(3 * 2**20))
    code, out, _ = call(capsys, "env", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["packages"]["torch"] == __import__("torch").__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["devices"]
    assert found["threads"] >= 1
    assert found["caches"]["peftkit"]["size_mb"] == 3
    assert found["caches"]["Hub"] == {"path": str(tmp_path / "hub"), "size_mb": None}
    assert set(found["variables"]) <= set(VARIABLES)
    assert "hf_secret" not in out
    code, out, _ = call(capsys, "env")
    assert code == 0
    assert f"peftkit     {found['peftkit']}\n" in out
    assert "hf_secret" not in out


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    ask = f"{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _peftkit\n"
    ask += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes_commands_and_options(capsys):
    code, script, _ = call(capsys, "completion", "bash")
    assert code == 0
    assert completed(script, "peftkit", "ch") == ["check", "chat"]
    assert completed(script, "peftkit", "run", "x.py", "--training.b") == ["--training.batch-size"]
    assert "--into" in completed(script, "peftkit", "merge", "--")
    assert completed(script, "peftkit", "completion", "") == ["bash", "zsh", "fish"]
    assert completed(script, "peftkit", "run", "rec") == []  # files, by bash itself


def test_every_shells_script_has_every_command_and_field(capsys):
    parser = command_parser()
    fields = [f"training.{field.replace('_', '-')}" for field in Training.model_fields]
    for shell in ("bash", "zsh", "fish"):
        script = script_for(shell, parser)
        words = {word.lstrip("-") for word in re.split(r"[\s':\"()]+", script)}
        assert {*parser.named, *fields} <= words


def test_help_loads_no_heavy_library():
    code = (
        "import sys\nfrom peftkit.cli.main import command_line\n"
        "try: command_line(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'tyro', 'rich', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "[]"
