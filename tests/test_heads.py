"""Heads whose outputs are not one for each label: a number, and labels that do not exclude each
other, through the whole line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.data.encoded import Encoded, Examples
from peftkit.data.head import Head
from peftkit.deploy.merging.merge import merge_to
from peftkit.metrics.bootstrap import sums_interval
from peftkit.metrics.metric import Metric, mean
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.tasks.answers import Scored
from peftkit.tasks.encoding.text_encoding import encode_texts
from peftkit.tasks.losses import Loss
from peftkit.tasks.score import Parts, Score
from tests.conftest import sentences, write_csv

WORDS = ("bright", "dark")


@dataclass(frozen=True)
class SquaredError(Loss):
    """Of each number."""

    def values(self, outputs, targets):
        return (outputs - targets).square().sum(dim=1)

    def count(self, examples, indices):
        return float(len(indices))


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Of each label on its own."""

    def values(self, outputs, targets):
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(dim=1)

    def count(self, examples, indices):
        return float(len(indices))


class CountedWords(pk.TextClassification):
    """How often some words are in a text: a number, or whether each is there."""

    decides = False
    several: bool = False
    """Whether there is an output for each of `WORDS`, not one for their number."""

    def check_rows(self, rows):
        """Any rows will do."""

    def check_splits(self, splits):
        """And any splits."""

    def remarks(self, splits):
        return ()

    def wanted(self, text: str) -> list[float]:
        """What is learned of a text."""
        counts = [text.split().count(word) for word in WORDS]
        return [float(count > 0) for count in counts] if self.several else [float(sum(counts))]

    def own_head(self) -> Head:
        """One output, or one for each word."""
        kind = "multi_label_classification" if self.several else "regression"
        own = {"auto_class": "AutoModelForSequenceClassification", "pooling": ""}
        if self.pooling != "head":
            own = {"auto_class": "AutoModel", "pooling": self.pooling}
        labels, size = (WORDS, None) if self.several else ((), 1)
        return Head(task_type="SEQ_CLS", labels=labels, size=size, problem_type=kind, **own)

    def encode(self, splits, base):
        parts = {}
        for name, rows in splits.named().items():
            texts = [row.values["text"] for row in rows]
            read = encode_texts(texts, None, base.tokenizer, self.max_length)
            targets = np.array([self.wanted(text) for text in texts], np.float32)
            parts[name] = Examples(tuple(rows), read.inputs, targets)
        return Encoded(**parts, head=self.own_head(), pad_token_id=base.tokenizer.pad_token_id)

    def loss(self, training=None):
        return BinaryCrossEntropy() if self.several else SquaredError()

    scores = ("error",)

    def metric(self, name):
        return Metric(name, higher_is_better=False)

    def metrics(self, kept, examples, head, decision):
        guesses = (kept > 0).astype(float) if self.several else kept
        errors = np.abs(guesses - examples.targets).mean(axis=1)
        table = np.stack([errors, np.ones(len(errors))], axis=1)
        interval = sums_interval(table, mean)
        return Score({"error": float(errors.mean())}, {"error": interval},
                     parts={"error": Parts.of(table)})  # fmt: skip

    def baselines(self, encoded):
        return {}

    def answers(self, kept, examples, head, decision):
        return [Scored(float(row[0])) for row in kept]


@pytest.fixture(scope="module", params=[(False, "head"), (False, "mean"), (True, "head")],
                ids=["number", "number of a mean", "labels"])  # fmt: skip
def finished(request, bases, tmp_path_factory):
    several, pooling = request.param
    folder = tmp_path_factory.mktemp("heads")
    texts = [text for text, _ in sentences(160)]
    rows = write_csv(folder / "rows.csv", [(text, "none") for text in dict.fromkeys(texts)])
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(bases["bert"])),
        task=CountedWords(data=pk.Data(path=str(rows)), several=several, pooling=pooling),
        method=pk.LoRA(r=8, lora_alpha=16),
        training=pk.Training(learning_rate=5e-3, num_epochs=10, batch_size=16),
        name="counted",
    )
    return run(recipe, str(folder / "run")), recipe


def test_it_is_learned_saved_and_verified(finished):
    done, recipe = finished
    test = done.record.test
    assert test.after["loss"] < 0.8 * test.before["loss"]
    assert verify(str(done.folder)).problems == []
    head = json.loads((done.folder / "adapter" / "peftkit.json").read_text())["head"]
    assert head.get("size") == (None if recipe.task.several else 1)
    assert ("size" in head) is not recipe.task.several
    texts = [row.values["text"] for row in prepare(recipe).encoded.test.rows[:3]]
    answers = pk.load(str(done.folder)).predict(texts)
    assert all(np.isfinite(answer.score) for answer in answers)


def test_transformers_reads_the_merged_model_as_it_is(finished, tmp_path):
    done, recipe = finished
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    assert report.relative <= report.tolerance
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["problem_type"] == recipe.task.own_head().problem_type
    if recipe.task.pooling != "head":
        return
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    text = "the bright film"
    [answer] = pk.load(str(done.folder)).predict([text])
    with torch.no_grad():
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
    assert float(logits[0]) == pytest.approx(answer.score, abs=1e-4)
    [said] = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)([text])
    first = next(entry["score"] for entry in said if entry["label"].endswith(("0", WORDS[0])))
    meant = torch.sigmoid(logits[0]) if recipe.task.several else logits[0]
    assert first == pytest.approx(float(meant), abs=1e-4)


def test_the_card_loads_a_head_of_its_size(finished):
    done, recipe = finished
    card = (done.folder / "adapter" / "README.md").read_text()
    if recipe.task.pooling == "head":
        assert f'problem_type="{recipe.task.own_head().problem_type}"' in card
        assert f"num_labels={recipe.task.own_head().num_outputs}" in card
