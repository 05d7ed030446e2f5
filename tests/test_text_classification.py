"""Labels, tokens and scores of text classification are what the file and scikit-learn say."""

from __future__ import annotations

import itertools
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import binom
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score

from peftkit import Base, Data, TextClassification
from peftkit.bases.opening import open_base
from peftkit.data.encoded import IGNORE_INDEX, Encoded, Examples
from peftkit.data.head import Head
from peftkit.data.rows import Row
from peftkit.data.splits import Splits, load_splits
from peftkit.errors import DataError
from peftkit.stages.unknown_tokens import unknown_token_notes
from peftkit.tasks.answers import Decision
from peftkit.tasks.task import Piece
from tests.conftest import save_tokenizer, sentences, write_csv
from tests.examples import base_with, examples_from

FILE = Data(path="not read.csv")
TASK = TextClassification(data=FILE)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """As runs get them, of bases that read 16 tokens and have no weights."""
    from transformers import BertConfig, LlamaConfig

    opened = {}
    for kind, config in {"bert": BertConfig, "llama": LlamaConfig}.items():
        folder = tmp_path_factory.mktemp(kind)
        config(max_position_embeddings=16).save_pretrained(folder)
        save_tokenizer(folder, kind)
        opened[kind] = open_base(Base(name_or_path=str(folder))).tokenizer
    return opened


def rows_of(*pairs: tuple[str, str]) -> tuple[Row, ...]:
    return tuple(
        Row(number, {"text": text, "label": label})
        for number, (text, label) in enumerate(pairs, start=2)
    )


def alike(rows: tuple[Row, ...]) -> Splits:
    return Splits(train=rows, validation=rows, test=rows)


def encode(path: Path, tokenizer: object, **fields: object) -> Encoded:
    task = TextClassification(data=Data(path=str(path), **fields))
    return task.encode(load_splits(task, 0)[0], base_with(tokenizer))


# --- labels


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (["10", "9", "2"], {}, ("2", "9", "10")),
        (["0.5", "-1", "0"], {}, ("-1", "0", "0.5")),
        (["b", "a", "1"], {}, ("1", "a", "b")),
        (["5", "4", "nan", "3", "2", "1"], {}, ("1", "2", "3", "4", "5", "nan")),
        (["0", "1"], {"1": "good", "0": "bad"}, ("good", "bad")),
        (["0", "1"], {"2": "mixed", "1": "good", "0": "bad"}, ("good", "bad")),
        (["0", "1", "2"], {"2": "good", "1": "good", "0": "bad"}, ("good", "bad")),
        (["bad", "1"], {"1": "good", "0": "bad"}, ("good", "bad")),
    ],
)
def test_labels_are_in_the_order_of_label_names_then_numbers_then_names(
    tmp_path, tokenizers, labels, names, expected
):
    rows = [(f"{label} word{n}", label) for label in labels for n in range(20)]
    encoded = encode(
        write_csv(tmp_path / "r.csv", rows[::-1]), tokenizers["bert"], label_names=names
    )
    assert encoded.head.labels == expected
    for examples in encoded.splits().values():
        for row, target in zip(examples.rows, examples.targets, strict=True):
            assert expected[int(target)] == row.values["label"]


def test_a_label_outside_label_names_is_malformed(tmp_path):
    path = write_csv(tmp_path / "r.csv", [("a", "0"), ("b", "1"), ("c", "2"), ("d", "0")])
    task = TextClassification(data=Data(path=str(path), label_names={"0": "bad", "1": "good"}))
    with pytest.raises(DataError, match=r"1 label `2` is not in label_names \(line 4\)"):
        load_splits(task, 0)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("values", "as_csv"),
    [
        ([0, 1], ["0", "1"]),
        ([0.0, 1.0], ["0.0", "1.0"]),
        ([0.5, -1.25], ["0.5", "-1.25"]),
        ([False, True], ["False", "True"]),
        (["bad", "good "], ["bad", "good"]),
    ],
)
def test_labels_of_any_type_are_named_as_a_csv_names_them(tmp_path, ending, values, as_csv):
    texts = [text for text, _ in sentences(60)]
    plain = write_csv(tmp_path / "r.csv", [(t, as_csv[n % 2]) for n, t in enumerate(texts)])
    typed = tmp_path / f"r.{ending}"
    rows = [{"text": text, "label": values[n % 2]} for n, text in enumerate(texts)]
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), typed)
    else:
        typed.write_text("\n".join(map(json.dumps, rows)))
    splits = [
        {
            name: [row.values for row in rows]
            for name, rows in load_splits(TextClassification(data=Data(path=str(path))), 0)[0]
            .named()
            .items()
        }
        for path in (plain, typed)
    ]
    assert splits[0] == splits[1]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"text": "a", "label": None}, "empty label"),
        ({"text": "a", "label": float("nan")}, "empty label"),
        ({"text": "a", "label": ["good"]}, "label is list, not text"),
        ({"text": 3, "label": "good"}, "text is int, not text"),
        ({"label": "good"}, "empty text"),
    ],
)
def test_a_value_of_a_wrong_type_is_malformed(tmp_path, value, kind):
    good = [{"text": text, "label": label} for text, label in sentences(20)]
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, [*good, value])))
    with pytest.raises(DataError, match=rf"1 {kind} \(line 21\)"):
        load_splits(TextClassification(data=Data(path=str(path))), 0)


