"""Every bad input: one clear message, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from peftkit.cli.main import command_line
from tests.conftest import sentences, write_csv


@pytest.fixture
def call(in_tmp, make_recipe, capsys):
    """Runs `peftkit run` on a recipe.json; gives the exit code, stderr, and what was written."""

    def run(edit=None, data=None, text=None, command="run"):
        value = json.loads(make_recipe(max_steps=2).to_json())
        if data is not None:
            value["task"]["data"]["path"] = str(data)
        if edit:
            edit(value)
        (in_tmp / "recipe.json").write_text(json.dumps(value) if text is None else text)
        before = set(in_tmp.rglob("*"))
        with pytest.raises(SystemExit) as caught:
            command_line([command, "recipe.json"])
        written = set(in_tmp.rglob("*")) - before
        return caught.value.code, capsys.readouterr().err, written

    return run


def at(path: str, value: object):
    """An edit of a recipe's JSON: `at("training.batch_size", "x")`; None deletes."""

    def edit(recipe):
        *parents, last = path.split(".")
        for name in parents:
            recipe = recipe[name]
        recipe[last] = value

    return edit


ROWS = sentences(120)
FILES = {
    "empty.csv": b"",
    "header.csv": b"text,label\n",
    "one_row.csv": b"text,label\nfine,good\n",
    "one_class.csv": b"text,label\n" + b"".join(b"text %d,good\n" % n for n in range(50)),
    "all_empty.csv": b"text,label\n" + b" ,good\n,bad\n" * 30,
    "columns.csv": b"review,stars\nfine,good\n",
    "notes.txt": b"hello",
    "broken.parquet": b"no parquet",
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.csv", "is empty (0 bytes)"),
        ("header.csv", "has no rows"),
        ("one_row.csv", "1 usable row"),
        ("one_class.csv", "has one label in the training rows, `good`"),
        ("all_empty.csv", "60 of 60 rows cannot be used: 60 empty text (lines 2, 3, 4, 5, 6, ...)"),
        ("columns.csv", "no column `text`, `label`; it has `review`, `stars`"),
        ("notes.txt", "has neither words with tags"),
        ("broken.parquet", "cannot be read as Parquet"),
        ("missing.csv", "no file or folder"),
    ],
)
def test_bad_files(call, tmp_path_factory, name, message):
    file = tmp_path_factory.mktemp("bad") / name
    if name in FILES:
        file.write_bytes(FILES[name])
    code, error, written = call(data=file)
    assert code == 2
    assert message in error
    assert error.count("error:") == 1
    assert "Traceback" not in error
    assert not written


