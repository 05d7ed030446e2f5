"""The whole line: what a run leaves, that it can be trusted, and that it can be repeated."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

import peftkit
from peftkit import Data, FullFineTuning, HeadOnly, LoRA, TextClassification
from peftkit.cli.main import command_line
from peftkit.errors import AdapterError, OutputError, PeftkitError
from peftkit.recipe import Recipe
from peftkit.run import run
from peftkit.tasks.score import Parts
from tests.conftest import call_forked, sentences, write_csv

METHODS = [LoRA(r=4), HeadOnly(), FullFineTuning()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_recipe, bases, reviews):
    """One finished run of each method: kind -> Run."""
    folder = tmp_path_factory.mktemp("runs")
    # the first run of a process imports PEFT's and others' code while it saves: no peak of a run
    run(make_recipe(max_steps=1), str(folder / "first"))
    runs = {}
    for method in METHODS:
        recipe = Recipe(
            base=peftkit.Base(name_or_path=str(bases["bert"])),
            task=TextClassification(data=Data(path=str(reviews))),
            method=method,
            training=peftkit.Training(num_epochs=2, batch_size=16, learning_rate=5e-3),
            name="tiny",
        )
        runs[method.kind()] = run(recipe, str(folder / method.kind()))
    return runs


@pytest.mark.parametrize("kind", ["LoRA", "HeadOnly", "FullFineTuning"])
class TestEveryRun:
    def test_leaves_the_promised_files(self, finished, kind):
        folder = finished[kind].folder
        weights = {
            "LoRA": {"adapter_config.json", "adapter_model.safetensors"},
            "HeadOnly": {"trained.safetensors"},
            "FullFineTuning": {"config.json", "model.safetensors"},
        }[kind]
        names = {path.name for path in (folder / "adapter").iterdir()}
        assert weights | {"peftkit.json", "README.md"} <= names
        top = {path.name for path in folder.iterdir()}
        assert top == {"adapter", "recipe.json", "run.json", "receipt.html", "by_example.json"}

    def test_run_json_has_the_promised_fields(self, finished, kind):
        record = json.loads((finished[kind].folder / "run.json").read_text())
        for name in ("before", "after"):
            assert {"accuracy", "macro_f1", "weighted_f1", "loss"} <= set(record["test"][name])
        assert record["test"]["baseline"]["majority"]["accuracy"] == pytest.approx(0.5, abs=0.05)
        assert set(record["seconds"]) >= {"prepare", "load", "train", "evaluate"}
        assert record["trainable_parameters"] > 0
        assert record["peak_memory_mb"] == max(
            mb for stage, mb in record["peaks_mb"].items() if stage not in ("save", "check")
        )
        assert {"evaluate", "train", "validate", "check"} <= set(record["peaks_mb"])
        assert record["versions"]["torch"] == torch.__version__
        assert record["ledger"]["splits"]["train"]["rows"] == 140
        assert 0 <= record["ledger"]["splits"]["train"]["padding"] < 1

    def test_the_scores_come_from_what_their_examples_give(self, finished, kind):
        record = finished[kind].record
        task = record.recipe.read().task
        by_example = json.loads((finished[kind].folder / "by_example.json").read_text())
        assert set(by_example) == {"accuracy", "loss", "macro_f1", "weighted_f1"}
        for name, parts in by_example.items():
            sums = Parts(parts["columns"], parts["num_labels"]).table.sum(axis=0)
            score = task.metric(name).statistic(sums)
            assert score == pytest.approx(record.test.after[name], rel=1e-5)

    def test_the_adapter_answers_as_the_report_says(self, finished, kind, reviews):
        record = finished[kind].record
        adapter = peftkit.load(str(finished[kind].folder))
        rows = {row.text: row.expected for row in record.test.mistakes}
        answers = adapter.predict(list(rows))
        assert all(a.label != expected for a, expected in zip(answers, rows.values(), strict=True))

    def test_what_is_published_has_no_rows_and_no_local_paths(self, finished, kind, reviews):
        texts = [line.split(",")[0] for line in reviews.read_text().splitlines()[1:]]
        for file in (finished[kind].folder / "adapter").iterdir():
            content = file.read_bytes().decode("utf-8", errors="replace")
            assert str(reviews.parent) not in content, file
            assert "/tmp" not in content, file
            assert not any(text in content for text in texts), file

    def test_the_same_recipe_gives_the_same_bytes(self, finished, kind, tmp_path):
        folder = finished[kind].folder
        recipe = Recipe.from_json((folder / "recipe.json").read_text())
        again = run(recipe, str(tmp_path / "again")).folder
        (file,) = (folder / "adapter").glob("*.safetensors")
        assert (again / "adapter" / file.name).read_bytes() == file.read_bytes()

    def test_a_changed_weight_file_is_refused(self, finished, kind, tmp_path):
        import shutil

        shutil.copytree(finished[kind].folder, tmp_path / "copy")
        (file,) = (tmp_path / "copy" / "adapter").glob("*.safetensors")
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        with pytest.raises(AdapterError, match="holds other values than were saved"):
            peftkit.load(str(tmp_path / "copy"))

    def test_a_changed_configuration_is_refused_and_a_reformatted_one_is_not(
        self, finished, kind, tmp_path
    ):
        import shutil

        folder = tmp_path / "copy"
        shutil.copytree(finished[kind].folder, folder)
        for file in (folder / "adapter").glob("*config.json"):
            content = json.loads(file.read_text())
            file.write_text(json.dumps(content))
            peftkit.load(str(folder))
            file.write_text(json.dumps({**content, "lora_alpha": 99, "extra": 1}))
            with pytest.raises(
                AdapterError, match=r"in adapter_config.json is|is not as it was saved"
            ):
                peftkit.load(str(folder))
            file.unlink()
            with pytest.raises(AdapterError, match="is missing"):
                peftkit.load(str(folder))
            file.write_text(json.dumps(content))

    def test_another_base_of_the_same_shape_is_refused(self, finished, kind, bases, tmp_path):
        from transformers import AutoModel, AutoTokenizer

        model = AutoModel.from_pretrained(bases["bert"])
        with torch.no_grad():
            model.embeddings.word_embeddings.weight[50] += 1
        model.save_pretrained(tmp_path / "other")
        AutoTokenizer.from_pretrained(bases["bert"]).save_pretrained(tmp_path / "other")
        with pytest.raises(AdapterError, match="is not the base of this adapter"):
            peftkit.load(str(finished[kind].folder), base=str(tmp_path / "other"))

    def test_another_tokenizer_is_refused(self, finished, kind, bases, tmp_path):
        import shutil

        shutil.copytree(bases["bert"], tmp_path / "other")
        file = tmp_path / "other/tokenizer.json"
        content = json.loads(file.read_text())
        content["normalizer"] = None  # the vocabulary stays the same
        file.write_text(json.dumps(content))
        with pytest.raises(AdapterError, match="is not the one the adapter was trained with"):
            peftkit.load(str(finished[kind].folder), base=str(tmp_path / "other"))

    def test_the_receipt_is_one_offline_file_with_everything_in_it(self, finished, kind):
        text = (finished[kind].folder / "receipt.html").read_text()
        assert not re.search(r'(src|href)="(?!#|data:)', text), "nothing is fetched"
        assert "@import" not in text
        for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
            ET.fromstring(svg)
        for expected in ("majority", "Confusion", "peftkit predict", "recipe.json", "padding"):
            assert expected in text


def test_plain_peft_gives_equal_logits_in_a_fresh_process(finished, bases):
    folder = finished["LoRA"].folder / "adapter"
    code = f"""
