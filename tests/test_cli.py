"""The commands, as a person types them."""

from __future__ import annotations

import csv
import json

import pytest

from peftkit import HeadOnly
from peftkit.cli.main import command_line
from peftkit.run import run
from tests.conftest import write_csv


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, bases, reviews):
    from peftkit import Base, Data, Recipe, TextClassification, Training

    recipe = Recipe(
        base=Base(name_or_path=str(bases["bert"])),
        task=TextClassification(data=Data(path=str(reviews))),
        method=HeadOnly(),
        training=Training(max_steps=3),
    )
    return run(recipe, str(tmp_path_factory.mktemp("run") / "r")).folder


def call(capsys, *arguments):
    """Exit code, stdout, stderr."""
    code = 0
    try:
        command_line(list(map(str, arguments)))
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_schema_is_json(capsys):
    _, out, _ = call(capsys, "schema")
    assert "LoRA" in json.loads(out)["$defs"]


def test_new_writes_a_script_that_passes_and_never_overwrites(in_tmp, capsys):
    code, out, _ = call(capsys, "new", "mine")
    assert code == 0
    assert "wrote mine.py" in out
    code, out, _ = call(capsys, "check", "mine.py", "--task.data.max-rows", 60)
    assert code == 0
    assert "no problem found" in out
    code, _, error = call(capsys, "new", "mine")
    assert code == 2
    assert "exists already" in error


def test_check_shows_an_example_and_trains_nothing(in_tmp, make_recipe, capsys):
    (in_tmp / "recipe.json").write_text(make_recipe().to_json())
    code, out, err = call(capsys, "check", "recipe.json", "--json")
    value = json.loads(out)
    assert code == 0
    assert value["example"][0]["text"].startswith("[CLS]")
    assert value["example"][1]["supervised"]
    assert value["trainable_parameters"] < value["total_parameters"]
    assert "train" in err
    assert [path.name for path in in_tmp.iterdir()] == ["recipe.json"]


def test_run_prints_one_json_object(in_tmp, make_recipe, capsys):
    (in_tmp / "recipe.json").write_text(make_recipe(HeadOnly(), max_steps=1).to_json())
    code, out, _ = call(capsys, "run", "recipe.json", "--json", "--output-dir", "out")
    assert code == 0
    assert json.loads(out)["folder"] == "out"
    assert (in_tmp / "out/receipt.html").is_file()


def test_errors_are_json_too_when_asked_for(in_tmp, capsys):
    code, out, _ = call(capsys, "run", "nothing.json", "--json")
    assert code == 2
    assert json.loads(out)["status"] == "error"


def test_overrides_reach_every_level(in_tmp, make_recipe, capsys):
    (in_tmp / "recipe.json").write_text(make_recipe().to_json())
    overrides = ["--method.r", 2, "--method.target-modules", "query", "--training.dropout", 0.2,
                 "--task.data.max-rows", 50, "--seed", 3]  # fmt: skip
    _, out, _ = call(capsys, "check", "recipe.json", "--json", *overrides)
    recipe = json.loads(out)["recipe"]
    assert recipe["method"]["r"] == 2
    assert recipe["method"]["target_modules"] == ["query"]
    assert recipe["training"]["dropout"] == 0.2
    assert recipe["task"]["data"]["max_rows"] == 50
    assert recipe["seed"] == 3


def test_predict_texts(run_folder, capsys):
    code, out, _ = call(
        capsys, "predict", run_folder, "--text", "a warm film", "--text", "坏", "--json"
    )
    answers = json.loads(out)["answers"]
    assert code == 0
    assert [answer["text"] for answer in answers] == ["a warm film", "坏"]
    assert all(a["label"] in ("good", "bad") and 0.5 <= a["probability"] <= 1 for a in answers)


def test_predict_files_keeps_rows_and_never_overwrites(run_folder, in_tmp, capsys):
    rows = [("1", "a, warm film"), ("2", "dark\nplot"), ("3", "坏")]
    write_csv(in_tmp / "in.csv", rows, header=("id", "text"))
    code, _, _ = call(capsys, "predict", run_folder, "--file", "in.csv", "--out", "out.csv")
    assert code == 0
    with (in_tmp / "out.csv").open(encoding="utf-8", newline="") as file:
        answered = list(csv.DictReader(file))
    assert [(row["id"], row["text"]) for row in answered] == rows
    assert {"predicted", "probability"} <= set(answered[0])
    code, _, error = call(capsys, "predict", run_folder, "--file", "in.csv", "--out", "out.csv")
    assert code == 2
    assert "exists already" in error


def test_predict_reads_a_file_in_the_encoding_that_is_given(run_folder, in_tmp, capsys):
    (in_tmp / "de.csv").write_bytes("text\nSchöne Grüße aus Köln\n".encode("cp1252"))
    files = ["--file", "de.csv", "--out", "out.csv", "--encoding", "cp1252"]
    assert call(capsys, "predict", run_folder, *files)[0] == 0
    assert "Schöne Grüße aus Köln" in (in_tmp / "out.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--text", "x"], "no folder `nowhere`"),
        (["RUN"], "give either `--text"),
        (["RUN", "--text", " "], "`--text` number 1 is empty"),
        (["RUN", "--file", "no.csv", "--out", "o.csv"], "no file `no.csv`"),
        (["RUN", "--file", "bad.csv", "--out", "o.csv"], "no column `text`"),
        (
            ["RUN", "--file", "bad.csv", "--out", "o.csv"],
            "name the columns of the file as in the training file",
        ),
        (["RUN", "--file", "de.csv", "--out", "o.csv"], "1 not UTF-8 (line 2)"),
        (["RUN", "--file", "de.csv", "--out", "o.csv"], "give `--encoding cp1252`"),
        (["RUN", "--file", "de.csv", "--out", "o.csv", "--encoding", "hex"], "called `hex`"),
        (["RUN", "--file", "bad.csv"], "needs `--out"),
        (["RUN", "--text", "a", "--text-pair", "b"], "leave `--text-pair` out"),
        ([".", "--text", "a"], "holds no adapter"),
    ],
)
def test_predict_refuses_nonsense(run_folder, in_tmp, capsys, arguments, message):
    (in_tmp / "bad.csv").write_text("review\nx\n")
    (in_tmp / "de.csv").write_bytes("text\nSchöne Grüße aus Köln\n".encode("cp1252"))
    arguments = [run_folder if a == "RUN" else a for a in arguments]
    code, _, error = call(capsys, "predict", *arguments)
    assert code == 2
    assert message in error
    assert not (in_tmp / "o.csv").exists()
