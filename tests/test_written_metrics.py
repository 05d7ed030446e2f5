"""Metrics of written texts, and of labels, as sums over rows; and runs that are judged by them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score

import peftkit as pk
from peftkit.adapters.loading import open_adapter
from peftkit.deploy.rewinding.rewind import rewind
from peftkit.errors import DataError
from peftkit.evaluation.writing import with_references
from peftkit.metrics.bleu import bleu_metric
from peftkit.metrics.chrf import CHRF_SCORE
from peftkit.metrics.classification import label_counts, macro_f1, weighted_f1
from peftkit.metrics.exact_number import EXACT_NUMBER
from peftkit.metrics.metric import Written
from peftkit.metrics.rouge import NAMES, ROUGE
from peftkit.metrics.written_texts import SHARES, WRITTEN
from peftkit.reports.run_record import read_run
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.tasks.score import Parts
from tests.conftest import call_forked, run_in_two_processes, write_jsonl
from tests.tiny_translator import pairs, save_translator

ALPHABET = "ab é中文 .,"
TEXTS = st.lists(
    st.tuples(
        st.text(ALPHABET, max_size=12),
        st.lists(st.text(ALPHABET, max_size=12), min_size=1, max_size=3),
    ),
    min_size=1, max_size=6,
)  # fmt: skip
"""Written texts with their references."""


def written_texts(texts):
    """The texts, and sacrebleu's form of them: written texts, and streams of references."""
    most = max(len(references) for _, references in texts)
    streams = [[r[n] if n < len(r) else None for _, r in texts] for n in range(most)]
    return [Written(text, tuple(r)) for text, r in texts], [text for text, _ in texts], streams


@settings(max_examples=30, deadline=None)
@given(TEXTS)
def test_chrf_is_sacrebleus(texts):
    found, written, references = written_texts(texts)
    table = CHRF_SCORE.parts(found)
    assert table.shape == (len(texts), 18)
    whole = sacrebleu.corpus_chrf(written, references).score / 100
    assert CHRF_SCORE.statistic(table.sum(axis=0)) == pytest.approx(whole, abs=1e-12)
    assert CHRF_SCORE.statistic(table).shape == (len(texts),)


@pytest.mark.parametrize("tokenizer", ["13a", "zh", "char"])
@settings(max_examples=30, deadline=None)
@given(TEXTS)
def test_bleu_is_sacrebleus(tokenizer, texts):
    metric = bleu_metric(tokenizer)
    found, written, references = written_texts(texts)
    table = metric.parts(found)
    whole = sacrebleu.corpus_bleu(written, references, tokenize=tokenizer, force=True).score / 100
    assert metric.statistic(table.sum(axis=0)) == pytest.approx(whole, abs=1e-12)
    assert metric.statistic(table).shape == (len(texts),)


def test_signatures_are_sacrebleus():
    texts = [Written("a b", ("a b", "a c")), Written("a", ("a", "b"))]
    for metric, theirs in (
        (bleu_metric("zh"), sacrebleu.BLEU(tokenize="zh")), (CHRF_SCORE, sacrebleu.CHRF()),
    ):  # fmt: skip
        theirs.corpus_score(["a b", "a"], [["a b", "a"], ["a c", "b"]])
        assert with_references(metric.signature, texts) == str(theirs.get_signature())


def test_rouge_is_rouge_scores_and_the_best_reference_counts():
    """In English; other scripts are in TestRougeL."""
    references = ("the cat sat on the mat", "a dog lay there")
    text = "the dog sat on a mat there"
    scorer = RougeScorer(list(NAMES.values()))
    for name, kind in NAMES.items():
        best = max(scorer.score(reference, text)[kind].fmeasure for reference in references)
        metric = ROUGE[name]
        assert metric.statistic(metric.parts([Written(text, references)])[0]) == best


@pytest.mark.parametrize(
    ("text", "reference", "source", "odd"),
    [
        ("fine words", "right words", "a source", ""),
        (" ... ", "right words", "a source", "empty"),
        ("A source!", "right words", "a source", "copied"),
        ("a source", "A source", "a source", ""),  # the right answer
        ("", "right", "", "empty"),
        ("a b c d a b c d a b c d", "right", "a source", "repeating"),
        ("a b c d a b c d", "right", "a source", ""),
        ("我爱你们我爱你们我爱你们", "right", "a source", "repeating"),
        ("do re mi fa " * 3, "do re mi fa " * 4, "sing", ""),
    ],
)
def test_odd_texts_are_counted(text, reference, source, odd):
    for name, metric in SHARES.items():
        [(value, weight)] = metric.parts([Written(text, ("other words", reference), source)])
        assert (value, weight) == (float(name == odd), 1.0)


