"""`peftkit rewind`: the curve, the choice by validation data, and an adapter that is one."""

from __future__ import annotations

import json
import math
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import peftkit as pk
from peftkit.adapters.record import Rewound
from peftkit.adapters.verifying import verify
from peftkit.cli.main import command_line
from peftkit.data.splits import load_splits
from peftkit.deploy.merging.merge import merge_to
from peftkit.deploy.rewinding.rewind import rewind
from peftkit.deploy.rewinding.scales import choose, parse_scales
from peftkit.errors import AdapterError, DataError, MethodError, OutputError, RecipeError
from peftkit.evaluation.retention import Retention, load_texts, text_loss
from peftkit.metrics.metric import Metric
from peftkit.recipe import Recipe
from peftkit.reports.rewind_report import Measured
from peftkit.run import run
from tests.conftest import sentences, write_csv

ACCURACY, LOSS = Metric("accuracy"), Metric("loss", higher_is_better=False)

IDS = torch.tensor([[5, 9, 3, 12, 7]])
WEIGHTS = "adapter/adapter_model.safetensors"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    rows = [[text] for text, _ in sentences(30, seed=5)]
    return write_csv(tmp_path_factory.mktemp("texts") / "texts.csv", rows, ["text"])


def test_a_chat_adapter_is_rewound(make_chat, texts, tmp_path, capsys):
    done = run(make_chat(learning_rate=3e-2, max_steps=6), str(tmp_path / "talk"))
    arguments = ["--scales", "0,0.4,0.8", "--retain", str(texts), "--choose", "0.4", "--json"]
    command_line(["rewind", str(done.folder), *arguments])
    report = json.loads(capsys.readouterr().out)
    folder = tmp_path / "talk-rewound"
    assert report["folder"] == str(folder)
    assert [point["scale"] for point in report["scales"]] == [0, 0.4, 0.8, 1]
    assert report["chosen"] == 0.4
    assert {**json.loads((folder / "rewind.json").read_text()), "folder": str(folder)} == report
    # scale 0 is the base, and 1 what the run has measured
    trained = done.record.test.after["loss"]
    assert report["test"]["trained"]["metrics"]["loss"] == pytest.approx(trained, abs=1e-5)
    assert report["scales"][0]["retention"] == report["base"]["retention"]
    loaded = pk.load(str(done.folder))
    found = text_loss(
        loaded.model, loaded.tokenizer, load_texts(Retention(path=str(texts))), 256,
        loaded.accelerator,
    )  # fmt: skip
    assert report["scales"][-1]["retention"] == pytest.approx(found, abs=1e-6)
    assert not report["notes"]
    # what was written: B times s, all else as it was
    before, after = load_file(done.folder / WEIGHTS), load_file(folder / WEIGHTS)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        expected = tensor * 0.4 if "lora_B" in name else tensor
        torch.testing.assert_close(after[name], expected, rtol=1e-6, atol=0)
    assert not verify(str(folder), "").problems
    base = AutoModelForCausalLM.from_pretrained(done.record.recipe.read().base.name_or_path)
    plain = logits(PeftModel.from_pretrained(base, str(folder / "adapter")))
    ours = pk.load(str(folder))
    torch.testing.assert_close(logits(ours.model), plain, rtol=1e-5, atol=1e-5)
    assert ours.predict(["What is it?"])[0].reply is not None
    assert ours.record.rewound == Rewound(0.4, loaded.record.weights)
    assert ours.record.metrics["after"] == report["test"]["chosen"]["metrics"]
    assert ours.record.metrics["not rewound"]["loss"] == trained
    card = (folder / "adapter/README.md").read_text()
    assert "Rewound by `peftkit rewind` to 0.4" in card
    assert loaded.record.weights["adapter_model.safetensors"][:12] in card
    again = rewind(str(folder), [0.5], Retention(path=str(texts)), 0.5, str(tmp_path / "again"))
    twice = pk.load(str(tmp_path / "again")).record
    assert again.report.chosen == 0.5
    assert twice.rewound == Rewound(0.2, ours.record.weights)  # of what was trained
    assert twice.metrics["not rewound"] == ours.record.metrics["not rewound"]
    merge_to(str(folder), str(tmp_path / "merged"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), plain, rtol=1e-4, atol=1e-4)
    with pytest.raises(OutputError, match="exists already"):
        rewind(str(done.folder), retention=Retention(path=str(texts)))