def test_a_label_only_in_the_test_split(call, tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    write_csv(folder / "train.csv", ROWS[:80])
    write_csv(folder / "validation.csv", ROWS[80:100])
    write_csv(folder / "test.csv", [*ROWS[100:], ("a new thing", "neutral")])
    code, error, written = call(data=folder)
    assert (code, written) == (2, set())
    assert "the test split has the label `neutral`, which no training row has" in error


def with_two_percent_malformed(folder):
    lines = [f"{text},{label}" for text, label in ROWS[:98]]
    lines.insert(40, "too,many,fields")
    lines.insert(70, ",good")
    file = folder / "malformed.csv"
    file.write_text("text,label\n" + "\n".join(lines) + "\n")
    return file


def test_malformed_rows_are_refused_by_default(call, tmp_path_factory):
    code, error, written = call(data=with_two_percent_malformed(tmp_path_factory.mktemp("x")))
    assert (code, written) == (2, set())
    assert (
        "2 of 100 rows cannot be used: 1 too many fields (line 42), 1 empty text (line 72)" in error
    )
    assert "--task.data.malformed skip" in error


def test_malformed_rows_are_skipped_and_told_on_request(in_tmp, make_recipe, capsys):
    file = with_two_percent_malformed(in_tmp)
    recipe = make_recipe(data=file, max_steps=1)
    (in_tmp / "recipe.json").write_text(recipe.to_json())
    command_line(["run", "recipe.json", "--task.data.malformed", "skip", "--json"])
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert record["ledger"]["read"][0]["malformed"] == {"too many fields": [42], "empty text": [72]}
    assert "1 too many fields (line 42)" in " ".join(captured.err.split())  # wrapped anywhere


@pytest.mark.parametrize(
    ("edit", "messages"),
    [
        (at("method.lora_alfa", 3), ["method.lora_alfa", "did you mean `lora_alpha`?"]),
        (at("training.batch_size", "many"), ["training.batch_size", "valid integer", "'many'"]),
        (
            at("training.optimizer", "adam"),
            [
                "training.optimizer",
                "'adamw', 'sgd', 'adamw_8bit'",
                "'adam'",
            ],
        ),
        (at("method.target_modules", ["q_proj"]), ["is named `q_proj`", "`dense`, `key`"]),
        (
            lambda r: (
                at("base.quantization", "nf4")(r),
                at("method", {"kind": "FullFineTuning"})(r),
            ),
            ["nf4 weights cannot be trained", "use LoRA"],
        ),
        (at("base.name_or_path", "packaged:minilm"), ["packaged:minilm-l6", "did you mean"]),
        (at("base.name_or_path", "./nowhere"), ["no file or folder `./nowhere`"]),
        (at("training.metric", "acuracy"), ["training.metric", "did you mean `accuracy`?"]),
        (at("task.class_weights", {"god": 1.0}), ["task.class_weights", "`bad`, `good`"]),
    ],
)
def test_bad_recipes(call, edit, messages):
    code, error, written = call(edit)
    assert (code, written) == (2, set()), error
    assert error.count("error:") == 1
    assert "Traceback" not in error
    for message in messages:
        assert message in error


def test_two_errors_are_told_at_once(call):
    def edit(recipe):
        at("method.rr", 3)(recipe)
        at("training.learning_rate", -1)(recipe)

    code, error, _ = call(edit)
    assert code == 2
    assert "2 problems" in error
    assert "method.rr" in error
    assert "training.learning_rate" in error


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"base": 3}', "nonsense"])
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_recipe_that_is_no_recipe(call, text, command):
    code, error, written = call(text=text, command=command)
    assert (code, written) == (2, set())
    assert error.startswith("error: recipe.json")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("def recipe(:", "`x.py`, line 1: SyntaxError"),
        ("import nothing_like_it", "`x.py`, line 1: ModuleNotFoundError"),
        ("def recipe():\n    raise ValueError('boom')", "`x.py`, line 2: ValueError: boom"),
        ("def recipe(base):\n    pass", "`x.py`: TypeError: recipe() missing"),
        ("def recipe():\n    return {}", "`recipe()` in x.py returns dict"),
        ("recipes = 3", "`x.py` has no function `recipe`"),
    ],
)
def test_a_script_that_is_no_recipe(in_tmp, capsys, script, message):
    (in_tmp / "x.py").write_text(script + "\n")
    with pytest.raises(SystemExit) as caught:
        command_line(["check", "x.py"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_an_output_folder_that_cannot_be_made(in_tmp, make_recipe, capsys):
    (in_tmp / "recipe.json").write_text(make_recipe(max_steps=1).to_json())
    (in_tmp / "file").write_text("in the way")
    with pytest.raises(SystemExit) as caught:
        command_line(["run", "recipe.json", "--output-dir", "file/run"])
    assert caught.value.code == 2
    assert "cannot make the folder `file/run`: " in capsys.readouterr().err
    assert {path.name for path in in_tmp.iterdir()} == {"recipe.json", "file"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder", "`folder` is a folder"),
        ("recipe.yaml", "`recipe.yaml` is not a recipe"),
        ("datasets.py", "`datasets.py` hides the installed module `datasets`"),
        ("random.py", "`random.py` hides the installed module `random`"),
    ],
)
def test_what_cannot_be_a_recipes_file_is_told(in_tmp, capsys, name, said):
    (in_tmp / "folder").mkdir()
    (in_tmp / "recipe.yaml").write_text("base: a/b\n")
    for script in ("datasets.py", "random.py"):
        (in_tmp / script).write_text("from peftkit import Recipe\n")
    with pytest.raises(SystemExit) as caught:
        command_line(["check", name])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_no_recipe_is_begun_under_a_name_that_hides_a_module(in_tmp, capsys):
    with pytest.raises(SystemExit):
        command_line(["new", "datasets"])
    assert "hides the installed module" in capsys.readouterr().err
    assert not list(in_tmp.iterdir())


def test_a_name_beside_another_folders_script_hides_nothing(in_tmp, monkeypatch):
    from peftkit.parts.scripts import refuse_shadowing

    (in_tmp / "train.py").touch()
    monkeypatch.syspath_prepend(str(in_tmp))
    refuse_shadowing(in_tmp / "recipes/train.py")
    refuse_shadowing(in_tmp / "my.datasets.py")


def test_debug_shows_the_traceback(in_tmp, capsys):
    from peftkit.errors import RecipeError

    with pytest.raises(RecipeError):
        command_line(["run", "nothing.json", "--debug"])


def test_a_misspelled_field_is_refused_in_under_two_seconds(in_tmp):
    (in_tmp / "x.py").write_text(
        "from peftkit import *\n"
        "def recipe():\n"
        "    return Recipe(base=Base(name_or_path='a/b'), method=LoRA(rnak=8),\n"
        "                  task=TextClassification(data=Data(path='x.csv')))\n"
        "if __name__ == '__main__':\n"
        "    main(recipe)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "x.py"], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {in_tmp / 'x.py'}: method.rnak: no such field (found `8`); fields here are "
        "`alpha_pattern`, `kind`, `layers_pattern`, `layers_to_transform`, `lora_alpha`, "
        "`lora_dropout`, `loraplus_lr_ratio`, `r`, `rank_pattern`, `target_modules`, "
        "`use_rslora`\n"
    )


def test_bad_overrides_of_a_script(in_tmp, make_recipe, capsys):
    (in_tmp / "recipe.json").write_text(make_recipe().to_json())
    for arguments, told in (
        (["--method.rank", "3"], "there is no option `--method.rank`"),
        (
            ["--training.batch-size", "0"],
            "`--training.batch-size`: should be greater than or equal",
        ),
    ):
        with pytest.raises(SystemExit) as caught:
            command_line(["check", "recipe.json", *arguments])
        assert caught.value.code == 2
        assert told in capsys.readouterr().err
