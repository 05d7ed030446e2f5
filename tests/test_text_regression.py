"""Numbers and ordered levels of texts, from a file of rows to an answer."""

from __future__ import annotations

import csv
import random

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn import metrics as oracle
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.cli.main import command_line
from peftkit.data.splits import load_splits
from peftkit.deploy.merging.merge import merge_to
from peftkit.metrics.bootstrap import sums_interval
from peftkit.metrics.correlation import correlation, spearman_parts
from peftkit.metrics.kappa import kappa_parts, quadratic_kappa
from peftkit.metrics.metric import Metric
from peftkit.metrics.regression import r2, r2_parts
from peftkit.reports.run_record import read_run
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.tasks.losses import BinaryCrossEntropies, SquaredError
from peftkit.tasks.scoring.level_scores import above, places_of
from peftkit.tasks.scoring.number_scores import quantile_groups
from tests.conftest import write_csv
from tests.examples import examples_from

FILLER = ("the", "film", "a", "story", "people", "was")


def graded(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Texts with the number of times that `bright` is in them."""
    rng = random.Random(seed)
    rows: dict[str, int] = {}
    while len(rows) < count:
        times = rng.randint(0, 4)
        words = [*rng.choices(FILLER, k=rng.randint(3, 8)), *["bright"] * times]
        rng.shuffle(words)
        rows[" ".join(words)] = times
    return list(rows.items())


def rows_file(folder, values, text=lambda number: f"the film {number}", column="score"):
    rows = [(text(number), value) for number, value in enumerate(values)]
    return str(write_csv(folder / "rows.csv", rows, header=("text", column)))


def task_of(folder, values, **fields) -> pk.TextRegression:
    return pk.TextRegression(data=pk.Numbers(path=rows_file(folder, values)), **fields)


def recipe_of(folder, base, method=None, **fields) -> pk.Recipe:
    rows = [(text, 10 * times + 200) for text, times in graded(120)]
    if fields.get("ordinal"):
        rows = graded(120)
    path = write_csv(folder / "rows.csv", rows, header=("text", "score"))
    return pk.Recipe(
        base=pk.Base(name_or_path=str(base)),
        task=pk.TextRegression(data=pk.Numbers(path=str(path)), **fields),
        method=method or pk.LoRA(r=8, lora_alpha=16),
        training=pk.Training(learning_rate=1e-2, num_epochs=5, batch_size=16),
        name="graded",
    )


KINDS = {
    "number": ("bert", None, {}),
    "mean": ("bert", pk.IA3(), {"pooling": "mean"}),
    "decoder": ("llama", None, {}),
    "levels": ("bert", None, {"ordinal": True}),
}


@pytest.fixture(scope="module", params=KINDS)
def finished(request, bases, tmp_path_factory):
    base, method, fields = KINDS[request.param]
    folder = tmp_path_factory.mktemp("regression")
    recipe = recipe_of(folder, bases[base], method, **fields)
    return run(recipe, str(folder / "run")), recipe


def test_a_run_learns_saves_and_answers(finished, tmp_path, capsys):
    done, recipe = finished
    record, first = done.record, "mae" if recipe.task.ordinal else "rmse"
    test = record.test
    assert record.training.metric == first
    assert test.after[first] < 0.9 * test.before[first]
    (guess,) = test.baseline
    assert guess == ("median" if recipe.task.ordinal else "mean")
    assert test.after[first] < test.baseline[guess][first]
    assert test.lead == ()
    assert set(recipe.task.known_scores) == set(test.after)
    assert set(test.intervals) == set(test.after) - {"loss"}
    assert verify(str(done.folder)).problems == []
    assert read_run(done.folder).test == test
    page = (done.folder / "receipt.html").read_text()
    assert "farthest from the expected numbers" in page
    assert "% sure" not in page
    kept = pk.load(str(done.folder))
    rows = prepare(recipe).encoded.test.rows
    texts = [row.values["text"] for row in rows]
    answers = kept.predict(texts)
    errors = np.array([a.score for a in answers]) - [row.values["score"] for row in rows]
    expected = abs(errors).mean() if recipe.task.ordinal else np.sqrt((errors**2).mean())
    assert test.after[first] == pytest.approx(expected, rel=1e-3)
    file = write_csv(tmp_path / "in.csv", [(text, "") for text in texts], header=("text", "x"))
    command = ["predict", str(done.folder), "--file", str(file), "--out", str(tmp_path / "out.csv")]
    command_line(command)
    with (tmp_path / "out.csv").open() as opened:
        found = [float(row["score"]) for row in csv.DictReader(opened)]
    assert found == pytest.approx([answer.score for answer in answers], abs=1e-4)
    capsys.readouterr()
    command_line(["predict", str(done.folder), "--text", texts[0]])
    assert capsys.readouterr().out.split()[0] == answers[0].line("").split()[0]


def test_transformers_reads_the_merged_model_with_the_scale_of_its_card(finished, tmp_path):
    done, recipe = finished
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    assert report.relative <= report.tolerance
    card = (tmp_path / "merged" / "README.md").read_text()
    own = (done.folder / "adapter" / "README.md").read_text()
    text = "the bright film bright"
    [answer] = pk.load(str(done.folder)).predict([text])
    if recipe.task.ordinal:
        assert "The levels are 0, 1, 2, 3, 4." in card
        assert "The levels are 0, 1, 2, 3, 4." in own
    else:
        formula = next(part for part in card.split("`") if part.startswith("score = "))
        assert formula in own
    if recipe.task.pooling != "head":
        return
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        outputs = model(**tokenizer(text, return_tensors="pt")).logits[0]
    asked = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    [said] = asked([text])
    if recipe.task.ordinal:
        assert int((outputs > 0).sum()) == answer.score
        assert {entry["label"] for entry in said} == {f"above {n}" for n in range(4)}
        assert sum(entry["score"] > 0.5 for entry in said) == answer.score
    else:
        assert eval(formula.partition(" = ")[2], {"output": said[0]["score"]}) == pytest.approx(
            answer.score, abs=1e-3
        )


def test_a_recorded_run_repeats_with_its_own_scale(bases, tmp_path):
    recipe = recipe_of(tmp_path, bases["bert"])
    prepared = prepare(recipe)
    task = prepared.recipe.task
    numbers = [row.values["score"] for row in prepared.encoded.train.rows]
    assert (task.target_mean, task.target_scale) == (np.mean(numbers), np.std(numbers))
    assert prepared.encoded.train.targets.mean() == pytest.approx(0, abs=1e-6)
    assert prepared.encoded.train.targets.std() == pytest.approx(1, abs=1e-6)
    again = pk.Recipe.from_json(prepared.recipe.to_json())
    assert prepare(again).encoded.sha256 == prepared.encoded.sha256
    given = recipe.with_(task=recipe.task.with_(target_mean=0.0, target_scale=1.0))
    assert prepare(given).encoded.train.targets[:, 0].tolist() == numbers


def test_scores_equal_scikit_learn_and_scipy():
    rng = np.random.default_rng(0)
    for count in (2, 7, 60):
        expected = rng.integers(0, 5, count) + 1000.0
        for predicted in (expected + rng.normal(size=count), expected + rng.integers(-1, 2, count)):
            centred = expected - expected.mean(), predicted - expected.mean()
            assert r2(r2_parts(*centred).sum(axis=0)) == pytest.approx(
                oracle.r2_score(expected, predicted)
            )
            assert correlation(spearman_parts(predicted, expected).sum(axis=0)) == pytest.approx(
                spearmanr(expected, predicted).statistic
            )


@pytest.mark.parametrize("values", [([1, 1, 1], [0, 1, 2]), ([0, 1, 2], [1, 1, 1]), ([3], [3])])
def test_a_constant_has_no_correlation(values):
    expected, predicted = map(np.array, values)
    assert correlation(spearman_parts(predicted, expected).sum(axis=0)) == 0
    assert quadratic_kappa(kappa_parts(expected, predicted).sum(axis=0)) == 0


def test_r2_of_equal_numbers_is_that_of_scikit_learn():
    for expected, predicted in (([0.3] * 3, [0.3] * 3), ([0.3] * 3, [0.1, 0.3, 0.3])):
        parts = r2_parts(np.array(expected), np.array(predicted)).sum(axis=0)
        assert r2(parts) == oracle.r2_score(expected, predicted)


def test_kappa_equals_scikit_learn():
    rng = np.random.default_rng(0)
    for count, levels in ((5, 3), (40, 5), (300, 11)):
        expected = rng.integers(0, levels, count)
        predicted = np.clip(expected + rng.integers(-2, 3, count), 0, levels - 1)
        assert quadratic_kappa(kappa_parts(expected, predicted).sum(axis=0)) == pytest.approx(
            oracle.cohen_kappa_score(expected, predicted, weights="quadratic")
        )


def test_an_interval_of_ranks_is_nearly_that_of_ranked_resamples():
    rng = np.random.default_rng(1)
    expected = rng.normal(size=300)
    predicted = expected + rng.normal(size=300)
    parts = spearman_parts(predicted, expected)
    found = sums_interval(parts, correlation)
    draws = [rng.integers(0, 300, 300) for _ in range(1000)]
    ranked = [spearmanr(expected[draw], predicted[draw]).statistic for draw in draws]
    assert found == pytest.approx(np.quantile(ranked, [0.025, 0.975]), abs=0.02)


def test_a_split_is_scored_in_the_units_of_the_file(tmp_path):
    task = task_of(tmp_path, range(40), target_mean=100.0, target_scale=20.0)
    rng = np.random.default_rng(0)
    scaled, outputs = rng.normal(size=(2, 30, 1)).astype(np.float32)
    rows = examples_from([[1]] * 30, [0] * 30).rows
    rows = [type(row)(row.number, {"text": "a"}) for row in rows]
    score = task.score_rows(outputs, scaled, rows, None, None)
    expected, predicted = (
        20.0 * array[:, 0].astype(np.float64) + 100 for array in (scaled, outputs)
    )
    assert score.metrics == pytest.approx({
        "rmse": oracle.root_mean_squared_error(expected, predicted),
        "mae": oracle.mean_absolute_error(expected, predicted),
        "r2": oracle.r2_score(expected, predicted),
        "spearman": spearmanr(expected, predicted).statistic,
    })  # fmt: skip
    for name, parts in score.parts.items():
        if name != "loss":
            assert task.metric(name).statistic(parts.table.sum(axis=0)) == pytest.approx(
                score.metrics[name]
            )
    errors = predicted - expected
    assert score.mistakes[0].error == pytest.approx(errors[abs(errors).argmax()])
    (table,) = score.tables
    assert sum(row[1] for row in table.rows) == 30
    assert sum(row[1] * row[2] for row in table.rows) / 30 == pytest.approx(abs(errors).mean())


def test_levels_are_scored_as_numbers(tmp_path):
    levels = (1.0, 1.5, 3.0, 4.0)
    task = task_of(tmp_path, [1, 1.5] * 20, ordinal=True, levels=levels)
    rng = np.random.default_rng(0)
    places, outputs = rng.integers(0, 4, 50), rng.normal(size=(50, 3)).astype(np.float32)
    rows = [
        type(row)(row.number, {"text": "a"}) for row in examples_from([[1]] * 50, [0] * 50).rows
    ]
    score = task.score_rows(outputs, above(places, 4), rows, None, None)
    found = (outputs > 0).sum(axis=1)
    assert score.metrics == pytest.approx({
        "mae": oracle.mean_absolute_error(np.array(levels)[places], np.array(levels)[found]),
        "quadratic_kappa": oracle.cohen_kappa_score(places, found, weights="quadratic"),
        "accuracy": oracle.accuracy_score(places, found),
    })  # fmt: skip
    assert np.array(score.matrices[0].counts).tolist() == (
        oracle.confusion_matrix(places, found).tolist()
    )
    loss = BinaryCrossEntropies().values(torch.from_numpy(outputs), torch.tensor(above(places, 4)))
    sums = score.parts["loss"].table.sum(axis=0)
    assert sums[0] / sums[1] == pytest.approx(float(loss.mean()), rel=1e-6)
    answers = task.answer_rows(outputs, None, None)
    assert [answer.score for answer in answers] == [levels[place] for place in found]
    assert answers[0].cells() == {"score": str(levels[found[0]]).removesuffix(".0")}


def test_the_levels_above_are_those_that_a_place_exceeds():
    assert above([0, 2, 3], 4).tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert places_of(above([0, 2, 3], 4)).tolist() == [0, 2, 3]


def test_losses_count_the_weights_of_windows():
    examples = examples_from([[1], [1], [1]], [0, 0, 0], weights=[0.5, 0.5, 2.0])
    targets = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    outputs = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.binary_cross_entropy_with_logits
    for loss, expected in (
        (SquaredError(), ((outputs - targets) ** 2).sum(dim=1)),
        (BinaryCrossEntropies(), plain(outputs, targets, reduction="none").sum(dim=1)),
    ):
        assert torch.allclose(loss.values(outputs, targets), expected)
        assert loss.count(examples, [0, 2]) == 2.5
        assert loss.count(examples_from([[1], [1]], [0, 0]), [0, 1]) == 2


def test_splits_hold_every_fifth_alike(tmp_path):
    rng = random.Random(0)
    task = task_of(tmp_path, [rng.lognormvariate(0, 2) for _ in range(200)])
    splits, ledger = load_splits(task, 0)
    for name, rows in splits.named().items():
        counts = ledger.splits[name].strata
        assert len(counts) == 5
        assert max(counts.values()) - min(counts.values()) <= 2
        assert sum(counts.values()) == len(rows)
    assert next(iter(ledger.splits["train"].strata)).startswith("1: ")


def test_equal_numbers_are_in_one_group():
    groups, names = quantile_groups([5, 5, 5, 5, 5, 5, 1, 2, 5, 5] * 4)
    assert groups.tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 1, 1] * 4
    assert names == ["1: 1 to 2", "2: 5"]
    assert quantile_groups([3])[1] == ["1: 3"]


BAD = {
    "nan": ("1 2 nan 4 5", {}, "1 empty score (line 4)|1 score `nan` is not a number (line 4)"),
    "infinite": ("1 2 inf 4 5", {}, "1 score `inf` is not a number (line 4)"),
    "empty": ("1 2 - 4 5", {}, "1 score `-` is not a number (line 4)"),
    "a word": ("1 2 good 4 5", {}, "1 score `good` is not a number (line 4)"),
    "huge": ("1 2 1e200 4 5", {}, "is `1e200`, and numbers may be at most 1e+100 in size (line 4)"),
    "huger": ("1 2 1e400 4 5", {}, "score is `1e400`, and numbers may be at most 1e+100 in size"),
    "constant": ("3.5 " * 20, {}, "column `score` is 3.5 in all rows, 20: there is nothing to"),
    "two rows": ("1 2", {}, "2 usable rows in"),
    "fractions as levels": (
        "1 2 2.5 3", {"ordinal": True},
        "has 2.5 in row 4, and with `task.ordinal` levels are whole (1 such rows)",
    ),
    "other levels": (
        "1 2 5 3", {"ordinal": True, "levels": (1, 2, 3)},
        "has 5 in row 4, and with `task.ordinal` levels are `1`, `2`, `3` (1 such rows)",
    ),
    "too many levels": (
        "1 2 5000 3", {"ordinal": True},
        "whole numbers from 1 to 5,000; with `task.ordinal` there may be 100 levels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_one_clear_message(tmp_path, case):
    values, fields, told = BAD[case]
    with pytest.raises(pk.PeftkitError) as caught:
        load_splits(task_of(tmp_path, values.split(), **fields), 0)
    assert any(part in caught.value.message for part in told.split("|")), caught.value.message
    assert caught.value.hint


def test_json_values_that_are_no_numbers_are_told(tmp_path):
    table, task = None, pk.TextRegression(data=pk.Numbers(path="rows.jsonl", decimal=","))
    read = [
        task.read_answer({"score": value}, table) for value in (True, [1], float("nan"), 10**400)
    ]
    assert read[:3] == ["score is bool, not a number", "score is list, not a number", "empty score"]
    assert "numbers may be at most 1e+100 in size" in read[3]
    assert task.read_answer({"score": float("inf")}, table) == "score is inf, not a finite number"
    assert task.read_answer({"score": "1.234,5"}, table) == {"score": 1234.5}


COMMAS = {
    "never thousands": (
        "0,100 1,113 2,126 3,139",
        "column `score` has `0,100` in line 2; `task.data.decimal` is `.` (4 such lines)",
    ),
    "one decimal": ("2 1,5 3 4", "has `1,5` in line 3; `task.data.decimal` is `.` (1 such line)"),
    "perhaps thousands": (
        "1,000 850 2,250 3 4 5",
        "in line 2, which may be 1, or 1000 with thousands set off; `task.data.decimal` is `.`",
    ),
}


def numbers_of(folder, values: str, **data) -> list[float]:
    """The numbers that are read from a file with `;` between its fields."""
    lines = [f"the film {number};{value}\n" for number, value in enumerate(values.split())]
    (folder / "rows.csv").write_text("text;score\n" + "".join(lines))
    task = pk.TextRegression(data=pk.Numbers(path=str(folder / "rows.csv"), **data))
    splits, _ = load_splits(task, 0)
    rows = [row for part in splits.named().values() for row in part]
    return [row.values["score"] for row in sorted(rows, key=lambda row: row.number)]


@pytest.mark.parametrize("case", COMMAS)
def test_a_comma_that_may_be_a_decimal_comma_is_asked_about(tmp_path, case):
    values, told = COMMAS[case]
    for malformed in ("refuse", "skip"):
        with pytest.raises(pk.PeftkitError) as caught:
            numbers_of(tmp_path, values, malformed=malformed)
        assert told in caught.value.message
        assert caught.value.hint.startswith("for a decimal comma, give `--task.data.decimal ,`")
    read = numbers_of(tmp_path, values, decimal=",")
    assert read == [float(value.replace(",", ".")) for value in values.split()]


def test_clear_thousands_are_read(tmp_path):
    for values in ("1,000 850.5 2,250", "1,000,000 1,000 2", "1,000.5 1,000 3"):
        assert numbers_of(tmp_path, f"{values} 4 5 6") == [
            *(float(value.replace(",", "")) for value in values.split()), 4, 5, 6,
        ]  # fmt: skip
    assert numbers_of(tmp_path, "1.000 850 2.250 4 5", decimal=",") == [1000, 850, 2250, 4, 5]
    with pytest.raises(pk.PeftkitError, match=r"has `0\.5` in line 2; .* is `,`") as caught:
        numbers_of(tmp_path, "0.5 1.234 2", decimal=",")
    assert caught.value.hint == "for a decimal point, give `--task.data.decimal .`"
    with pytest.raises(pk.PeftkitError, match="1 score `3,5` is not a number"):
        numbers_of(tmp_path, "1.5 3,5 2.25")
    with pytest.raises(pk.PeftkitError, match="is 5 in all training rows, 1: there is nothing"):
        numbers_of(tmp_path, "1 3 5")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"target_scale": 1e-300}, "`task.target_scale` is 1e-300, which makes targets too large"),
        ({"target_scale": 1e-30}, "which makes targets too large in float32"),
        ({"target_scale": 1e300}, "is 1e+300, which makes all training targets equal in float32"),
        ({"target_mean": 1e300, "target_scale": 1.0},
         "`task.target_mean` is 1e+300 and `task.target_scale` is 1, which makes targets too"),
    ],
)  # fmt: skip
def test_a_scale_that_float32_cannot_hold_is_refused(tmp_path, fields, told):
    with pytest.raises(pk.PeftkitError) as caught:
        load_splits(task_of(tmp_path, range(40), **fields), 0)
    assert told in caught.value.message
    assert "out: the training rows' mean is " in caught.value.hint


def test_levels_with_few_training_rows_are_noted(tmp_path):
    task = task_of(tmp_path, [*[1, 2, 4] * 20, 9], ordinal=True)
    (note,) = (note for note in load_splits(task, 0)[1].notes if "levels" in note)
    assert note == (
        "some levels have fewer than 5 training rows, too few to learn them: `3` 0, `5` 0, `6` 0, "
        "`7` 0, `8` 0, and 1 more; if there are no others, give `--task.levels 1 2 4 9`"
    )
    task = task.with_(levels=(1, 2, 4, 9))
    (note,) = (note for note in load_splits(task, 0)[1].notes if "levels" in note)
    assert note.endswith("too few to learn them: `9` 1")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"levels": (1, 2)}, "`levels` are given, but `ordinal` is not set"),
        ({"ordinal": True, "levels": (2, 1)}, "not two or more numbers in ascending order"),
        ({"ordinal": True, "target_mean": 1.0}, "with `ordinal` levels are learned"),
        ({"target_scale": 0.0}, "greater than 0"),
    ],
)
def test_fields_that_do_not_fit_are_refused(tmp_path, fields, told):
    with pytest.raises(ValueError, match=told):
        task_of(tmp_path, [1, 2], **fields)


def test_label_smoothing_is_refused(tmp_path, bases):
    recipe = recipe_of(tmp_path, bases["bert"])
    with pytest.raises(ValueError, match="TextRegression has no classes to smooth"):
        recipe.with_(training=recipe.training.with_(label_smoothing=0.1))


def test_suspicious_numbers_are_noted(tmp_path):
    rng = random.Random(0)
    values = [round(rng.random(), 3) for _ in range(100)]
    far = task_of(tmp_path, [*values, -999])
    _, ledger = load_splits(far.with_(data=far.data.with_(max_rows=None)), 0)
    seen = [note for note in ledger.notes if "value is missing?" in note]
    assert len(seen) == ("-999" in str(ledger.splits["train"].strata))
    given = task_of(tmp_path, values, target_mean=50.0)
    assert any("do not fit the training rows" in note for note in load_splits(given, 0)[1].notes)
    assert not load_splits(task_of(tmp_path, values), 0)[1].notes


def test_a_level_beyond_those_of_training_names_the_way_out(tmp_path):
    for name, values in (("train", [1, 2, 3] * 5), ("test", [1, 4]), ("validation", [1, 2])):
        rows = [(f"{name} film {number}", value) for number, value in enumerate(values)]
        write_csv(tmp_path / f"{name}.csv", rows, header=("text", "score"))
    task = pk.TextRegression(data=pk.Numbers(path=str(tmp_path)), ordinal=True)
    with pytest.raises(pk.PeftkitError) as caught:
        load_splits(task, 0)
    assert "the test split has the level 4 in row 3, and training has 1 to 3" in str(caught.value)
    assert "--task.levels 1 2 3" in caught.value.hint
    load_splits(task.with_(levels=(1, 2, 3, 4)), 0)


def test_windows_of_a_text_answer_with_their_mean(bases, tmp_path):
    recipe = recipe_of(tmp_path, bases["bert"])
    task = recipe.task.with_(max_length=6, over_long="windows", overlap=2)
    done = run(
        recipe.with_(task=task, training=recipe.training.with_(num_epochs=1)), str(tmp_path / "run")
    )
    assert done.record.test.after["rmse"] > 0
    assert verify(str(done.folder)).problems == []


def test_it_is_compared_by_any_of_its_metrics(bases, tmp_path):
    from peftkit.evaluation.scoring import rehearsed_score

    prepared = prepare(recipe_of(tmp_path, bases["bert"]))
    encoded = prepared.encoded
    score = rehearsed_score(prepared.recipe.task, encoded.test, encoded.head)
    assert set(score.parts) == {"rmse", "mae", "r2", "spearman", "loss"}
    assert all(isinstance(prepared.recipe.task.metric(name), Metric) for name in score.metrics)


def test_a_run_that_does_not_beat_the_mean_says_so_first(bases, tmp_path):
    recipe = recipe_of(tmp_path, bases["bert"])
    training = recipe.training.with_(learning_rate=1e-7, max_steps=1)
    (told,) = run(recipe.with_(training=training), str(tmp_path / "run")).record.test.lead
    assert told.startswith("not better than a constant answer")
    assert ": rmse " in told
    assert "; the mean of the training rows gives " in told