def test_the_ratio_of_lengths_is_best_at_one():
    metric = WRITTEN["length_ratio"]
    texts = [Written("a b c", ("a", "a b c d")), Written("a", ("a b",))]
    assert metric.statistic(metric.parts(texts).sum(axis=0)) == pytest.approx(4 / 6)
    assert metric.best([0.0, 0.4, 0.9, 1.2, 3.0]) == 0.9
    assert not metric.better(2.0, 0.5)
    assert not metric.better(0.5, 2.0)


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("so 6 * 3 = 18 #### 18", "#### 18", True),
        ("#### $1,000.00", "#### 1000", True),
        ("#### 18 no, #### 19.", "#### 19", True),
        ("the answer is 18", "#### 18", False),
        ("#### -4", "#### 4", False),
        ("#### 0.5", "#### .5", True),
        ("", "#### 4", False),
        ("####", "####", False),
    ],
)
def test_the_number_after_the_mark_counts(text, reference, right):
    [(value, _)] = EXACT_NUMBER.parts([Written(text, ("#### 7", reference))])
    assert value == right


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_f1_adds_up_over_rows(answers):
    expected, predicted = (np.array(column) for column in zip(*answers, strict=True))
    parts = Parts.of(np.stack([expected, predicted], axis=1), num_labels=5)
    assert parts.table.shape == (len(answers), 15)
    counts = label_counts(expected, predicted, 5)
    assert np.array_equal(counts.toarray(), parts.table)
    assert counts.nnz <= 3 * len(answers)
    sums = parts.table.sum(axis=0)
    for statistic, average in ((macro_f1, "macro"), (weighted_f1, "weighted")):
        whole = f1_score(expected, predicted, average=average, zero_division=0)
        assert statistic(sums) == pytest.approx(whole)
        several = statistic(np.stack([sums, parts.table[0]]))
        assert several == pytest.approx(np.array([whole, float(statistic(parts.table[0]))]))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> pk.Recipe:
    folder = tmp_path_factory.mktemp("written")
    rows = write_jsonl(folder / "pairs.jsonl", pairs(120))
    return pk.Recipe(
        base=pk.Base(name_or_path=str(save_translator(folder / "t5"))),
        task=pk.Translation(
            data=pk.Pairs(path=str(rows)), samples=5, validation_samples=6,
            generation={"max_new_tokens": 8},
        ),
        method=pk.LoRA(r=4, lora_alpha=8, target_modules="all-linear"),
        training=pk.Training(learning_rate=2e-2, num_epochs=3, batch_size=16, metric="chrf"),
        name="written",
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    return run(recipe, str(tmp_path_factory.mktemp("runs") / "run"))


def test_validation_writes_and_the_best_text_wins(recipe, finished):
    training, test = finished.record.training, finished.record.test
    values = {v.step: v.metrics["chrf"] for v in training.validations}
    assert training.metric == "chrf"
    assert values[training.best_step] == training.best_value == max(values.values())
    adapter = pk.load(str(finished.folder))
    prompts = prepare(recipe).encoded.validation_prompts
    assert len(prompts) == 6
    written = [reply.reply for reply in adapter.predict([prompt.text for prompt in prompts])]
    whole = sacrebleu.corpus_chrf(written, [[prompt.expected for prompt in prompts]]).score / 100
    assert training.best_value == pytest.approx(whole, abs=1e-9)
    parts = json.loads((finished.folder / "by_example.json").read_text())["chrf"]
    assert CHRF_SCORE.statistic(np.array(parts["columns"]).sum(axis=1)) == pytest.approx(
        test.after["chrf"]
    )


def test_the_seed_of_the_splits_fixes_what_is_written(recipe):
    rows = [[p.row for p in prepare(r).encoded.validation_prompts] for r in (
        recipe, recipe.with_(seed=7), recipe.with_(split_seed=7),
    )]  # fmt: skip
    assert rows[0] == rows[1] != rows[2]


def test_it_is_rewound_by_what_it_writes(finished, tmp_path):
    report = rewind(str(finished.folder), [0.0, 1.0], output=str(tmp_path / "rewound")).report
    assert report.metric.name == "chrf"
    assert report.scales[1].validation == pytest.approx(finished.record.training.best_value)
    assert report.scales[0].validation < report.scales[1].validation
    assert report.test.trained.metrics["chrf"] == pytest.approx(finished.record.test.after["chrf"])


def test_too_few_answers_are_named_before_weights(recipe, make_chat, tmp_path):
    with pytest.raises(ValidationError, match=r"`task.samples` is 0; set it to 1 or more"):
        recipe.with_(task=recipe.task.with_(samples=0))
    with pytest.raises(ValidationError, match=r"is `rouge_l`, and `task.samples` is 3; set it to"):
        make_chat(task={"samples": 3}, metric="rouge_l")
    chat = make_chat(task={"samples": 20}, metric="rouge_l")
    with pytest.raises(DataError, match=r"needs 20 written answers; the validation split has"):
        prepare(chat.with_(task=chat.task.with_(data=chat.task.data.with_(max_rows=40))))
    few = recipe.task.data.with_(max_rows=24)
    notes = prepare(recipe.with_(task=recipe.task.with_(data=few))).ledger.notes
    (note,) = [note for note in notes if note.startswith("chrf")]
    assert note == (
        "chrf is computed on 3 validation rows, not 6 and 4 test rows, not 5: the splits have no "
        "more to answer"
    )


def test_plain_text_has_no_metric_of_answers(make_chat):
    assert make_chat().task.known_scores == ("loss", "token_accuracy", "rouge_l")
    plain = pk.Chat(data=pk.Conversations(path="rows.jsonl", text="text"))
    assert plain.known_scores == ("loss", "token_accuracy")


def test_the_adapter_knows_its_scores(finished):
    record = open_adapter(str(finished.folder)).record
    assert record.metrics["after"]["chrf"] == finished.record.test.after["chrf"]


def test_two_processes_write_what_one_writes(recipe, tmp_path):
    training = recipe.training.with_(max_steps=3, evaluate_every=3, learning_rate=1e-3)
    recipe = recipe.with_(training=training)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    done = call_forked(run_in_two_processes, tmp_path)
    assert done.returncode == 0, done.stderr
    two, one = read_run(tmp_path / "two"), run(recipe, str(tmp_path / "one")).record
    assert two.test.samples == one.test.samples
    curves = [[v.metrics["chrf"] for v in r.training.validations] for r in (one, two)]
    assert curves[0] == pytest.approx(curves[1], abs=1e-9)
    assert len(curves[0]) == 1