def test_a_classifier_is_rewound_by_its_validation_split(make_recipe, tmp_path):
    done = run(
        make_recipe(pk.FullFineTuning(), learning_rate=1e-3, max_steps=4), str(tmp_path / "run")
    )
    other = write_csv(tmp_path / "other.csv", sentences(90, seed=9))
    retention = Retention(path=str(other))
    report = rewind(str(done.folder), [0.5, 0.9], retention, 0.5, str(tmp_path / "half")).report
    assert report.retention_metric == report.metric == Metric("accuracy")
    assert 60 < report.retention_rows <= 90
    assert report.base.retention is None
    trained, half = (
        load_file(f / "adapter/model.safetensors") for f in (done.folder, tmp_path / "half")
    )
    assert torch.equal(trained["classifier.weight"], half["classifier.weight"])
    base = load_file(Path(done.record.recipe.read().base.name_or_path) / "model.safetensors")
    key = "encoder.layer.0.output.dense.weight"
    torch.testing.assert_close(half[f"bert.{key}"], (base[key] + trained[f"bert.{key}"]) / 2)
    loaded = pk.load(str(tmp_path / "half"))
    assert loaded.predict(["a warm film"])[0].label in ("good", "bad")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, bases) -> tuple[Path, Path]:
    """The folder of a classifier's run, and the file of its data."""
    folder = tmp_path_factory.mktemp("labelled")
    reviews = write_csv(folder / "reviews.csv", sentences(200))
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(bases["bert"])),
        task=pk.TextClassification(data=pk.Data(path=str(reviews))),
        method=pk.LoRA(r=4),
        training=pk.Training(learning_rate=1e-2, max_steps=8, batch_size=16),
    )
    return run(recipe, str(folder / "run")).folder, reviews


def test_nothing_is_written_where_scale_1_is_best(labelled, tmp_path, capsys):
    run_folder, _ = labelled
    folder = tmp_path / "rewound"
    options = ["--scales", "0.5", "--choose", "1", "--output", str(folder)]
    command_line(["rewind", str(run_folder), *options])
    assert "nothing to rewind" in " ".join(capsys.readouterr().out.split())
    assert sorted(file.name for file in folder.iterdir()) == ["rewind.json", "rewind.svg"]
    assert json.loads((folder / "rewind.json").read_text())["written"] is False
    assert ET.fromstring((folder / "rewind.svg").read_text()).tag.endswith("svg")


def test_other_data_than_that_of_the_training_is_noticed(labelled, tmp_path):
    run_folder, reviews = labelled
    swapped = {"good": "bad", "bad": "good"}
    kept = reviews.read_text()
    write_csv(reviews, [(text, swapped[label]) for text, label in sentences(200)])
    report = rewind(str(run_folder), [0.5], output=str(tmp_path / "rewound")).report
    reviews.write_text(kept)
    assert "the data is not the same" in report.notes[1]
    # without rows of another domain, the best validation score decides
    assert report.retention_metric is None
    assert report.to_json()["retention_metric"] == ""
    assert "`--retain PATH`" in report.notes[0]
    scores = {point.scale: point.validation for point in report.scales}
    assert report.chosen == (0.5 if scores[0.5] > scores[1.0] else 1.0)


