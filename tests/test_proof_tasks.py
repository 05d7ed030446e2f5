"""Two tasks that the contracts carry, from a file of rows to an answer, through the commands."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.cli.main import command_line
from peftkit.data.head import Head
from peftkit.data.rows import Row
from peftkit.deploy.merging.merge import merge_to
from peftkit.deploy.rewinding.rewind import rewind
from peftkit.errors import PeftkitError
from peftkit.metrics.entities import entities
from peftkit.metrics.strict_entities import entity_counts, strict_f1
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.tasks.losses import CrossEntropy
from tests.conftest import code_of_card, write_jsonl
from tests.examples import base_with
from tests.tiny_translator import pairs, save_translator


def tagged(count: int) -> list[dict]:
    """`bright warm` and `dark` are names of two kinds."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        words, labels = [], []
        for _ in range(rng.randint(2, 14)):
            kind = rng.random()
            name = (
                (["bright", "warm"], ["B-GOOD", "I-GOOD"]) if kind < 0.2 else (["dark"], ["B-BAD"])
            )
            other = ([rng.choice(["the", "film", "story", "a"])], ["O"])
            own = name if kind < 0.4 else other
            words += own[0]
            labels += own[1]
        rows.append({"tokens": words, "labels": labels})
    return rows


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, bases) -> dict[str, pk.Recipe]:
    folder = tmp_path_factory.mktemp("tasks")
    training = pk.Training(learning_rate=1e-2, num_epochs=3, batch_size=16)
    words = pk.TaggedWords(path=str(write_jsonl(folder / "tagged.jsonl", tagged(120))))
    texts = pk.Pairs(path=str(write_jsonl(folder / "pairs.jsonl", pairs(120))))
    return {
        "tokens": pk.Recipe(
            base=pk.Base(name_or_path=str(bases["bert"])),
            task=pk.TokenClassification(data=words, max_length=12, overlap=4),
            method=pk.LoRA(r=4, lora_alpha=8), training=training, name="tokens",
        ),
        "translation": pk.Recipe(
            base=pk.Base(name_or_path=str(save_translator(folder / "t5"))),
            task=pk.Translation(data=texts, samples=4, generation={"max_new_tokens": 8}),
            method=pk.LoRA(r=4, lora_alpha=8, target_modules="all-linear"), training=training,
            name="translation",
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs(recipes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: run(recipe, str(folder / name)) for name, recipe in recipes.items()}


TASKS = ["tokens", "translation"]


@pytest.mark.parametrize("task", TASKS)
def test_it_is_trained_scored_saved_and_verified(runs, recipes, task):
    test = runs[task].record.test
    assert test.after["loss"] < test.before["loss"]
    assert 0 <= runs[task].record.probes.max_difference <= 1e-5
    assert verify(str(runs[task].folder)).problems == []
    for metric, (low, high) in test.intervals.items():
        assert low <= test.after[metric] <= high
    scores = json.loads((runs[task].folder / "by_example.json").read_text())
    metric = recipes[task].task.metric
    for name, of in scores.items():  # of rows, not of windows
        parts = np.array(of["columns"])
        assert parts.shape[1] == (4 if name in test.of_samples else 18)
        assert metric(name).statistic(parts.sum(axis=1)) == pytest.approx(
            test.after[name], rel=1e-4
        )


def test_words_are_labelled_whatever_the_windows(runs, recipes):
    adapter = pk.load(str(runs["tokens"].folder))
    long = ["the", "bright", "warm", "film", "dark"] * 12
    alone, many = adapter.predict([long[:5], long])
    assert alone.labels == ("O", "B-GOOD", "I-GOOD", "O", "B-BAD")
    assert many.labels == alone.labels * 12
    assert adapter.predict(["the bright warm film dark"])[0] == alone
    assert runs["tokens"].record.test.after["strict_f1"] > 0.9


def test_a_translation_is_written_and_its_characters_are_scored(runs):
    record = runs["translation"].record
    assert record.test.of_samples[:2] == ("chrf", "bleu")
    expected, before, after = zip(
        *((s.expected, s.before, s.after) for s in record.test.samples), strict=True
    )
    for scores, written in ((record.test.before, before), (record.test.after, after)):
        whole = sacrebleu.corpus_chrf(list(written), [list(expected)]).score / 100
        assert scores["chrf"] == pytest.approx(whole, abs=1e-12)
    low, high = record.test.intervals["chrf"]
    assert low <= record.test.after["chrf"] <= high
    assert all("chrf" not in v.metrics for v in record.training.validations)
    adapter = pk.load(str(runs["translation"].folder))
    (reply,) = adapter.predict(["bright warm film"])
    assert set(reply.reply.split()) <= {"dark", "cold", "angry", "a", "story", *"<unk>"}


def test_the_command_answers_a_file(runs, tmp_path, capsys):
    for task, rows in (("tokens", tagged(3)), ("translation", pairs(3))):
        file, out = write_jsonl(tmp_path / f"{task}.jsonl", rows), tmp_path / f"{task}.csv"
        command_line(["predict", str(runs[task].folder), "--file", str(file), "--out", str(out)])
        with out.open() as opened:
            answered = list(csv.DictReader(opened))
        assert len(answered) == 3
        for row, answer in zip(rows, answered, strict=True):
            if task == "tokens":
                assert len(json.loads(answer["predicted"])) == len(row["tokens"])
            else:
                assert "reply" in answer


@pytest.mark.parametrize("task", TASKS)
def test_it_merges_within_the_certificate(runs, task, tmp_path):
    report = merge_to(str(runs[task].folder), str(tmp_path / "merged"))
    assert report.relative <= report.tolerance


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_it_is_compared(recipes, task, tmp_path):
    metric = {"tokens": "strict_f1", "translation": "chrf"}[task]
    training = pk.Training(learning_rate=1e-2, max_steps=4, batch_size=16, metric=metric)
    recipe = recipes[task].with_(training=training)
    done = pk.compare([recipe], str(tmp_path / "compare"), pk.Budget(num_trials=1, num_seeds=2))
    assert done.record.status == "finished"
    assert [row.role for row in done.record.rows] == ["baseline", "method"]
    for row in done.record.rows:
        low, high = row.interval
        assert low <= row.score <= high
    assert done.record.rows[1].verdict in ("better", "worse", "equivalent", "undecided")


def test_each_word_is_read_once_where_it_has_more_context(recipes):
    encoded = prepare(recipes["tokens"]).encoded
    examples = encoded.train
    assert len(examples) > len(examples.rows)
    words = [len(row.values["tokens"]) for row in examples.rows]
    assert examples.outputs_per_row().tolist() == words
    read: dict[int, dict[int, int]] = {}
    for example in range(len(examples)):
        row = int(examples.row_of[example])
        numbers = examples.columns["word"][examples.outputs_of(example)]
        for word, place in zip(numbers, examples.read_at[example][:, 0], strict=True):
            assert int(word) not in read.setdefault(row, {})
            read[row][int(word)] = min(place, len(examples.input_ids[example]) - 1 - place)
    for row, contexts in read.items():  # a window has 10 words, two have 4 in common
        inner = [c for word, c in contexts.items() if 3 <= word < words[row] - 3]
        assert all(context >= 2 for context in inner)


def test_entities_are_those_of_conlleval():
    tags = ["B-X", "I-X", "O", "I-Y", "B-Y", "I-X", "Z", "Z", "O"]
    assert entities(tags) == {(0, 2, "X"), (3, 4, "Y"), (4, 5, "Y"), (5, 6, "X"), (6, 8, "Z")}
    counts = entity_counts(
        [entities(tags) for tags in (["B-X", "I-X"], ["O", "B-Y"])],
        [entities(tags) for tags in (["B-X", "O"], ["O", "B-Y"])],
    )
    assert counts.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert strict_f1(counts.sum(axis=0)) == pytest.approx(2 * 1 / 4)
    assert strict_f1(np.zeros(3)) == 0
    assert strict_f1(np.array([1, 2, 1])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("end", ["E", "L"])
@pytest.mark.parametrize("single", ["S", "U"])
def test_entities_of_schemes_with_ends(single, end):
    tags = [f"{single}-X", f"{single}-X", "B-X", "I-X", f"{end}-X", "I-X", "B-Y", f"{end}-Y", "O"]
    assert entities(tags) == {
        (0, 1, "X"), (1, 2, "X"), (2, 5, "X"), (5, 6, "X"), (6, 8, "Y"),
    }  # fmt: skip


def test_tags_with_a_dash_that_is_no_prefix_are_types():
    assert entities(["NN-P", "JJ-P", "-LRB-"]) == {(0, 1, "NN-P"), (1, 2, "JJ-P"), (2, 3, "-LRB-")}


def test_an_encoder_writes_no_translations(recipes, bases):
    recipe = recipes["translation"]
    with pytest.raises(
        PeftkitError, match="an encoder, which reads texts but does not continue them"
    ):
        prepare(recipe.with_(base=pk.Base(name_or_path=str(bases["bert"]))))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tokens": "the film"}, "tokens is a text, not a list of words; JSON lines"),
        ({"tokens": []}, "empty tokens"),
        ({"labels": ["O"]}, "labels has 1 label, tokens "),
        ({"tokens": ["a", 3]}, "tokens has int as word 2"),
        ({"tokens": ["a", " "]}, "tokens has an empty word 2"),
        ({"tokens": ["a", "b"], "labels": ["O", None]}, "labels has None as label 2"),
        ({"tokens": ["a", "b"], "labels": ["", "O"]}, "labels has '' as label 1"),
        ({"tokens": ["a", "b"], "labels": ["O", ["O"]]}, "labels has .'O'. as label 2"),
        ({"labels": "O"}, "labels is str, not a list"),
    ],
)
def test_what_is_wrong_with_a_row_of_words_is_named(tmp_path, change, told):
    path = write_jsonl(tmp_path / "rows.jsonl", [{**tagged(1)[0], **change}, *tagged(30)])
    task = pk.TokenClassification(data=pk.TaggedWords(path=str(path)))
    base = pk.Base(name_or_path=str(tmp_path))
    recipe = pk.Recipe(base=base, task=task, method=pk.LoRA())
    from peftkit.data.splits import load_splits

    with pytest.raises(PeftkitError, match=told):
        load_splits(recipe.task, 0)


def test_the_decoder_predicts_each_token_from_those_before(recipes):
    """Two streams: the losses are those of transformers' own labels, one row at a time."""
    from transformers import AutoModelForSeq2SeqLM

    from peftkit.evaluation.scoring import run_model
    from tests.engines import engine_of

    prepared = prepare(recipes["translation"])
    model = AutoModelForSeq2SeqLM.from_pretrained(prepared.base.folder).eval()
    examples, tokenizer = prepared.encoded.test, prepared.base.tokenizer
    losses = []
    for row in examples.rows:
        read = tokenizer(row.values["text"], return_tensors="pt")
        labels = tokenizer(row.values["targets"][0], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            losses.append((float(model(**read, labels=labels).loss), labels.shape[1]))
    by_hand = sum(loss * size for loss, size in losses) / sum(size for _, size in losses)
    engine = engine_of(model, prepared.encoded.head, micro_batch_tokens=40)
    task = recipes["translation"].task
    loss = run_model(engine, examples, task.reduce_outputs)[1]
    assert loss == {"loss": pytest.approx(by_hand, rel=1e-5)}


def test_words_of_nothing_are_named(bases):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bases["bert"])
    tokenizer.unk_token = None
    task = pk.TokenClassification(data=pk.TaggedWords(path="nowhere"))
    rows = [Row(3, {"tokens": ["film", "\u200b"]})]
    head = prepare_head()
    with pytest.raises(PeftkitError, match=r"row 3: the tokenizer gives no token for the word"):
        task.encode_inputs(rows, base_with(tokenizer), head)


def prepare_head():
    from peftkit.data.head import Head

    return Head("AutoModelForTokenClassification", "TOKEN_CLS", ("O",))


def test_the_kinds_are_recorded(recipes):
    for recipe in recipes.values():
        assert pk.Recipe.from_json(recipe.to_json()) == recipe
    assert Path(recipes["tokens"].base.name_or_path).is_dir()


class Cautious(pk.TextClassification):
    """Answers `good` from a threshold on, which the validation split decides."""

    decides = True

    def decide(self, kept, examples, head):
        from peftkit.tasks.answers import Decision

        good = head.labels.index("good")
        return Decision({"threshold": (np.median(kept[:, good] - kept[:, 1 - good]),)})

    def metrics(self, kept, examples, head, decision):
        score = super().metrics(kept, examples, head, decision)
        score.metrics["threshold"] = decision.numbers.get("threshold", (0.0,))[0]
        return score

    def answers(self, kept, examples, head, decision):
        from peftkit.tasks.answers import Scored

        return [Scored(decision.numbers["threshold"][0]) for _ in kept]


def test_what_is_decided_on_validation_rows_serves_the_test_rows_and_the_answers(
    make_recipe, reviews, tmp_path
):
    task = Cautious(data=pk.Data(path=str(reviews)))
    done = run(make_recipe(task=task, max_steps=2), str(tmp_path / "run"))
    kept = json.loads((done.folder / "adapter" / "peftkit.json").read_text())["decision"]
    [threshold] = kept["numbers"]["threshold"]
    assert done.record.test.after["threshold"] == threshold != 0
    assert done.record.test.before["threshold"] == 0
    assert pk.load(str(done.folder)).predict(["a film"])[0].score == threshold


def test_a_decision_is_finite():
    from peftkit.tasks.answers import Decision

    with pytest.raises(PeftkitError, match="`decide` returned \\(nan,\\) for `threshold`"):
        Decision({"threshold": (float("nan"),)})


@pytest.mark.parametrize("one", ["the film", b"the film", {"tokens": ["the"]}])
def test_one_input_is_no_list_of_them(runs, one):
    adapter = pk.load(str(runs["tokens"].folder))
    with pytest.raises(PeftkitError, match="not a list of inputs"):
        adapter.predict(one)
    with pytest.raises(PeftkitError, match="neither a text, nor a list or mapping"):
        adapter.predict([b"the film"])


def test_the_card_of_a_translator_gives_the_whole_translation(runs, recipes):
    adapter = runs["translation"].folder / "adapter"
    found: dict = {}
    lines = "".join(code_of_card(adapter, Path(recipes["translation"].base.name_or_path)))
    exec(lines.replace('"..."', '"bright film"').replace("print(", "written = ("), found)
    right = pk.load(str(runs["translation"].folder)).predict(["bright film"])[0].reply
    assert found["written"] == right != ""


def test_a_prefix_with_quotes_is_code(recipes):
    task = recipes["translation"].task.with_(prefix='Say "hi": ')
    found = {"tokenizer": lambda text, **_: text}
    exec(task.prompt_code(Head("AutoModelForSeq2SeqLM", "SEQ_2_SEQ_LM")), found)
    assert found["prompt"] == 'Say "hi": ...'


def test_what_is_translated_is_as_long_as_in_training(recipes):
    recipe = recipes["translation"]
    recipe = recipe.with_(task=recipe.task.with_(max_length=8))
    prepared = prepare(recipe)
    rows = [Row(1, {"text": " ".join(["bright"] * 20)})]
    with pytest.raises(PeftkitError, match="a prompt has 21 tokens, but at most 8 are read"):
        recipe.task.encode_inputs(rows, prepared.base, prepared.encoded.head)


def test_several_translations_of_a_text_are_kept_and_stay_in_one_split(tmp_path, recipes):
    rows = pairs(60)
    several = [{**row, "target": f"{row['target']} story"} for row in rows[:20]]
    path = write_jsonl(tmp_path / "several.jsonl", [*rows, *several])
    from peftkit.data.splits import load_splits

    splits, _ = load_splits(pk.Translation(data=pk.Pairs(path=str(path))), 0)
    kept = {name: [row.values["text"] for row in rows] for name, rows in splits.named().items()}
    assert sum(map(len, kept.values())) == len({(r["source"], r["target"]) for r in rows}) + 20
    assert not set(kept["train"]) & (set(kept["validation"]) | set(kept["test"]))


def test_what_is_of_which_row_is_in_the_digest(recipes):
    from dataclasses import replace

    encoded = prepare(recipes["tokens"]).encoded
    other = replace(encoded.train, row_of=encoded.train.row_of[::-1].copy())
    assert replace(encoded, train=other).sha256 != encoded.sha256


def test_columns_are_parallel_to_the_outputs(recipes):
    from dataclasses import replace

    train = prepare(recipes["tokens"]).encoded.train
    with pytest.raises(ValueError, match="column `word` has 3 entries"):
        replace(train, columns={"word": np.zeros(3)})
    some = train.chosen([1, 0])
    first, second = (train.columns["word"][train.outputs_of(index)] for index in (1, 0))
    assert some.columns["word"].tolist() == [*first, *second]


def test_texts_are_answered_on_the_command_line(runs, capsys):
    command_line(["predict", str(runs["tokens"].folder), "--text", "the bright warm film"])
    out = "the [bright warm](GOOD 0.9"
    assert capsys.readouterr().out.startswith(out)
    command_line(["predict", str(runs["translation"].folder), "--text", "bright film"])
    [reply] = pk.load(str(runs["translation"].folder)).predict(["bright film"])
    assert capsys.readouterr().out == f"{reply.reply}\n"
    with pytest.raises(SystemExit):
        command_line(["predict", "nowhere", "--text", "a", "--out", "answers.csv"])
    assert "`--out` needs `--file`" in capsys.readouterr().err


def test_labels_that_look_alike_are_noted(tmp_path):
    from peftkit.data.splits import load_splits

    rows, wide = tagged(60), "\uff27O"
    for row in rows[::2]:
        row["labels"] = [f"{label.replace('GO', wide)} " for label in row["labels"]]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    task = pk.TokenClassification(data=pk.TaggedWords(path=str(path)))
    splits, _ = load_splits(task, 0)
    notes = " ".join(task.remarks(splits))
    assert "labels that look alike count as separate classes" in notes
    assert f"`B-{wide}OD: " in notes
    assert f"B-{wide}OD " not in {label for row in splits.train for label in row.values["labels"]}


class FromStart(CrossEntropy):
    """How much worse the model is than before training."""

    needs_start_values = True
    linear = False

    def total(self, values, batch):
        return ((values - batch.column("start_values")) * batch.weights).sum()


class Improved(pk.TextClassification):
    def loss(self, training=None):
        return FromStart()


def test_an_adapter_answers_and_merges_where_the_loss_before_training_is_not_known(
    make_recipe, reviews, tmp_path
):
    task = Improved(data=pk.Data(path=str(reviews)))
    done = run(make_recipe(task=task, max_steps=2), str(tmp_path / "run"))
    test = done.record.test
    assert test.before["loss"] == pytest.approx(0, abs=1e-6)
    assert abs(test.after["loss"]) > 1e-3
    assert len(pk.load(str(done.folder)).predict(["a film", "a story"])) == 2
    assert "loss" not in merge_to(str(done.folder), str(tmp_path / "merged")).score.adapter
    with pytest.raises(PeftkitError, match="its loss compares with the model before training"):
        rewind(str(done.folder))
