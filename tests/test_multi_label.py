"""Several labels for a text: from rows of labels to answers, against scikit-learn."""

from __future__ import annotations

import csv
import json
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from torch.nn import functional as F
from transformers import pipeline

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.cli.main import command_line
from peftkit.data.splits import load_splits
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import DataError, PeftkitError
from peftkit.experiments.comparing.verdicts import difference
from peftkit.metrics.label_sets import METRICS, best_threshold
from peftkit.parts.records import from_json, to_json
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.tasks.answers import Decision
from peftkit.tasks.label_set_loss import LabelSetCrossEntropy
from peftkit.tasks.score import Parts
from peftkit.tasks.scoring.label_set_scores import best_thresholds, confusion, label_set_score
from tests.conftest import FILLER, write_csv, write_jsonl

WORDS = {"bright": "joy", "dark": "fear", "angry": "anger"}
"""Word -> the label that it gives to a text."""


def rows_of(count: int, seed: int = 0) -> list[dict]:
    """Rows with none to three labels."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [word for word, often in zip(WORDS, (0.5, 0.3, 0.2), strict=True)
                 if rng.random() < often]  # fmt: skip
        text = [*rng.choices(FILLER, k=rng.randint(4, 10)), *words]
        rng.shuffle(text)
        rows.append({"text": " ".join(text), "labels": [WORDS[word] for word in words]})
    return rows


def task_of(path, **fields):
    names = ("label_separator", "label_names", "malformed", "text_pair")
    data = {name: fields.pop(name) for name in names if name in fields}
    return pk.MultiLabelClassification(data=pk.LabelSets(path=str(path), **data), **fields)


def splits_of(path, **fields):
    return load_splits(task_of(path, **fields), 0)


# --- reading


SHAPES = {
    "lists": lambda labels: labels,
    "JSON in a cell": json.dumps,
    "Python in a cell": str,
    "semicolons": "; ".join,
    "bars": "|".join,
    "commas": ", ".join,
    "wide semicolons": "\uff1b".join,
    "commas of Chinese lists": "\u3001".join,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_labels_are_the_same_in_every_shape(tmp_path, shape):
    rows = rows_of(120)
    if shape == "lists":
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
    else:
        cells = [(row["text"], SHAPES[shape](row["labels"])) for row in rows]
        path = write_csv(tmp_path / "rows.csv", cells, header=("text", "labels"))
    splits, ledger = splits_of(path)
    of_text = {row["text"]: tuple(sorted(row["labels"])) for row in rows}
    read = [row for part in splits.named().values() for row in part]
    assert all(row.values["labels"] == of_text[row.values["text"]] for row in read)
    marks = {"semicolons": ";", "bars": "|", "commas": ",", "wide semicolons": "\uff1b",
             "commas of Chinese lists": "\u3001"}  # fmt: skip
    mark = marks.get(shape)
    noted = [note for note in ledger.notes if "are separated at" in note]
    assert noted == ([f"the labels in column `labels` are separated at `{mark}`"] if mark else [])


def test_the_ledger_counts_labels_and_rows_without_one(tmp_path):
    rows = rows_of(200)
    splits, ledger = splits_of(write_jsonl(tmp_path / "rows.jsonl", rows))
    for name, part in splits.named().items():
        counts = ledger.splits[name].strata
        assert sorted(counts) == ["(none)", "anger", "fear", "joy"]
        for label in WORDS.values():
            assert counts[label] == sum(label in row.values["labels"] for row in part)
    without = sum(not row.values["labels"] for row in splits.train)
    assert any(f"{without} of {len(splits.train)} training rows have no label" in note
               for note in ledger.notes)  # fmt: skip


def test_each_split_has_its_share_of_rare_labels_though_sets_are_unique(tmp_path):
    rng = random.Random(0)
    rows = [
        {"text": f"text {n}", "labels": [f"l{k}" for k in range(30) if rng.random() < 0.2]}
        for n in range(300)
    ]
    for row in rows[:20]:
        row["labels"] = [*row["labels"], "rare"]
    assert len({json.dumps(row["labels"]) for row in rows}) > 280
    splits, _ = splits_of(write_jsonl(tmp_path / "rows.jsonl", rows))
    sizes = {name: len(part) for name, part in splits.named().items()}
    rare = {
        name: sum("rare" in row.values["labels"] for row in part)
        for name, part in splits.named().items()
    }
    assert rare == {"train": 14, "validation": 3, "test": 3}
    assert sizes["train"] == pytest.approx(210, abs=5)
    assert splits_of(tmp_path / "rows.jsonl")[0] == splits
    (tmp_path / "other.jsonl").write_text(
        "".join(reversed((tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)))
    )
    other, _ = splits_of(tmp_path / "other.jsonl")
    texts = [{row.values["text"] for row in part.test} for part in (splits, other)]
    assert texts[0] == texts[1]


def test_equal_texts_with_the_same_set_repeat_and_with_another_contradict(tmp_path):
    rows = [{**row, "text": f"{row['text']} {n}"} for n, row in enumerate(rows_of(60))]
    twice = [{"text": "a b", "labels": ["joy", "fear"]}, {"text": "A b", "labels": ["fear", "joy"]}]
    other = [{"text": "c d", "labels": ["joy"]}, {"text": "c d", "labels": ["joy", "fear"]}]
    _, ledger = splits_of(write_jsonl(tmp_path / "rows.jsonl", [*rows, *twice, *other]))
    (count,) = ledger.read
    assert (count.duplicate, count.conflicting) == (1, 2)


def test_numbers_are_labels_if_they_are_named(tmp_path):
    names = {"0": "joy", "1": "fear", "2": "anger"}
    numbers = {name: int(number) for number, name in names.items()}
    rows = [{**row, "labels": [numbers[one] for one in row["labels"]]} for row in rows_of(80)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    task = task_of(path, label_names=names)
    splits, _ = load_splits(task, 0)
    assert task.head_for(splits).labels == ("joy", "fear", "anger")
    assert {one for row in splits.train for one in row.values["labels"]} == set(names.values())


def test_class_names_of_a_saved_data_set_are_used(tmp_path):
    import datasets

    names = list(WORDS.values())
    rows = [{**row, "labels": [names.index(one) for one in row["labels"]]} for row in rows_of(80)]
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "labels": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    splits, _ = splits_of(tmp_path / "saved")
    assert {one for row in splits.train for one in row.values["labels"]} == set(names)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (7, "labels is int, not a list of labels or a text (line 1)"),
        ({"joy": 1}, "labels is dict, not a list of labels or a text"),
        (["joy", 3], "labels has the number 3 in its list; name numbers in `label_names`"),
        ([0.5], "labels has the number 0.5 in its list"),
        (["joy", None], "labels has null in its list, which is not a text"),
        ([True], "labels has true in its list, which is not a text"),
        ([["joy"]], '["joy"] in its list, which is not a text'),
        (["joy", " "], "labels has an empty label in its list"),
        ("[joy, fear]", "labels is `[joy, fear]`, which begins like a JSON list, but is none"),
        ("['joy' 'fear']", "begins like a JSON list, but is none"),
    ],
)
def test_what_is_wrong_with_the_labels_of_a_row_is_named(tmp_path, labels, told):
    rows = [{"text": "some text", "labels": labels}, *rows_of(40)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError) as error:
        splits_of(path)
    assert f"`{path}`: 1 of 41 rows cannot be used: 1 " in error.value.message
    assert told in error.value.message
    assert "--task.data.malformed skip" in error.value.hint
    assert sum(map(len, splits_of(path, malformed="skip")[0].named().values())) > 30


def test_a_label_without_a_name_is_malformed(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", rows_of(40))
    with pytest.raises(DataError, match="labels `anger` is not in label_names"):
        splits_of(path, label_names={"joy": "joy", "fear": "fear"})


@pytest.mark.parametrize(
    ("cells", "told", "mark"),
    [
        (["Wales, UK", "England, UK", "Rome, Italy"], "`,` may", ","),
        (["a; b, c", "a", "b", "c; a"], "`;`, `,` may", ";"),
        (["joy/fear", "joy", "fear", "-", "anger", "joy/fear/anger"], "`/` may", "/"),
        (["joy fear", "joy", "fear", "", "anger", "joy fear anger"], "` ` may", " "),
    ],
)
def test_a_separator_that_is_not_clear_is_asked_for(tmp_path, cells, told, mark):
    rows = [(f"text {n}", cells[n % len(cells)]) for n in range(60)]
    path = write_csv(tmp_path / "rows.csv", rows, header=("text", "labels"))
    with pytest.raises(DataError) as error:
        splits_of(path)
    assert "it is not clear what separates the labels in column `labels`" in error.value.message
    assert told in error.value.message
    assert f"--task.data.label-separator '{mark}'" in error.value.hint
    for given in (mark, "\t"):
        splits, _ = splits_of(path, label_separator=given)
        whole = {part.strip() for cell in cells for part in cell.split(given)}
        assert {one for row in splits.train for one in row.values["labels"]} == whole - {"-", ""}


@pytest.mark.parametrize(
    "labels", [("late delivery", "wrong delivery", "late refund"), ("sci/tech", "sci/fi", "tech")]
)
def test_labels_of_several_words_are_not_taken_apart(tmp_path, labels):
    rows = [(f"text {n}", labels[n % 3]) for n in range(60)]
    splits, _ = splits_of(write_csv(tmp_path / "rows.csv", rows, header=("text", "labels")))
    assert {one for row in splits.train for one in row.values["labels"]} == set(labels)


@pytest.mark.parametrize("word", ["(none)", "nan", "None", "NULL", "-", "n/a"])
def test_a_word_for_no_label_is_no_label(tmp_path, word):
    rows = [(row["text"], ";".join(row["labels"]) or word) for row in rows_of(80)]
    without = sum(label == word for _, label in rows)
    path = write_csv(tmp_path / "rows.csv", rows, header=("text", "labels"))
    for fields in ({}, {"label_separator": ";"}):
        splits, ledger = splits_of(path, **fields)
        read = {one for row in splits.train for one in row.values["labels"]}
        assert read == set(WORDS.values())
        note = f"{without} rows of `{path}` have only `{word.lower()}` in column `labels`, which"
        assert any(one.startswith(note) for one in ledger.notes)
    lists = write_jsonl(
        tmp_path / "rows.jsonl", [{**row, "labels": row["labels"] or [word]} for row in rows_of(80)]
    )
    assert any(", which stands for no label" in one for one in splits_of(lists)[1].notes)
    write_csv(path, [*rows, ("more", f"joy;{word}")], header=("text", "labels"))
    with pytest.raises(DataError) as error:
        splits_of(path)
    told = f"1 labels has `{word}`, which stands for no label, beside `joy` (line 82)"
    assert told in error.value.message
    names = {"joy": "joy", "fear": "fear", "anger": "anger", word: "calm"}
    named = splits_of(path, label_names=names)[0]
    assert "calm" in {one for row in named.train for one in row.values["labels"]}


def test_a_row_without_the_key_is_malformed(tmp_path):
    rows = [*rows_of(40), {"text": "null is given", "labels": None}]
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, {"text": "no key"}])
    with pytest.raises(DataError) as error:
        splits_of(path)
    assert "1 no `labels` (`[]` means no label) (line 42)" in error.value.message
    assert splits_of(path, malformed="skip")[1].read[0].read == 42


@pytest.mark.parametrize(
    ("change", "told", "hint"),
    [
        (lambda row: {**row, "labels": row["labels"] and ["joy"]}, "only one label, `joy`",
         "for yes or no, use TextClassification"),
        (lambda row: {**row, "labels": []}, "no label in any row", "the right column"),
        (lambda row: {**row, "labels": [*row["labels"], "all"]},
         "training rows have the label `all`, so nothing tells", "add rows without it"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_learned_are_refused(tmp_path, change, told, hint):
    path = write_jsonl(tmp_path / "rows.jsonl", map(change, rows_of(60)))
    with pytest.raises(DataError) as error:
        splits_of(path)
    assert told in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_that_training_lacks_is_refused(tmp_path, split):
    parts = {"train": rows_of(40), "validation": rows_of(20, 1), "test": rows_of(20, 2)}
    parts[split][0]["labels"].append("feer")
    for name, rows in parts.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    with pytest.raises(DataError) as error:
        splits_of(tmp_path)
    assert f"the {split} split has the label `feer`, which no training row" in error.value.message
    assert error.value.hint == "did you mean `fear`?"
    parts[split] = [{"text": f"another {n}", "labels": []} for n in range(9)]
    write_jsonl(tmp_path / f"{split}.jsonl", parts[split])
    with pytest.raises(DataError, match=f"no row of the {split} split has a label"):
        splits_of(tmp_path)


def test_labels_that_look_alike_are_noted(tmp_path):
    rows = rows_of(80)
    for row in rows[::2]:
        row["labels"] = [one.upper() for one in row["labels"]]
    notes = " ".join(splits_of(write_jsonl(tmp_path / "rows.jsonl", rows))[1].notes)
    assert "labels that look alike count as different labels: `" in notes
    assert "some labels have fewer than 5 rows in a split" in notes


# --- scores


def labelled(count: int, labels: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    expected = rng.random((count, labels)) < 0.3
    outputs = (2 * expected - 1 + 2 * rng.normal(size=expected.shape)).astype(np.float32)
    rows = rows_of(count)
    numbered = [pk.data.rows.Row(n, row) for n, row in enumerate(rows)]
    return expected, outputs, numbered


def score_of(expected, outputs, rows, thresholds):
    names = tuple(f"l{n}" for n in range(expected.shape[1]))
    return label_set_score(METRICS.get, outputs, expected, rows, names, thresholds)


@pytest.mark.parametrize("labels", [2, 7, 40])
def test_scores_are_those_of_scikit_learn(labels):
    expected, outputs, rows = labelled(150, labels)
    thresholds = np.linspace(0.2, 0.8, labels).tolist()
    expected[:, 0] = False  # a label that no row has
    outputs[:, 0] = -9
    score = score_of(expected, outputs, rows, thresholds)
    predicted = torch.sigmoid(torch.from_numpy(outputs)).numpy() >= np.array(thresholds)
    micro = f1_score(expected, predicted, average="micro")
    macro = f1_score(expected, predicted, average="macro", zero_division=np.nan)
    assert score.metrics["micro_f1"] == pytest.approx(micro, abs=1e-12)
    assert score.metrics["macro_f1"] == pytest.approx(macro, abs=1e-12)
    assert score.metrics["subset_accuracy"] == accuracy_score(expected, predicted)
    by_label = precision_recall_fscore_support(expected, predicted, zero_division=0)
    (table,) = score.tables
    assert table.columns == ("label", "precision", "recall", "f1", "support", "threshold")
    assert [row[1:5] for row in table.rows] == [
        (pytest.approx(p), pytest.approx(r), pytest.approx(f), n)
        for p, r, f, n in zip(*by_label, strict=True)
    ]
    assert [row[5] for row in table.rows] == thresholds
    for name, (low, high) in score.intervals.items():
        assert low <= score.metrics[name] <= high


def test_rows_add_up_to_the_score_and_come_back_from_json():
    expected, outputs, rows = labelled(60, 5)
    expected[:7], outputs[:7] = False, -9
    score = score_of(expected, outputs, rows, [0.5] * 5)
    for name, parts in score.parts.items():
        again = from_json(Parts, json.loads(json.dumps(to_json(parts))))
        assert again == parts
        assert parts.table.shape[0] == 60
        kinds, counts = parts.distinct
        assert counts.sum() == 60
        assert (counts @ kinds == parts.table.sum(axis=0)).all()
        if name != "loss":
            value = METRICS[name].statistic(parts.table.sum(axis=0))
            assert float(value) == pytest.approx(score.metrics[name], abs=1e-12)
    macro = score.parts["macro_f1"]
    assert macro.entries_per_row[:7] == (0,) * 7
    assert len(macro.columns[0]) < 60 * 5 / 2  # only labels that a row has or gets
    assert "entries_per_row" not in to_json(score.parts["micro_f1"])
    gap = difference([macro], [macro], METRICS["macro_f1"])
    assert gap.value == 0


def test_scores_of_nothing():
    expected = np.zeros((4, 3), bool)
    score = score_of(expected, np.full((4, 3), -9, np.float32), labelled(4, 3)[2], [0.5] * 3)
    assert score.metrics == {"micro_f1": 0, "macro_f1": 0, "subset_accuracy": 1}
    assert not score.mistakes


@pytest.mark.parametrize("seed", range(9))
def test_no_threshold_has_a_higher_f1(seed):
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.random(30), 1 + seed % 3)
    expected = rng.random(30) < 0.1 + 0.08 * seed
    expected[0] = True
    chosen = best_threshold(probabilities, expected)
    best = max(f1_score(expected, probabilities >= limit) for limit in np.unique(probabilities))
    assert f1_score(expected, probabilities >= chosen) == pytest.approx(best, abs=1e-12)


def test_among_equal_thresholds_the_one_nearest_to_a_half_is_chosen():
    positive = np.array([True, True, False, False])
    assert best_threshold(np.array([0.9, 0.8, 0.3, 0.1]), positive) == 0.5
    assert best_threshold(np.array([0.4, 0.3, 0.2, 0.1]), positive) == 0.25
    assert best_threshold(np.array([0.9, 0.8, 0.7, 0.6]), positive) == 0.75
    assert best_threshold(np.array([0.9, 0.8]), np.array([False, False])) == 0.5
    assert best_threshold(np.array([0.2, 0.2]), np.array([True, False])) == 0.1
    assert best_thresholds(np.array([[9, -40]], np.float32), np.array([[True, True]]))[1] > 0


def test_each_row_counts_in_the_confusion_of_labels():
    e = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]], bool)
    p = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]], bool)
    matrix = confusion(e, p, ("a", "b", "c"))
    assert matrix.labels == ("a", "b", "c", "(none)")
    assert matrix.counts == ((2, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 1, 0, 1))


def test_the_worst_mistakes_are_the_most_certain_ones():
    expected = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
    outputs = np.array([[2, 3], [-1, -2], [4, 4], [0.5, -9]], np.float32)
    score = score_of(expected, outputs, labelled(4, 2)[2], [0.5, 0.5])
    told = [(m.row, m.expected, m.predicted) for m in score.mistakes]
    assert told == [(0, "l0", "l0, l1"), (1, "l1", "(none)"), (3, "(none)", "l0")]
    assert score.mistakes[0].probability == pytest.approx(1 / (1 + np.exp(-3)))
    assert score.mistakes[1].probability == pytest.approx(1 / (1 + np.exp(-2)))


def test_the_loss_is_torchs():
    torch.manual_seed(0)
    outputs, given = torch.randn(6, 4), (torch.rand(6, 4) < 0.4).float()
    weights = torch.tensor([1.0, 3.0, 0.5, 7.0])
    loss = LabelSetCrossEntropy(0.1)
    found = loss.values(outputs, given * weights)
    smoothed = given * 0.9 + 0.05
    by_hand = F.binary_cross_entropy_with_logits(outputs, smoothed, reduction="none")
    assert torch.allclose(found, (by_hand * torch.where(given > 0, weights, 1.0)).sum(1))
    plain = F.binary_cross_entropy_with_logits(outputs, given, reduction="none").sum(1)
    assert torch.allclose(loss.plain().values(outputs, given * weights), plain)
    unsmoothed = replace(loss, label_smoothing=0.0).values(outputs, given * weights)
    torchs = F.binary_cross_entropy_with_logits(
        outputs, given, pos_weight=weights, reduction="none"
    )
    assert torch.allclose(unsmoothed, torchs.sum(1))


# --- runs


@pytest.fixture(scope="module")
def recipe(bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    return pk.Recipe(
        base=pk.Base(name_or_path=str(bases["bert"])),
        task=task_of(write_jsonl(folder / "rows.jsonl", rows_of(240))),
        method=pk.LoRA(r=8, lora_alpha=16),
        training=pk.Training(learning_rate=1e-2, num_epochs=10, batch_size=16),
        name="labels",
    )


@pytest.fixture(scope="module")
def done(recipe, tmp_path_factory):
    return run(recipe, str(tmp_path_factory.mktemp("labels") / "run"))


def test_it_is_trained_scored_saved_and_verified(done):
    test = done.record.test
    assert list(test.after)[:3] == ["micro_f1", "macro_f1", "subset_accuracy"]
    assert test.after["micro_f1"] > 0.95 > test.baseline["majority"]["micro_f1"]
    assert test.after["loss"] < test.before["loss"]
    assert verify(str(done.folder)).problems == []
    kept = json.loads((done.folder / "adapter" / "peftkit.json").read_text())
    thresholds = kept["decision"]["numbers"]["threshold"]
    assert thresholds == [row[5] for row in test.tables[0].rows]
    assert kept["head"]["problem_type"] == "multi_label_classification"
    scores = json.loads((done.folder / "by_example.json").read_text())
    for name, metric in METRICS.items():
        sums = from_json(Parts, scores[name]).table.sum(axis=0)
        assert float(metric.statistic(sums)) == pytest.approx(test.after[name], abs=1e-9)
    page = (done.folder / "receipt.html").read_text()
    assert "threshold" in page
    assert "(none)" in page
    card = (done.folder / "adapter" / "README.md").read_text()
    assert 'problem_type="multi_label_classification"' in card
    assert "chosen on the validation split: `threshold` " in card


def test_texts_and_files_are_answered(done, tmp_path, capsys):
    both, none = pk.load(str(done.folder)).predict(["the bright angry film", "the film was very"])
    assert both.labels == ("anger", "joy")
    assert all(0.5 < probability <= 1 for probability in both.probabilities)
    assert none.labels == ()
    command_line(["predict", str(done.folder), "--text", "the film was very"])
    assert capsys.readouterr().out == "(none)  the film was very\n"
    rows = [{"text": row["text"]} for row in rows_of(5, seed=3)]
    file, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "answers.csv"
    command_line(["predict", str(done.folder), "--file", str(file), "--out", str(out)])
    with out.open() as opened:
        answers = list(csv.DictReader(opened))
    for row, answer in zip(rows_of(5, seed=3), answers, strict=True):
        assert json.loads(answer["predicted"]) == sorted(row["labels"])
        assert len(json.loads(answer["probabilities"])) == len(row["labels"])


def test_transformers_reads_the_merged_model(done, tmp_path):
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    assert report.relative <= report.tolerance
    assert "chosen on the validation split" in (tmp_path / "merged" / "README.md").read_text()
    folder = str(tmp_path / "merged")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = pipeline("text-classification", folder, top_k=None, device="cpu")
    [said] = classifier(["the bright angry film"])
    [answer] = pk.load(str(done.folder)).predict(["the bright angry film"])
    scores = {entry["label"]: entry["score"] for entry in said}
    assert sorted(scores) == ["anger", "fear", "joy"]
    assert sum(scores.values()) > 1.5  # a sigmoid for each label, not a softmax over them
    for label, probability in zip(answer.labels, answer.probabilities, strict=True):
        assert scores[label] == pytest.approx(probability, abs=1e-4)


@pytest.mark.parametrize(
    ("base", "method", "task"),
    [
        ("llama", pk.LoRA(r=8, lora_alpha=16), {"positive_weights": "balanced"}),
        ("bert", pk.BottleneckAdapter(reduction_factor=8),
         {"pooling": "mean", "over_long": "windows", "max_length": 8, "overlap": 2}),
        pytest.param("bert", pk.FullFineTuning(), {}, marks=pytest.mark.slow),
    ],
    ids=["decoder", "bottleneck, mean, windows", "full"],
)  # fmt: skip
def test_other_bases_methods_and_settings(recipe, bases, base, method, task, tmp_path):
    full = isinstance(method, pk.FullFineTuning)
    changed = recipe.with_(
        base=pk.Base(name_or_path=str(bases[base])),
        task=recipe.task.with_(**task),
        method=method,
        training=recipe.training.with_(
            learning_rate=1e-3 if full else 1e-2, num_epochs=6, label_smoothing=0.1
        ),
    )
    finished = run(changed, str(tmp_path / "run"))
    test = finished.record.test
    assert test.after["loss"] < test.before["loss"]
    assert test.after["micro_f1"] > test.baseline["majority"]["micro_f1"]
    assert verify(str(finished.folder)).problems == []
    assert len(pk.load(str(finished.folder)).predict(["the bright film " * 9])) == 1


def test_balanced_weights_count_in_training_only(recipe):
    balanced = recipe.with_(task=recipe.task.with_(positive_weights="balanced"))
    encoded = prepare(balanced).encoded
    given = encoded.train.targets > 0
    wanted = (~given).sum(axis=0) / given.sum(axis=0)
    assert np.allclose(encoded.train.targets, given * wanted)
    assert set(np.unique(encoded.test.targets)) == {0, 1}


def test_what_does_not_beat_a_constant_answer_says_so(recipe, tmp_path):
    training = pk.Training(learning_rate=1e-6, max_steps=1, batch_size=16)
    finished = run(recipe.with_(training=training), str(tmp_path / "run"))
    (sentence,) = finished.record.test.lead
    assert "always answering `fear, joy` gives 0.519" in sentence


def test_no_constant_set_has_a_higher_micro_f1(recipe):
    from itertools import product

    encoded = prepare(recipe).encoded
    task, head = recipe.task, encoded.head
    best = max(
        task.metrics(
            np.tile(np.float32(kept), (len(encoded.train), 1)), encoded.train, head, Decision()
        ).metrics["micro_f1"]
        for kept in product((-1, 1), repeat=3)
    )
    on_train = replace(encoded, test=encoded.train)
    assert task.baselines(on_train)["majority"]["micro_f1"] == pytest.approx(best)


@pytest.mark.slow
def test_it_is_compared(recipe, tmp_path):
    training = pk.Training(learning_rate=1e-2, max_steps=8, batch_size=16)
    done = pk.compare(
        [recipe.with_(training=training)], str(tmp_path / "compare"),
        pk.Budget(num_trials=1, num_seeds=2),
    )  # fmt: skip
    assert done.record.status == "finished"
    assert [row.role for row in done.record.rows] == ["baseline", "method"]
    for row in done.record.rows:
        low, high = row.interval
        assert low <= row.score <= high


def test_a_comparison_is_rehearsed(recipe):
    from peftkit.evaluation.scoring import rehearsed_score

    encoded = prepare(recipe).encoded
    assert set(METRICS) <= set(rehearsed_score(recipe.task, encoded.test, encoded.head).parts)


def test_it_is_recorded(recipe):
    assert pk.Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(PeftkitError, match="label_seperator"):
        pk.Recipe.from_json(recipe.to_json().replace("label_separator", "label_seperator"))