# --- tokens


def test_a_text_becomes_its_tokens(tokenizers):
    tokenizer = tokenizers["bert"]
    encoded = TASK.encode(
        alike(rows_of(("a warm film", "good"), ("dark", "bad"))), base_with(tokenizer)
    )
    tokens = [tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in encoded.train.input_ids]
    assert tokens == [["[CLS]", "a", "warm", "film", "[SEP]"], ["[CLS]", "dark", "[SEP]"]]
    assert list(encoded.train.inputs) == ["input_ids"]
    assert encoded.train.truncated == 0
    assert encoded.notes == ()


@pytest.mark.parametrize(("max_length", "kept"), [(6, 6), (512, 16)])
def test_long_texts_are_cut_to_what_task_and_base_allow_and_counted(tokenizers, max_length, kept):
    rows = rows_of(("film " * 30, "good"), ("film " * (kept - 2), "bad"), ("film", "bad"))
    task = TextClassification(data=FILE, max_length=max_length)
    examples = task.encode(alike(rows), base_with(tokenizers["bert"])).train
    assert [len(ids) for ids in examples.input_ids] == [kept, kept, 3]
    assert examples.truncated == 1
    assert [ids[-1] for ids in examples.input_ids] == [tokenizers["bert"].sep_token_id] * 3


def test_a_pair_of_texts_is_told_apart_by_segment(tmp_path, tokenizers):
    rows = [(f"{'film ' * (n % 5)}word{n}", "warm story", str(n % 2)) for n in range(20)]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "reply", "label"))
    examples = encode(path, tokenizers["bert"], text_pair="reply").train
    for row, ids, segments in zip(
        examples.rows, examples.input_ids, examples.inputs["token_type_ids"], strict=True
    ):
        first = len(row.values["text"].split()) + 2  # with [CLS] and [SEP]
        assert segments.tolist() == [0] * first + [1] * (len(ids) - first)


def test_the_second_text_of_a_pair_makes_a_row_its_own(tmp_path):
    rows = [(text, f"{reply}{n}", label) for n, (text, label) in enumerate(sentences(20))
            for reply in ("yes ", "no ")]  # fmt: skip
    path = write_csv(tmp_path / "r.csv", rows, ("text", "reply", "label"))
    task = TextClassification(data=Data(path=str(path), text_pair="reply"))
    assert load_splits(task, 0)[1].read[0].kept == 40


def test_inputs_without_labels_supervise_nothing(tokenizers):
    examples = TASK.encode_inputs(
        (Row(1, {"text": "a film"}),) * 2, base_with(tokenizers["bert"]), Head("", "")
    )
    assert examples.targets.tolist() == [IGNORE_INDEX] * 2
    assert examples.num_supervised == 0


@pytest.mark.parametrize(("unknown", "told"), [(0, False), (1, False), (2, True)])
def test_a_note_tells_of_more_than_five_percent_unknown_tokens(tokenizers, unknown, told):
    texts = ["film film film"] * 6 + ["zebra"] * unknown  # 5 tokens each, 3 with the zebra
    rows = rows_of(*((text, "good") for text in texts), ("dark", "bad"))
    encoded = TASK.encode(alike(rows), base_with(tokenizers["bert"]))
    assert encoded.train.unknown_tokens == unknown
    base = base_with(tokenizers["bert"])
    notes = list(unknown_token_notes(encoded, base))
    assert any("of the train split's tokens are unknown" in note for note in notes) == told
    few = replace(base, spec=base.spec.with_(max_unknown_tokens=0.01))
    with pytest.raises(DataError, match="tokens are unknown") if unknown else nullcontext():
        list(unknown_token_notes(encoded, few))


