"""Classifiers of other programs: what their outputs are, and whose head they are."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.cli.main import command_line
from peftkit.errors import AdapterError, RecipeError
from tests.conftest import save_tokenizer, write_csv

TEXTS = ["a warm film", "the cold plot of it"]
AUTO = {"SEQ_CLS": AutoModelForSequenceClassification, "TOKEN_CLS": AutoModelForTokenClassification}


@pytest.fixture(scope="module")
def make_base(tmp_path_factory, bases):
    """A BERT with a classifier of its own: `make_base(labels, task_type, **config)`."""
    folder = tmp_path_factory.mktemp("bases")

    def make(labels: int, task_type: str = "SEQ_CLS", **config: Any) -> Path:
        target = folder / f"{len(list(folder.iterdir()))}"
        torch.manual_seed(1)
        model = AUTO[task_type].from_pretrained(bases["bert"], num_labels=labels)
        model.classifier.weight.data.normal_(std=0.5)
        model.save_pretrained(target)
        save_tokenizer(target, "bert")
        file = target / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        return target

    return make


def logits(model: Any, tokenizer: Any, *pairs: Any) -> torch.Tensor:
    given = tokenizer(TEXTS, *pairs, return_tensors="pt", padding=True)
    with torch.no_grad():
        return model.eval()(**given).logits


def make_adapter(
    base: Path, folder: Path, labels: int | None = None, task_type: str | None = "SEQ_CLS",
    auto: Any = AutoModelForSequenceClassification, **config: Any,
) -> torch.Tensor:  # fmt: skip
    """What plain PEFT leaves of a LoRA; gives what the model puts out for `TEXTS`."""
    torch.manual_seed(2)
    size = {} if labels is None else {"num_labels": labels}
    model = auto.from_pretrained(base, **size)
    settings = {"target_modules": ["query"], **config}
    injected = get_peft_model(model, LoraConfig(r=4, task_type=task_type, **settings))
    for name, parameter in injected.named_parameters():
        if parameter.requires_grad and "classifier.original" not in name:
            parameter.data.normal_(std=0.2)
    injected.save_pretrained(folder)
    return logits(injected, AutoTokenizer.from_pretrained(base))


def without_head(folder: Path) -> Path:
    file = folder / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if "classifier" not in n}, file)
    return folder


def scores(answers: Any) -> list[float]:
    return [answer.score for answer in answers]


def test_one_output_is_answered_with_its_number_everywhere(bases, tmp_path, capsys):
    base, folder = str(bases["bert"]), tmp_path / "a"
    expected = make_adapter(bases["bert"], folder, labels=1)[:, 0].tolist()
    assert expected[0] != pytest.approx(expected[1], abs=1e-3)
    told = [f for f in verify(str(folder), base).all if f.check == "answers"]
    assert [f.result for f in told] == ["ok"]
    assert "it answers with that number (`score`), unchanged" in told[0].found
    adapter = pk.load(str(folder), base)
    assert scores(adapter.predict(TEXTS)) == pytest.approx(expected, abs=1e-5)
    given = [part for text in TEXTS for part in ("--text", text)]
    command_line(["predict", str(folder), "--base", base, *given])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{n:.4f}  {text}" for n, text in zip(expected, TEXTS, strict=True)]
    command_line(["predict", str(folder), "--base", base, *given, "--json"])
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [sorted(answer) for answer in answers] == [["score", "text"]] * 2
    assert [answer["score"] for answer in answers] == pytest.approx(expected, abs=1e-5)
    rows = write_csv(tmp_path / "rows.csv", [[text] for text in TEXTS], ["text"])
    files = ["--file", str(rows), "--out", str(tmp_path / "out.csv")]
    command_line(["predict", str(folder), "--base", base, *files])
    with (tmp_path / "out.csv").open() as opened:
        written = list(csv.DictReader(opened))
    assert [sorted(row) for row in written] == [["score", "text"]] * 2
    assert [float(row["score"]) for row in written] == pytest.approx(expected, abs=1e-5)


def test_a_reranker_reads_a_question_with_its_passage(bases, tmp_path, capsys):
    base, folder = bases["bert"], tmp_path / "a"
    make_adapter(base, folder, labels=1)
    adapter = pk.load(str(folder), str(base))
    passages = ["the film", "music of it"]
    given = [{"text": t, "text_pair": p} for t, p in zip(TEXTS, passages, strict=True)]
    expected = logits(adapter.model, adapter.tokenizer, passages)[:, 0].tolist()
    assert scores(adapter.predict(given)) == pytest.approx(expected, abs=1e-5)
    assert scores(adapter.predict(TEXTS)) != pytest.approx(expected, abs=1e-3)
    with pytest.raises(RecipeError, match="1 of 2 inputs have a `text_pair`"):
        adapter.predict([given[0], TEXTS[1]])
    asked = ["predict", str(folder), "--base", str(base)]
    command_line([*asked, "--text", TEXTS[0], "--text-pair", passages[0]])
    assert capsys.readouterr().out == f"{expected[0]:.4f}  {TEXTS[0]}\n"
    rows = zip(TEXTS, passages, "12", strict=True)
    file = write_csv(tmp_path / "rows.csv", rows, ["text", "text_pair", "score"])
    command_line([*asked, "--file", str(file), "--out", str(tmp_path / "out.csv")])
    with (tmp_path / "out.csv").open() as opened:
        written = list(csv.DictReader(opened))
    assert [row["score"] for row in written] == ["1", "2"]
    found = [float(row["predicted_score"]) for row in written]
    assert found == pytest.approx(expected, abs=1e-5)


SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"
OLD = "sbert_ce_default_activation_function"


@pytest.mark.parametrize(
    ("config", "sigmoid"),
    [
        ({}, False),
        ({"problem_type": "regression"}, False),
        ({"problem_type": "multi_label_classification"}, True),
        ({"sentence_transformers": {"activation_fn": SIGMOID}}, True),
        ({"sentence_transformers": {"activation_fn": IDENTITY}}, False),
        ({OLD: SIGMOID, "problem_type": "regression"}, True),
        ({OLD: IDENTITY, "problem_type": "multi_label_classification"}, False),
    ],
)
def test_a_sigmoid_is_computed_where_the_base_says_so(make_base, tmp_path, config, sigmoid):
    base = make_base(1, **config)
    expected = make_adapter(base, tmp_path / "a", task_type=None)[:, 0]
    found = scores(pk.load(str(tmp_path / "a"), str(base)).predict(TEXTS))
    expected = expected.double().sigmoid() if sigmoid else expected
    assert found == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "config", "told"),
    [
        (3, {"problem_type": "multi_label_classification"}, "several of its 3 classes may hold"),
        (3, {"problem_type": "regression"}, "its 3 outputs are numbers, not classes"),
        (1, {OLD: "torch.nn.modules.activation.Tanh"}, "asks for `torch.nn.modules.activation.T"),
    ],
)
def test_what_is_no_class_is_not_answered_with_one(make_base, tmp_path, labels, config, told):
    base = make_base(labels, **config)
    for number, task_type in enumerate(("SEQ_CLS", None)):
        folder = tmp_path / f"{number}"
        expected = make_adapter(base, folder, task_type=task_type)
        findings = verify(str(folder), str(base))
        assert not findings.problems
        assert any(told in f.found for f in findings.all if f.check == "answers")
        adapter = pk.load(str(folder), str(base))
        with pytest.raises(AdapterError, match="no answers to texts") as caught:
            adapter.predict(TEXTS)
        assert told in caught.value.message
        found = logits(adapter.model, adapter.tokenizer)
        assert (found - expected).abs().max() < 1e-5


def test_several_classes_are_answered_as_ever(make_base, tmp_path):
    base = make_base(3, problem_type="single_label_classification")
    expected = make_adapter(base, tmp_path / "a").softmax(dim=1)
    answers = pk.load(str(tmp_path / "a"), str(base)).predict(TEXTS)
    assert [a.probability for a in answers] == pytest.approx(expected.amax(dim=1).tolist())


TYPES = [("SEQ_CLS", None), ("SEQ_CLS", "SEQ_CLS"), ("TOKEN_CLS", None), ("TOKEN_CLS", "TOKEN_CLS")]


@pytest.mark.parametrize(("kind", "task_type"), TYPES)
@pytest.mark.parametrize("mapping", [True, False], ids=["mapping", "no mapping"])
def test_the_base_s_own_head_counts(make_base, tmp_path, kind, task_type, mapping):
    base, folder = make_base(3, kind), tmp_path / "a"
    expected = make_adapter(base, folder, task_type=None, auto=AUTO[kind])
    file = folder / "adapter_config.json"
    config = {**json.loads(file.read_text()), "task_type": task_type}
    if not mapping:
        config["auto_mapping"] = None
    if task_type:  # as PEFT names what it takes for a part of such an adapter
        config["modules_to_save"] = ["classifier", "score"]
    file.write_text(json.dumps(config))
    findings = verify(str(folder), str(base))
    assert not findings.problems
    told = " ".join(f"{f.found} {f.meaning}" for f in findings.all)
    assert ("the base's trained classifier is used" in told) == (kind == "SEQ_CLS")
    adapter = pk.load(str(folder), str(base))
    assert (logits(adapter.model, adapter.tokenizer) - expected).abs().max() < 1e-5
    if kind == "SEQ_CLS":
        answers = adapter.predict(TEXTS)
        assert [a.label for a in answers] == [f"LABEL_{n}" for n in expected.argmax(dim=1)]


def test_a_lora_of_the_classifier_is_beside_the_base_s(make_base, tmp_path):
    base, folder = make_base(3), tmp_path / "a"
    expected = make_adapter(base, folder, task_type=None, target_modules=["query", "classifier"])
    assert not verify(str(folder), str(base)).problems
    adapter = pk.load(str(folder), str(base))
    assert (logits(adapter.model, adapter.tokenizer) - expected).abs().max() < 1e-5
    assert adapter.record.head.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_a_base_without_a_head_is_still_refused(make_base, bases, tmp_path):
    for kind, told in (("SEQ_CLS", "no tensor of the classifier"), ("TOKEN_CLS", "has no weights")):
        folder = tmp_path / kind
        make_adapter(make_base(3, kind), folder, task_type=None, auto=AUTO[kind])
        (problem,) = verify(str(folder), str(bases["bert"])).problems
        assert told in problem.found
    lying = make_base(3)  # it says that it is a classifier, and has no weights for one
    file = lying / "model.safetensors"
    kept = {n: t for n, t in load_file(file).items() if "classifier" not in n}
    save_file(kept, file, metadata={"format": "pt"})
    (problem,) = verify(str(tmp_path / "SEQ_CLS"), str(lying)).problems
    assert "has no weights for `classifier" in problem.found


def test_the_adapter_s_own_head_goes_before_the_base_s(make_base, tmp_path):
    base = make_base(3)
    expected = make_adapter(base, tmp_path / "a")
    found = pk.load(str(tmp_path / "a"), str(base))
    assert (logits(found.model, found.tokenizer) - expected).abs().max() < 1e-5
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    other = pk.load(str(without_head(tmp_path / "b")), str(base))
    assert (logits(other.model, other.tokenizer) - expected).abs().max() > 1e-2


def test_an_adapterhub_head_with_one_label_answers_with_its_number(bases, tmp_path):
    from tests.test_published import (
        HEADS,
        IDS,
        PFEIFFER,
        hub_folder,
        hub_tensors,
        linear,
        with_head,
    )

    folder, layer = hub_folder(tmp_path / "hub", PFEIFFER, hub_tensors(PFEIFFER)), linear(1)
    head = {**HEADS["pooler"], "num_labels": 1, "label2id": {"LABEL_0": 0}}
    with_head(folder, head, **{"1_weight": layer.weight, "1_bias": layer.bias})
    assert not verify(str(folder), str(bases["bert"])).problems
    adapter = pk.load(str(folder), str(bases["bert"]))
    assert adapter.model(input_ids=IDS).logits.shape == (1, 1)
    expected = logits(adapter.model, adapter.tokenizer)[:, 0].tolist()
    assert scores(adapter.predict(TEXTS)) == pytest.approx(expected, abs=1e-5)