import torch, json
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
torch.manual_seed(99)
base = AutoModelForSequenceClassification.from_pretrained({str(bases["bert"])!r}, num_labels=2)
model = PeftModel.from_pretrained(base, {str(folder)!r}).eval()
print(json.dumps(model(input_ids=torch.tensor([[2, 9, 11, 14, 3]])).logits.tolist()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = peftkit.load(str(finished["LoRA"].folder)).model
    expected = ours(input_ids=torch.tensor([[2, 9, 11, 14, 3]])).logits
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_runs_are_numbered_and_nothing_is_overwritten(make_recipe, in_tmp):
    first = run(make_recipe(HeadOnly(), max_steps=1)).folder
    digest = (first / "run.json").read_bytes()
    second = run(make_recipe(HeadOnly(), max_steps=1)).folder
    assert (str(first), str(second)) == ("runs/tiny", "runs/tiny-2")
    assert (first / "run.json").read_bytes() == digest
    with pytest.raises(OutputError, match="exists already"):
        run(make_recipe(HeadOnly(), max_steps=1), str(first))


def test_a_run_that_fails_leaves_no_folder(make_recipe, in_tmp):
    with pytest.raises(PeftkitError):
        run(make_recipe(FullFineTuning(), learning_rate=1e6, max_grad_norm=0, num_epochs=9))
    assert not list(in_tmp.rglob("*.json"))


def test_an_adapter_that_reads_back_differently_is_not_called_saved(make_recipe, in_tmp):
    class ForgetsTheHead(LoRA):
        """Saves an adapter whose head is that of the base."""

        def load(self, model, folder, head):
            loaded = super().load(model, folder, head)
            torch.nn.init.normal_(loaded.base_model.model.classifier.modules_to_save.default.weight)
            return loaded

    with pytest.raises(AdapterError, match="answers differently"):
        run(make_recipe(max_steps=2).with_(method=ForgetsTheHead(r=2)))
    assert not (in_tmp / "runs/tiny/adapter").exists()


def formats(folder: Path) -> dict[str, Path]:
    """The same rows in every format, with Chinese and quoted cells."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(text, label) for text, label in sentences(90)]
    rows[3] = ('the "great" film, very', "good")
    for n in range(60):
        words = f"服务 很 {'不错' if n % 3 == 0 else '慢'} {GOOD_CN[n % 3]} word{n % 20}"
        rows.append((words, LABELS_CN[n % 3]))
    folder.mkdir(exist_ok=True)
    plain = write_csv(folder / "plain.csv", rows)
    dos = plain.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    (folder / "bom.csv").write_bytes(b"\xef\xbb\xbf" + dos)
    objects = [{"text": text, "label": label} for text, label in rows]
    lines = "".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    (folder / "rows.json").write_text(json.dumps(objects), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(objects), folder / "rows.parquet")
    return {path.name: path for path in folder.iterdir()}


GOOD_CN = ("好", "一般", "坏")
LABELS_CN = ("好评", "中评", "$x_$ <差评>")


def test_every_format_gives_the_same_result_as_the_plain_csv(make_recipe, tmp_path):
    digests = {}
    for name, path in formats(tmp_path / "data").items():
        recipe = make_recipe(LoRA(r=2), data=path, max_steps=3)
        done = run(recipe, str(tmp_path / name.replace(".", "-")))
        weights = (done.folder / "adapter/adapter_model.safetensors").read_bytes()
        digests[name] = (hash(weights), str(done.record.test.after))
        labels = [row[0] for row in done.record.test.tables[0].rows]
        assert labels == sorted(["bad", "good", *LABELS_CN])
    assert len(digests) == 5
    assert len(set(digests.values())) == 1, digests


FOREIGN = '''
from typing import ClassVar
from peftkit import Data, HeadOnly, TextClassification, Base, Recipe, Training, main

class Gentle(HeadOnly):
    """Head only, with a field of its own."""
    strength: float = 0.5
    """How gentle."""

class Shouting(TextClassification):
    """Reads everything in capitals, which an uncased tokenizer does not mind."""
    marks: int = 1
    """Exclamation marks."""

def recipe():
    return Recipe(
        base=Base(name_or_path=BASE),
        task=Shouting(data=Data(path=DATA), marks=3),
        method=Gentle(strength=0.25),
        training=Training(max_steps=2),
    )

if __name__ == "__main__":
    main(recipe)
'''


def test_classes_from_elsewhere_work_and_rerun_only_when_trusted(in_tmp, bases, reviews):
    code = FOREIGN.replace("BASE", repr(str(bases["bert"]))).replace("DATA", repr(str(reviews)))
    (in_tmp / "mine.py").write_text(code)

    def script(*arguments):
        sys.argv = ["mine.py", *arguments]
        runpy.run_path("mine.py", run_name="__main__")

    def call(function, *arguments):
        def alone():
            sys.modules.pop("mine", None)  # another test's module of that name
            function(*arguments)

        return call_forked(alone, in_tmp)

    done = call(script, "--method.strength", "0.75")
    assert done.returncode == 0, done.stderr
    recipe = json.loads((in_tmp / "runs/mine/recipe.json").read_text())
    assert recipe["method"] == {"kind": "mine:Gentle", "strength": 0.75}
    assert recipe["task"]["kind"] == "mine:Shouting"
    assert recipe["task"]["marks"] == 3
    refused = call(command_line, ["run", "runs/mine/recipe.json"])
    assert refused.returncode == 2
    assert "imported only with `--trust-module mine`" in refused.stderr
    assert "Traceback" not in refused.stderr
    again = call(command_line, ["run", "runs/mine/recipe.json", "--trust-module", "mine.py"])
    assert again.returncode == 0, again.stderr
    weights = [
        (in_tmp / name / "adapter/trained.safetensors").read_bytes()
        for name in ("runs/mine", "runs/mine-2")
    ]
    assert weights[0] == weights[1]
    question = ["--text", "good", "--trust-module", "mine"]
    answered = call(command_line, ["predict", "runs/mine", *question])
    assert answered.returncode == 0, answered.stderr