def test_windows_share_a_rows_weight_and_their_mean_is_its_output(tokenizers):
    task = TextClassification(
        data=Data(path="-"), over_long="windows", max_length=8, overlap=2,
        class_weights={"good": 3.0},
    )  # fmt: skip
    rows = rows_of(("a warm film " * 5, "good"), ("dark", "bad"))
    encoded = task.encode(alike(rows), base_with(tokenizers["bert"]))
    train, head = encoded.train, encoded.head
    windows = int((train.row_of == 0).sum())
    assert windows == 4  # 15 words, 6 in a window, of which 2 are in the one before
    assert train.row_of.tolist() == [0] * windows + [1]
    assert train.weights.tolist() == pytest.approx([3 / windows] * windows + [1])
    assert train.truncated == 0
    inner = [ids[1:-1].tolist() for ids in train.input_ids][:windows]
    assert all(a[-2:] == b[:2] for a, b in itertools.pairwise(inner))
    assert sum(map(len, inner)) - 2 * (windows - 1) == 15
    outputs = np.random.default_rng(0).normal(size=(len(train), 2)).astype(np.float32)
    answers = task.answers(outputs, train, head, Decision())
    means = np.stack([outputs[:windows].mean(axis=0), outputs[windows]])
    assert [answer.label for answer in answers] == [head.labels[i] for i in means.argmax(axis=1)]
    score = task.metrics(outputs, train, head, Decision())
    assert len(score.parts["accuracy"].columns[0]) == 2
    with pytest.raises(ValueError, match="`over_long` is `windows`, which split single texts"):
        task.with_(data=Data(path="-", text_pair="other"))


def test_a_prefix_precedes_each_text_and_is_missed_for_e5(tokenizers):
    base = base_with(tokenizers["bert"])
    rows = rows_of(("film", "good"), ("dark", "bad"))
    plain = TASK.encode(alike(rows), base)
    encoded = TASK.with_(prefix="warm ").encode(alike(rows), base)
    assert encoded.train.input_ids[0][1] == base.tokenizer("warm")["input_ids"][1]
    assert encoded.train.input_ids[0][2:].tolist() == plain.train.input_ids[0][1:].tolist()
    e5 = replace(base, spec=base.spec.with_(name_or_path="packaged:multilingual-e5-small"))
    assert any("set `task.prefix`" in note for note in TASK.encode(alike(rows), e5).notes)
    assert not TASK.with_(prefix="query: ").encode(alike(rows), e5).notes


@pytest.mark.parametrize("text", ["a warm film </s>", "\u200b"])
def test_a_text_whose_last_token_a_decoder_could_not_find_is_refused(tokenizers, text):
    rows = rows_of(("a film", "good"), (text, "bad"))
    assert tokenizers["llama"].pad_token == "</s>"
    with pytest.raises(DataError, match=r"row 3 gives no tokens, or ends in the padding token"):
        TASK.encode(alike(rows), base_with(tokenizers["llama"]))


def test_padding_inside_a_text_is_no_obstacle(tokenizers):
    rows = rows_of(("a </s> film", "good"), ("dark", "bad"))
    assert len(TASK.encode(alike(rows), base_with(tokenizers["llama"])).train.input_ids[0]) == 3


# --- class weights


def test_balanced_weights_give_every_label_the_same_sum_in_train_only(tokenizers):
    rows = rows_of(*([("film", "good")] * 6), *([("dark", "bad")] * 2))
    task = TextClassification(data=FILE, class_weights="balanced")
    encoded = task.encode(alike(rows), base_with(tokenizers["bert"]))
    weights = {
        row.values["label"]: float(weight)
        for row, weight in zip(rows, encoded.train.weights, strict=True)
    }
    assert weights == pytest.approx({"good": 8 / (2 * 6), "bad": 8 / (2 * 2)})
    assert encoded.validation.weights is None
    assert encoded.test.weights is None


def test_given_weights_are_used(tokenizers):
    task = TextClassification(data=FILE, class_weights={"good": 1.0, "bad": 2.5})
    rows = rows_of(("film", "good"), ("dark", "bad"))
    weights = task.encode(alike(rows), base_with(tokenizers["bert"])).train.weights
    assert [float(weight) for weight in weights] == [1.0, 2.5]


def test_labels_that_are_not_weighed_weigh_1(tokenizers):
    task = TextClassification(data=FILE, class_weights={"bad": 2.5})
    rows = rows_of(("film", "good"), ("dark", "bad"))
    weights = task.encode(alike(rows), base_with(tokenizers["bert"])).train.weights
    assert [float(weight) for weight in weights] == [1.0, 2.5]


@pytest.mark.parametrize("names", [("good", "bad", "mixed"), ("good", "Bad")])
def test_weights_for_other_labels_than_the_files_are_refused(reviews, names):
    weights = dict.fromkeys(names, 1.0)
    task = TextClassification(data=Data(path=str(reviews)), class_weights=weights)
    with pytest.raises(DataError, match="which is no label; the labels are `bad`, `good`"):
        load_splits(task, 0)


# --- scores