def test_what_cannot_be_is_told_before_weights_are_loaded(labelled, tmp_path, monkeypatch):
    run_folder, reviews = labelled
    monkeypatch.setattr(
        "peftkit.deploy.rewinding.moved_model.load_proven",
        lambda *_: pytest.fail("weights are loaded"),
    )
    shutil.copytree(run_folder, tmp_path / "run")
    recipe = Recipe.from_json((run_folder / "recipe.json").read_text())
    other = recipe.with_(method=pk.PromptTuning(num_virtual_tokens=2))
    (tmp_path / "run/recipe.json").write_text(other.to_json())
    with pytest.raises(MethodError, match="virtual tokens"):
        rewind(str(tmp_path / "run"))
    odd = write_csv(tmp_path / "odd.csv", [["a film", "superb"]])
    with pytest.raises(DataError, match="`superb`"):
        rewind(str(run_folder), retention=Retention(path=str(odd)))
    bare = write_csv(tmp_path / "bare.csv", [["a film"]], ["text"])
    with pytest.raises(DataError, match="no column `label`"):
        rewind(str(run_folder), retention=Retention(path=str(bare)))
    row = load_splits(recipe.task, recipe.split_seed)[0].train[0].values
    seen = write_csv(tmp_path / "seen.csv", [[row["text"], row["label"]]])
    with pytest.raises(DataError, match="are in the training split"):
        rewind(str(run_folder), retention=Retention(path=str(seen)))
    with pytest.raises(RecipeError, match="needs a measured retention"):
        rewind(str(run_folder), allowed=0.1)
    with pytest.raises(DataError, match="data of the training is needed"):
        rewind(str(run_folder / "adapter"), base=recipe.base.name_or_path)
    kept = reviews.read_text()
    write_csv(reviews, [(text, f"very {label}") for text, label in sentences(120)])
    with pytest.raises(AdapterError, match="other classes"):
        rewind(str(run_folder))
    reviews.write_text(kept)
    assert sorted(file.name for file in run_folder.parent.iterdir()) == ["reviews.csv", "run"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.2..1.0", tuple(n / 10 for n in range(2, 11))),
        ("0.25..0.5", (0.25, 0.35, 0.45, 0.5, 1.0)),
        ("0.5,0.2,0.5", (0.2, 0.5, 1.0)),
        ("1", (1.0,)),
    ],
)
def test_scales_are_read(text, expected):
    assert parse_scales(text) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "text", ["", "a", "0.2..", "1..0.2", "0.2..1.4", "-1", "2", "nan", "0.2;0.3", "0.1..nan"]
)
def test_bad_scales_are_told_in_one_line(text, capsys, monkeypatch):
    with pytest.raises(RecipeError):
        parse_scales(text)
    monkeypatch.setattr("peftkit.cli.adapters.quiet_libraries", lambda: pytest.fail("torch"))
    with pytest.raises(SystemExit) as stopped:
        command_line(["rewind", "nowhere", f"--scales={text}"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: `--scales")
    assert "\n" not in error.partition("\n\nhint")[0]


def test_the_choice_is_made_by_validation_and_retention():
    def curve(*points):
        return [Measured(*point) for point in points]

    # losses: 0.4 is better on the target than 1 and retains most of those that are
    found = curve((0.2, 2.2, 3.0), (0.4, 1.9, 3.1), (0.8, 1.8, 3.3), (1.0, 2.0, 3.5))
    assert choose(found, LOSS, LOSS)[0] == 0.4
    # nothing else is as good as scale 1
    found = curve((0.5, 0.7, 3.0), (1.0, 0.9, 3.5))
    chosen, why = choose(found, ACCURACY, LOSS)
    assert chosen == 1.0
    assert why == "at every smaller scale the validation score is worse"
    # unless it may be a little worse
    chosen, why = choose(found, ACCURACY, LOSS, tolerance=0.25)
    assert chosen == 0.5
    assert why.endswith("not worse than at scale 1 by more than 0.25, it retains most")
    # ties go to the smaller scale; accuracies, both
    found = curve((0.4, 0.9, 0.8), (0.6, 0.9, 0.8), (1.0, 0.9, 0.7))
    assert choose(found, ACCURACY, ACCURACY)[0] == 0.4
    # without retention, the best validation score
    found = curve((0.4, 0.92), (0.6, 0.92), (1.0, 0.9))
    assert choose(found, ACCURACY, ACCURACY)[0] == 0.4
    assert math.isclose(choose(curve((0.5, 1.0), (1.0, 0.5)), LOSS, LOSS)[0], 1.0)
