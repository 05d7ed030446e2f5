"""Cross-validation: who is in which fold, runs that resume, one table, and the chosen adapter."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import f1_score

from peftkit import Data, Recipe, TextClassification, cross_validate
from peftkit.adapters.verifying import verify
from peftkit.cli.main import command_line
from peftkit.data.splits import Splits, load_splits
from peftkit.errors import DataError, OutputError, PeftkitError, RecipeError
from peftkit.experiments.folding import cross_validate as validating
from peftkit.experiments.folding.cross_validate import CrossValidated
from peftkit.experiments.folding.folder import find_folder
from peftkit.experiments.folding.folds import fold_notes, fold_recipe, read_folds
from peftkit.experiments.folding.pooling import folded_score
from peftkit.experiments.folding.record import read_record
from peftkit.experiments.folding.summary import best_fold
from peftkit.experiments.jobs.own_process import DiedError
from peftkit.metrics.classification import METRICS
from peftkit.metrics.metric import Metric
from peftkit.reports.run_record import read_run
from peftkit.tasks.score import Parts
from tests.conftest import sentences, write_csv


def split(path: Path, fold: int | None, folds: int = 5, **fields: object) -> Splits:
    data = Data(path=str(path), folds=folds, fold=fold, **fields)
    return load_splits(TextClassification(data=data), 0)[0]


def texts(rows: tuple) -> list[str]:
    return [row.values["text"] for row in rows]


# --- who is in which fold


def test_every_row_is_a_test_row_once_and_in_one_split_of_each_fold(tmp_path):
    rows = [(f"{label} {n}", label) for label, size in (("a", 31), ("b", 17)) for n in range(size)]
    path = write_csv(tmp_path / "r.csv", [*rows, rows[0]])
    folds = [split(path, fold) for fold in range(1, 6)]
    assert sorted(text for fold in folds for text in texts(fold.test)) == sorted(t for t, _ in rows)
    for fold in folds:
        assert sorted(t for part in fold.named().values() for t in texts(part)) == sorted(
            text for text, _ in rows
        )
        counts = Counter(row.values["label"] for row in fold.test)
        assert counts["a"] in (6, 7)
        assert counts["b"] in (3, 4)
        assert len(fold.test) in (9, 10)
        assert len(fold.validation) == round(48 * 0.15)
    validated = {text for fold in folds for text in texts(fold.validation)}
    assert len(validated) > 2 * 7  # not the same rows in each fold


def test_a_group_is_in_one_split_and_folds_are_of_even_size(tmp_path):
    rows = [(f"text {n}", "ab"[n % 2], f"g{n // 10}") for n in range(80)]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "label", "who"))
    for fold in range(1, 6):
        splits = split(path, fold, group="who")
        groups = [{row.group for row in rows} for rows in splits.named().values()]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 8
        assert len(splits.test) in (10, 20)


def test_the_order_of_the_file_does_not_matter(tmp_path):
    rows = sentences(60)
    one = split(write_csv(tmp_path / "a.csv", rows), 2)
    other = split(write_csv(tmp_path / "b.csv", rows[::-1]), 2)
    assert set(texts(one.test)) == set(texts(other.test))


def test_two_folds_with_as_many_rows_as_splits(tmp_path):
    path = write_csv(tmp_path / "r.csv", [(f"t {n}", "ab"[n % 2]) for n in range(6)])
    splits = split(path, 1, folds=2)
    assert [len(rows) for rows in splits.named().values()] == [2, 1, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fold": 2}, "`fold` is 2, but `folds` does not say of how many"),
        ({"folds": 3, "fold": 4}, "`fold` is 4, and there are 3 folds"),
        ({"folds": 3, "test_fraction": 0.3}, "`test_fraction` and `folds` exclude each other"),
        ({"folds": 2, "validation_fraction": 0.5}, "one of 2 folds as test split leave no rows"),
        ({"folds": 21}, "folds"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises((PeftkitError, ValueError), match=message):
        Data(path="x.csv", **fields)


def test_folds_of_own_splits_are_refused(tmp_path):
    for name in ("train", "test"):
        write_csv(tmp_path / f"{name}.csv", [(f"{name} {n}", "ab"[n % 2]) for n in range(20)])
    with pytest.raises(DataError, match="has its own `test` rows, and `folds` divides rows") as one:
        split(tmp_path, 1)
    assert "leave `folds` out" in one.value.hint


def test_more_folds_than_rows_or_groups_are_refused(tmp_path):
    rows = [(f"text {n}", "ab"[n % 2], f"g{n % 4}") for n in range(40)]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "label", "who"))
    with pytest.raises(DataError, match=r"4 groups in .*, fewer than 5 folds") as error:
        split(path, 1, group="who")
    assert error.value.hint == "add groups, or lower `folds`"


def test_a_label_with_one_row_cannot_be_tested(tmp_path):
    path = write_csv(tmp_path / "r.csv", [*sentences(30), ("a rare one", "rare")])
    messages = []
    for fold in range(1, 6):
        try:
            split(path, fold)
        except DataError as error:
            messages.append(error.message)
    assert len(messages) == 1
    assert "the test split has the label `rare`" in messages[0]


def test_one_run_of_all_folds_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="makes 5 runs, and this is one"):
        split(write_csv(tmp_path / "r.csv", sentences(30)), None)


# --- commands on all folds


def command_words(make_recipe: Callable[..., Recipe], folder: Path, words: list[str]) -> list[str]:
    file = folder / "recipe.json"
    file.write_text(make_recipe().to_json())
    return [words[0], str(file), *words[1:]]


def test_compare_takes_one_split(make_recipe, tmp_path, capsys):
    words = command_words(make_recipe, tmp_path, ["compare", "--task.data.folds", "3"])
    with pytest.raises(SystemExit):
        command_line(words)
    error = capsys.readouterr().err
    assert "error: a comparison trains on one split, and `tiny` has `folds` 3" in error
    assert "`--task.data.fold 1`" in error


def test_an_error_names_its_fold_before_any_run(make_recipe, in_tmp, capsys):
    path = write_csv(in_tmp / "r.csv", [*sentences(30), ("a rare one", "rare")])
    words = ["run", "--task.data.folds", "3", "--task.data.path", str(path)]
    with pytest.raises(SystemExit):
        command_line(command_words(make_recipe, in_tmp, words))
    assert "of 3: `" in capsys.readouterr().err
    assert not (in_tmp / "runs").exists()


def test_check_shows_the_size_of_each_fold(make_recipe, tmp_path, capsys):
    command_line(command_words(make_recipe, tmp_path, ["check", "--task.data.folds", "4"]))
    shown = capsys.readouterr().out
    assert "fold 1 of 4" in shown
    sizes = [line.split()[1:] for line in shown.splitlines() if line.split()[:1] in (["1"], ["4"])]
    assert sizes == 2 * [["120", "30", "50"]]


@pytest.mark.slow
def test_plan_counts_the_runs_of_all_folds(make_recipe, tmp_path, capsys):
    command_line(command_words(make_recipe, tmp_path, ["plan", "--task.data.folds", "4", "--json"]))
    printed = capsys.readouterr()
    assert json.loads(printed.out)["runs"] == 4
    assert "the 4 runs of all folds take about" in printed.err


def test_a_label_with_fewer_rows_than_folds_is_noted(make_recipe, tmp_path):
    rows = [*sentences(30), ("a rare one", "rare"), ("another rare one", "rare")]
    data = Data(path=str(write_csv(tmp_path / "r.csv", rows)), folds=3)
    folds = read_folds(make_recipe(task=TextClassification(data=data)))
    (note,) = fold_notes(folds)
    assert note.startswith("some folds test no row of label `rare`")
    assert not list(fold_notes(read_folds(make_recipe())))


# --- scores over folds


def test_the_pooled_score_is_that_of_all_rows():
    expected, predicted = np.random.default_rng(0).integers(0, 3, (2, 90))
    parts = [
        Parts.of(np.stack([expected[place], predicted[place]], axis=1), 3)
        for place in np.array_split(np.arange(90), 4)
    ]
    score = folded_score(METRICS["macro_f1"], [0.1, 0.2, 0.3, 0.4], parts)
    assert score.pooled == pytest.approx(f1_score(expected, predicted, average="macro"))
    assert score.interval[0] < score.pooled < score.interval[1]
    assert (score.rows, score.mean) == (90, pytest.approx(0.25))
    assert score.spread == pytest.approx(np.std([0.1, 0.2, 0.3, 0.4], ddof=1))
    assert folded_score(METRICS["macro_f1"], [0.1] * 4, parts, same_labels=False).pooled is None
    assert folded_score(Metric("auc"), [0.1, 0.2], []).pooled is None


# --- whole cross-validations on a tiny base


@pytest.fixture(scope="module")
def recipe(make_recipe, tmp_path_factory) -> Recipe:
    rows = [(f"{text} word{n % 20}", label) for n, (text, label) in enumerate(sentences(48))]
    path = write_csv(tmp_path_factory.mktemp("folds") / "small.csv", rows)
    task = TextClassification(data=Data(path=str(path), folds=3))
    return make_recipe(task=task, num_epochs=5)


@pytest.fixture(scope="module")
def done(recipe, tmp_path_factory) -> CrossValidated:
    """Stopped at the second fold, which died; then resumed."""
    folder = tmp_path_factory.mktemp("runs") / "cv"
    isolated = validating.run_isolated

    def dies(function, text, modules, rows, path):
        if path.endswith("fold_2"):
            Path(path).mkdir()
            raise DiedError("the process was killed")
        isolated(function, text, modules, rows, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validating, "run_isolated", dies)
        with pytest.raises(DiedError, match="fold 2 of 3: the process was killed"):
            cross_validate(recipe, str(folder))
    assert read_record(folder).status == "unfinished"
    first = (folder / "fold_1" / "run.json").stat().st_mtime_ns
    with (folder.parent / "log").open("w") as log:
        done = validating.cross_validate(recipe, str(folder), Console(width=160, file=log))
    assert (folder / "fold_1" / "run.json").stat().st_mtime_ns == first
    return done


def test_the_record_is_that_of_its_runs(recipe, done):
    record, folder = done.record, done.folder
    assert record == read_record(folder)
    runs = [read_run(folder / f"fold_{n}") for n in (1, 2, 3)]
    right = [run.test.after["accuracy"] * fold.rows["test"]
             for run, fold in zip(runs, record.folds, strict=True)]  # fmt: skip
    accuracy = next(score for score in record.scores if score.name == "accuracy")
    assert accuracy.rows == sum(fold.rows["test"] for fold in record.folds) == 48
    assert accuracy.pooled == pytest.approx(sum(right) / 48)
    assert record.chosen == best_fold(record.folds, Metric("accuracy"))
    assert all(run.test.baseline["frozen probe"] for run in runs)
    for number in (1, 2, 3):
        one = Recipe.from_json((folder / f"fold_{number}" / "recipe.json").read_text())
        assert one.task == fold_recipe(recipe, number).task


def test_test_scores_do_not_choose(done):
    first, *others = done.record.folds
    folds = [
        replace(first, fold=1, validation=0.5, after={"accuracy": 1.0}),
        *(replace(fold, validation=0.6, after={"accuracy": 0.0}) for fold in others),
    ]
    assert best_fold(folds, Metric("accuracy")) == 2
    assert best_fold(folds, Metric("loss", higher_is_better=False)) == 1


def test_the_table_and_the_page_say_what_was_chosen(done):
    log = (done.folder.parent / "log").read_text()
    page = (done.folder / "folds.html").read_text()
    for text in (log, page):
        assert f"adapter is that of fold {done.record.chosen}" in text
        assert "Bengio &" in text
        assert "95 % interval" in text
    assert "holds 1 of 3 runs" in log
    assert "frozen probe, mean accuracy: 0." in log
    assert "<script" not in page
    assert "http" not in page


def test_the_folder_is_a_run_folder(done, capsys, tmp_path):
    chosen = done.folder / f"fold_{done.record.chosen}"
    weights = [folder / "adapter" / "adapter_model.safetensors" for folder in (done.folder, chosen)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not verify(str(done.folder)).problems
    command_line(["predict", str(done.folder), "--text", "a lovely film"])
    assert capsys.readouterr().out.split()[0] in ("good", "bad")
    command_line(["merge", str(done.folder), "--output", str(tmp_path / "merged")])
    report = json.loads((tmp_path / "merged" / "merge_report.json").read_text())
    assert report["validation"] is not None  # recipe.json names the fold's rows


def test_a_folds_recipe_repeats_it(done, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command_line(["run", str(done.folder / "fold_2" / "recipe.json"), "--output-dir", "again"])
    again, first = Path("again"), done.folder / "fold_2"
    assert read_run(again).test.after == read_run(first).test.after
    assert (again / "by_example.json").read_text() == (first / "by_example.json").read_text()


def test_the_same_again_runs_nothing(recipe, done, monkeypatch):
    monkeypatch.setattr(validating, "run_isolated", None)
    again = cross_validate(
        Recipe.from_json((done.folder / "folds_recipe.json").read_text()), str(done.folder)
    )
    assert again.record == done.record


def test_another_recipe_is_not_mixed_in(recipe, done, in_tmp):
    other = recipe.with_(seed=1)
    with pytest.raises(
        OutputError, match=r"another cross-validation: `recipe.seed` was 0 and is 1"
    ):
        cross_validate(other, str(done.folder))
    (in_tmp / "runs").mkdir()
    (in_tmp / "runs" / "tiny").symlink_to(done.folder)
    same = done.record.identity
    assert find_folder("tiny", "", same) == Path("runs/tiny")
    assert find_folder("tiny", "", replace(same, rows_sha256="0")) == Path("runs/tiny-2")
    (in_tmp / "full").mkdir()
    (in_tmp / "full" / "file").touch()
    with pytest.raises(OutputError, match="exists already"):
        find_folder("tiny", "full", same)


def test_a_failure_in_the_first_fold_leaves_nothing(recipe, in_tmp, monkeypatch):
    def dies(*_):
        raise DiedError("the process was killed")

    monkeypatch.setattr(validating, "run_isolated", dies)
    with pytest.raises(DiedError):
        cross_validate(recipe)
    assert not (in_tmp / "runs").exists()