def judged(expected: list[int], outputs: np.ndarray) -> tuple[Examples, Head]:
    rows = tuple(Row(n, {"text": f"text {n}"}) for n in range(len(expected)))
    head = Head("", "", tuple(f"label {n}" for n in range(outputs.shape[1])))
    return examples_from([[1]] * len(rows), expected, rows=rows), head


def score(expected: list[int], predicted: list[int], num_labels: int = 3):
    outputs = np.eye(num_labels, dtype=np.float32)[predicted]
    return TASK.metrics(outputs, *judged(expected, outputs), Decision())


ANSWERS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40)


@settings(max_examples=15, deadline=None)
@given(ANSWERS)
@example([(0, 0), (0, 1)])  # a label that is predicted and never right
@example([(0, 0), (1, 0)])  # a label that is never predicted
def test_scores_are_scikit_learns(answers):
    expected, predicted = map(list, zip(*answers, strict=True))
    found = score(expected, predicted)
    assert found.metrics == pytest.approx(
        {
            "accuracy": accuracy_score(expected, predicted),
            "macro_f1": f1_score(expected, predicted, average="macro", zero_division=0),
            "weighted_f1": f1_score(expected, predicted, average="weighted", zero_division=0),
        }
    )
    counts = confusion_matrix(expected, predicted, labels=[0, 1, 2])
    assert found.matrices[0].counts == tuple(map(tuple, counts.tolist()))
    precision = precision_score(
        expected, predicted, labels=[0, 1, 2], average=None, zero_division=0
    )
    assert [row[1] for row in found.tables[0].rows] == pytest.approx(precision.tolist())
    assert [row[4] for row in found.tables[0].rows] == [expected.count(n) for n in range(3)]


@settings(max_examples=15, deadline=None)
@given(ANSWERS)
def test_the_interval_of_accuracy_holds_the_score(answers):
    expected, predicted = map(list, zip(*answers, strict=True))
    found = score(expected, predicted)
    low, high = found.intervals["accuracy"]
    assert 0 <= low <= found.metrics["accuracy"] <= high <= 1


def test_the_interval_of_accuracy_is_that_of_its_binomial():
    found = score([0] * 400, [0] * 300 + [1] * 100)
    expected = np.array(binom.interval(0.95, n=400, p=0.75)) / 400
    assert found.intervals["accuracy"] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_intervals_shrink_with_the_root_of_the_rows(metric):
    def width(times: int) -> float:
        found = score([0, 0, 0, 1, 1, 1, 2, 2] * times, [0, 0, 1, 1, 1, 0, 2, 1] * times)
        low, high = found.intervals[metric]
        assert low < found.metrics[metric] < high
        return high - low

    assert width(5) / width(80) == pytest.approx(4, rel=0.2)


def test_mistakes_are_the_wrong_answers_surest_first():
    random = np.random.default_rng(0)
    expected = random.integers(0, 3, 60).tolist()
    outputs = random.normal(size=(60, 3)).astype(np.float32)
    mistakes = TASK.metrics(outputs, *judged(expected, outputs), Decision()).mistakes
    probabilities = softmax(outputs, axis=1).max(axis=1)
    wrong = [n for n in range(60) if outputs[n].argmax() != expected[n]]
    worst = sorted(wrong, key=lambda n: -probabilities[n])[:20]
    assert [mistake.row for mistake in mistakes] == worst
    assert all(mistake.expected != mistake.predicted for mistake in mistakes)


def test_the_majority_baseline_says_the_commonest_training_label_always(tokenizers):
    train = rows_of(*([("film", "good")] * 2), *([("dark", "bad")] * 3))
    test = rows_of(*([("film", "good")] * 3), ("dark", "bad"))
    encoded = TASK.encode(Splits(train, test, test), base_with(tokenizers["bert"]))
    (majority,) = TASK.baselines(encoded).values()
    assert majority["accuracy"] == 1 / 4


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4), min_size=1, max_size=5
    )
)
def test_predictions_are_the_softmax_of_the_outputs(rows):
    outputs = np.array(rows, np.float32)
    examples, _ = judged([0] * len(outputs), outputs)
    head = Head("", "", ("a", "b", "c", "d"))
    predictions = TASK.answers(outputs, examples, head, Decision())
    expected = softmax(outputs.astype(np.float64), axis=1)
    assert [p.probability for p in predictions] == pytest.approx(expected.max(axis=1), rel=1e-4)
    assert [p.label for p in predictions] == ["abcd"[row.argmax()] for row in outputs]


def test_an_example_is_shown_with_its_label(tokenizers):
    encoded = TASK.encode(
        alike(rows_of(("a film", "good"), ("dark", "bad"))), base_with(tokenizers["bert"])
    )
    shown = TASK.show(0, encoded.train, encoded.head, tokenizers["bert"])
    assert shown == (Piece("[CLS] a film [SEP]\nlabel: "), Piece("good", supervised=True))
