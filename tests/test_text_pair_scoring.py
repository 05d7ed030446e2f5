"""A number for two texts: losses over groups, scores, answers and refusals."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.cli.main import command_line
from peftkit.data.encoded import Encoded, Examples
from peftkit.data.head import Head
from peftkit.data.ragged import Ragged
from peftkit.data.rows import Row, group_name
from peftkit.data.splits import load_splits
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import PeftkitError
from peftkit.evaluation.scoring import run_model
from peftkit.methods.method import trainable_parameters
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.tasks.answers import Ranked, Scored
from peftkit.tasks.ranking_losses import loss_of
from peftkit.tasks.scoring.pair_scores import ranks
from tests.engines import engine_of
from tests.scored_pairs import candidates, write_pairs
from tests.test_fast_paths import compare_gradients, inject, model_of

# The losses

HEAD = Head("AutoModelForSequenceClassification", "SEQ_CLS", size=1, problem_type="regression")
LENGTHS = (9, 14, 5, 30, 12, 7, 8)
UNITS = (0, 1, 0, 2, 1, 0, 2)
EXPECTED = (2, 0, 1, 3, 1, 0, 0)


def groups() -> Examples:
    """Groups of three, two and two texts, mixed with each other."""
    random = np.random.default_rng(0)
    return Examples(
        rows=tuple(Row(number, {}) for number in range(len(LENGTHS))),
        inputs={"input_ids": Ragged.of([random.integers(4, 80, size=n) for n in LENGTHS])},
        targets=np.array(EXPECTED, np.float32)[:, None],
        units=np.array(UNITS),
    )


def by_hand(objective: str, scores, expected, units) -> float:
    """The mean over groups, one pair and one candidate at a time."""
    losses = []
    for unit in sorted(set(units)):
        of = [i for i, other in enumerate(units) if other == unit]
        s, y = scores[of], torch.tensor([float(expected[i]) for i in of])
        if objective == "pairwise":
            pairs = [(i, j) for i in range(len(of)) for j in range(len(of)) if y[i] > y[j]]
            losses.append(sum(torch.log(1 + torch.exp(s[j] - s[i])) for i, j in pairs) / len(pairs))
        else:
            losses.append(-(y / y.sum() * torch.log(torch.softmax(s, 0))).sum())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("objective", ["pairwise", "listwise"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_how_a_step_is_cut_changes_neither_loss_nor_gradients(kind, objective, layout):
    model, examples = model_of(kind, HEAD.auto_class, labels=1), groups()
    model.config.pad_token_id = 0
    encoded = Encoded(examples, examples, examples, HEAD, 0)
    model = inject(pk.LoRA(r=4, target_modules="all-linear"), model, encoded)
    scores = torch.stack([
        model(input_ids=torch.from_numpy(ids).long()[None]).logits[0, 0]
        for ids in examples.input_ids
    ])  # fmt: skip
    loss = by_hand(objective, scores, EXPECTED, UNITS)
    loss.backward()
    loss = loss.item()
    trained = trainable_parameters(model)
    right = {name: p.grad for name, p in trained.items() if p.grad is not None}
    model.zero_grad()
    engine = engine_of(model, HEAD, layout, loss_of(objective))
    count = engine.loss.count(examples, range(7))
    assert count == 3
    for cut in ([range(7)], [(0, 2, 5), (1, 4), (3, 6)], [(6, 1, 3, 4), (5, 2, 0), ()]):
        passed = engine.gradients(examples, cut, count)
        assert float(passed.loss) == pytest.approx(loss, rel=1e-5)
        right.update({n: torch.zeros_like(p) for n, p in trained.items() if n not in right})
        compare_gradients(model, right)
        model.zero_grad()
    for tokens in (20, 4096):  # validation too
        engine = engine_of(model, HEAD, layout, loss_of(objective), micro_batch_tokens=tokens)
        kept, scored = run_model(engine, examples, lambda outputs, _: outputs)
        assert scored == {"loss": pytest.approx(loss, rel=1e-5)}
        np.testing.assert_allclose(kept[:, 0], scores.detach().numpy(), atol=1e-5)


class _Batch:
    """What a loss reads of a batch."""

    def __init__(self, expected, units):
        self.targets = torch.tensor(expected, dtype=torch.float32)[:, None]
        self.weights = torch.ones(len(expected))
        self.numbers = torch.tensor(units)

    def units(self):
        return self.numbers


def test_losses_of_single_pairs():
    outputs, targets = torch.tensor([[0.5], [-2.0]]), torch.tensor([[1.0], [0.0]])
    values = loss_of("squared_error").values(outputs, targets)
    assert values.tolist() == [0.25, 4.0]
    right = F.binary_cross_entropy(torch.sigmoid(outputs), targets, reduction="none")[:, 0]
    torch.testing.assert_close(loss_of("binary").values(outputs, targets), right)


@pytest.mark.parametrize("objective", ["pairwise", "listwise"])
def test_large_scores_give_finite_losses(objective):
    scores = torch.tensor([[1e4], [-1e4], [3e4]], requires_grad=True)
    loss = loss_of(objective)
    batch = _Batch([2, 1, 0], [7, 7, 7])
    total = loss.total(loss.values(scores, batch.targets), batch)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(scores.grad).all()


def test_equal_scores_have_the_same_rank():
    assert ranks([0.5, 2, 2, 1, 3], ["a", "a", "a", "a", "b"]) == [4, 1, 1, 3, 1]


# Whole runs

TRAINING = pk.Training(learning_rate=1e-2, num_epochs=4, batch_size=8)
CASES = {
    "pairwise, encoder": ("bert", "pairwise", {}, pk.LoRA(r=4, lora_alpha=8), "ndcg@10"),
    "listwise, decoder": ("llama", "listwise", {}, pk.LoRA(r=4, lora_alpha=8), "ndcg@10"),
    "squared error, mean": (
        "bert", "squared_error", {"pooling": "mean"}, pk.BottleneckAdapter(), "spearman",
    ),
    "binary, quantized": ("bert", "binary", {}, pk.LoRA(r=4, lora_alpha=8), "auc"),
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.csv", candidates(60))


@pytest.fixture(scope="module")
def zero_one_file(tmp_path_factory):
    rows = [[*row[:3], str(int(row[3] == "2"))] for row in candidates(60)]
    return write_pairs(tmp_path_factory.mktemp("data") / "matches.csv", rows)


@pytest.fixture(scope="module", params=CASES)
def finished(request, bases, pairs_file, zero_one_file, tmp_path_factory):
    kind, objective, fields, method, metric = CASES[request.param]
    file = zero_one_file if objective == "binary" else pairs_file
    grouped = objective in ("pairwise", "listwise")
    recipe = pk.Recipe(
        base=pk.Base(
            name_or_path=str(bases[kind]), quantization="nf4" if objective == "binary" else "none"
        ),
        task=pk.TextPairScoring(
            data=pk.ScoredPairs(path=str(file), query="qid" if grouped else ""),
            objective=objective, **fields,
        ),
        method=method, training=TRAINING, name="pairs",
    )  # fmt: skip
    return run(recipe, str(tmp_path_factory.mktemp("runs") / "run")), recipe, metric


def test_it_is_learned_saved_and_verified(finished):
    done, recipe, metric = finished
    test = done.record.test
    assert recipe.metric == metric
    assert test.after["loss"] < test.before["loss"]
    assert test.after[metric] > max(test.before[metric], test.baseline["constant"][metric])
    for name, (low, high) in test.intervals.items():
        assert low <= test.after[name] <= high
    assert verify(str(done.folder)).problems == []
    receipt = (done.folder / "receipt.html").read_text()
    assert '--text-pair "..."' in receipt
    title = "By number of candidates" if recipe.task.grouped else "By expected score"
    assert title in receipt
    scores = json.loads((done.folder / "by_example.json").read_text())
    rows = len(prepare(recipe).encoded.test.rows)
    for name, of in scores.items():
        sums = np.array(of["columns"])
        assert sums.shape[1] == (rows // 4 if recipe.task.grouped else rows)
        found = recipe.task.metric(name).statistic(sums.sum(axis=1))
        assert found == pytest.approx(test.after[name], rel=1e-6)


def test_transformers_reads_the_merged_model(finished, tmp_path):
    done, recipe, _ = finished
    if isinstance(recipe.method, pk.BottleneckAdapter):
        with pytest.raises(PeftkitError, match="not a change of the base's weights"):
            merge_to(str(done.folder), str(tmp_path / "merged"))
        return
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    assert report.relative <= report.tolerance
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    binary = recipe.task.objective == "binary"
    kind = "multi_label_classification" if binary else "regression"
    assert config["problem_type"] == kind
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    given = {"text": "the film", "text_pair": "bright story"}
    [answer] = pk.load(str(done.folder)).predict([given])
    said = pipeline("text-classification", model=model, tokenizer=tokenizer)(given)
    said = said[0] if isinstance(said, list) else said
    assert said["score"] == pytest.approx(answer.score, abs=1e-4)


def test_a_file_of_candidates_is_ranked(finished, tmp_path, capsys):
    done, recipe, _ = finished
    rows = candidates(3, seed=5)
    file, out = write_pairs(tmp_path / "rows.csv", rows), tmp_path / "out.csv"
    command_line(["predict", str(done.folder), "--file", str(file), "--out", str(out)])
    with out.open() as opened:
        answered = list(csv.DictReader(opened))
    assert [row["score"] for row in answered] == [row[3] for row in rows]  # the file's own
    scores = [float(row["predicted_score"]) for row in answered]
    if recipe.task.objective == "binary":
        assert all(0 <= score <= 1 for score in scores)
    if not recipe.task.grouped:
        assert "rank" not in answered[0]
        return
    for start in range(0, 12, 4):
        of = scores[start : start + 4]
        ranks = [int(row["rank"]) for row in answered[start : start + 4]]
        assert ranks == [1 + sum(other > score for other in of) for score in of]


def test_a_pair_gets_its_score_on_the_command_line(finished, capsys):
    done, _, _ = finished
    pair = ["--text", "the film", "--text-pair", "bright warm story"]
    command_line(["predict", str(done.folder), *pair])
    adapter = pk.load(str(done.folder))
    [answer] = adapter.predict([{"text": "the film", "text_pair": "bright warm story"}])
    assert type(answer) is Scored
    assert capsys.readouterr().out == f"{answer.score:.4f}  the film\n"
    given = {"text": "the film", "text_pair": "bright warm story", "query": 7}
    worse = {**given, "text_pair": "the plot"}
    first, second = adapter.predict([worse, given])
    assert (type(first), first.rank, second.rank) == (Ranked, 2, 1)
    assert first.cells().keys() == {"score", "rank"}


@pytest.mark.slow
def test_methods_are_compared_by_group(bases, pairs_file, tmp_path):
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(bases["bert"])),
        task=pk.TextPairScoring(
            data=pk.ScoredPairs(path=str(pairs_file), query="qid"), objective="pairwise"
        ),
        method=pk.LoRA(r=4), training=TRAINING.with_(num_epochs=1, max_steps=4),
    )  # fmt: skip
    done = pk.compare([recipe], str(tmp_path / "compare"), pk.Budget(num_trials=1, num_seeds=2))
    assert done.record.status == "finished"
    for row in done.record.rows:
        low, high = row.interval
        assert low <= row.score <= high


# Rows

BASE = pk.Base(name_or_path="nowhere")


def task_of(path, objective="squared_error", **data) -> pk.TextPairScoring:
    return pk.TextPairScoring(data=pk.ScoredPairs(path=str(path), **data), objective=objective)


def test_a_group_stays_in_one_split(pairs_file):
    for data in ({"query": "qid"}, {}):
        splits, _ = load_splits(task_of(pairs_file, "pairwise", **data), 0)
        seen = [{row.values["text"] for row in rows} for rows in splits.named().values()]
        assert sum(map(len, seen)) == len(set().union(*seen)) == 60


def test_groups_that_teach_nothing_are_left_out_and_counted(tmp_path, bases):
    rows = candidates(40)
    rows += [["alone", "a film", "the story", "1"], ["equal", "the actor", "plot of", "2"],
             ["equal", "the actor", "plot music", "2"]]  # fmt: skip
    path = write_pairs(tmp_path / "rows.csv", rows)
    left_out = {}
    for objective in ("pairwise", "squared_error"):
        task = task_of(path, objective, query="qid")
        base = pk.Base(name_or_path=str(bases["bert"]))
        prepared = prepare(pk.Recipe(base=base, task=task, method=pk.LoRA(r=4)))
        left_out[objective] = sum(e.unsupervised for e in prepared.encoded.splits().values())
        notes = " ".join(prepared.ledger.notes)
        assert "1 group of one candidate" in notes
        assert "1 group of candidates with equal scores" in notes
        assert ("left out" in notes) is (objective == "pairwise")
    assert left_out == {"pairwise": 3, "squared_error": 0}
    units = prepare(pk.Recipe(base=base, task=task_of(path, "listwise", query="qid"),
                              method=pk.LoRA(r=4))).encoded.train.units  # fmt: skip
    assert np.bincount(units).tolist() == [4] * len(set(units))


def test_pairs_with_two_scores_contradict_each_other(tmp_path):
    rows = candidates(40)
    again = [[*row[:3], "5"] for row in rows[:4]]
    path = write_pairs(tmp_path / "rows.csv", [*rows, *again, rows[9]])
    _, ledger = load_splits(task_of(path), 0)
    assert (ledger.read[0].conflicting, ledger.read[0].duplicate) == (8, 1)


PAIR = ["q", "the film", "a story", "1"]
WRONG = {
    "NaN": ({}, [["q", "a", "b", "nan"]], "score `nan` is not a number"),
    "a word": ({}, [["q", "a", "b", "good"]], "score `good` is not a number"),
    "infinity": ({}, [["q", "a", "b", "inf"]], "score `inf` is not a number"),
    "too large": ({}, [["q", "a", "b", "1e20"]], "is `1e20`, and numbers may be at most 1e.15"),
    "empty": ({}, [["q", "a", "b", ""]], "empty score"),
    "no second text": ({}, [["q", "a", "", "1"]], "empty text_pair"),
    "no query": ({"query": "qid"}, [["", "a", "b", "1"]], "empty qid"),
    "another column": ({"text_pair": "other"}, [PAIR], "has no column `other`"),
    "no such query": ({"query": "nobody"}, [PAIR], "has no column `nobody`"),
    "0 and 1": ({"objective": "binary"}, [["q", "a", "b", "3"]],
                "learns 0 and 1 .* such rows"),
    "one class": ({"objective": "binary", "rows": 0}, [[str(n), f"word{n}", "b", "1"]
                   for n in range(9)], "has the value 1 in all 9 rows"),
    "groups of one": ({"objective": "pairwise", "query": "qid", "rows": 0},
                      [[str(n), f"word{n}", "b", str(n % 2)] for n in range(9)],
                      "9 groups of one candidate; the objective `pairwise` needs"),
    "equal scores": ({"objective": "listwise", "rows": 0},
                     [["q", f"word{n // 2}", f"word{n}", str(n // 2 % 2)] for n in range(8)],
                     "4 groups of candidates with equal scores; .* the same `text`"),
    "negative": ({"query": "qid"}, [["q0", "a", "b", "-1"]], "NDCG needs scores of at least 0"),
    "divided": ({"query": "qid", "group": "text_pair"}, [], "because `data.group` is `text_pair`"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(tmp_path, case):
    fields, rows, told = WRONG[case]
    data = {name: value for name, value in fields.items() if name not in ("objective", "rows")}
    rows = [*candidates(fields.get("rows", 20)), *rows]
    path = write_pairs(tmp_path / "rows.csv", rows)
    with pytest.raises(PeftkitError, match=told) as error:
        load_splits(task_of(path, fields.get("objective", "squared_error"), **data), 0)
    assert "rows.csv" in str(error.value)
    assert error.value.hint


def test_values_of_json_that_are_no_scores_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    for value, told in (("NaN", "empty score"), ("Infinity", "score is inf, not a finite number"),
                        ("1e30", "numbers may be at most 1e.15 in size"),
                        ("[1]", "score is list, not a number")):  # fmt: skip
        path.write_text(f'{{"text": "a", "text_pair": "b", "score": {value}}}\n')
        with pytest.raises(PeftkitError, match=told) as error:
            load_splits(task_of(path), 0)
        assert "`--task.data.text-pair NAME`, `--task.data.score NAME`" in error.value.hint
    assert task_of(path).read_answer({"score": True}, None) == {"score": 1}


def test_a_decimal_comma_in_scores_is_asked_about(tmp_path):
    rows = [[*row[:3], f"{row[3]},500"] for row in candidates(20)]
    path = write_pairs(tmp_path / "rows.csv", rows)
    with pytest.raises(PeftkitError, match="has `0,500` in line 2; ") as error:
        load_splits(task_of(path), 0)
    assert error.value.hint.startswith("for a decimal comma, give `--task.data.decimal ,`")
    splits, _ = load_splits(task_of(path, decimal=","), 0)
    assert {row.values["score"] for row in splits.train} == {0.5, 1.5, 2.5}


def test_an_id_that_pandas_made_a_float_is_the_same_query(tmp_path):
    rows = candidates(20)
    rows = [[row[0][1:] + ".0" * (number % 2), *row[1:]] for number, row in enumerate(rows)]
    splits, ledger = load_splits(
        task_of(write_pairs(tmp_path / "rows.csv", rows), "pairwise", query="qid"), 0
    )
    assert {row.values["query"] for part in splits.named().values() for row in part} == {
        str(number) for number in range(20)
    }
    assert not any("group" in note for note in ledger.notes)
    ids = (7.0, 7, "7.0", 7.5, "1.10", None, float("nan"), " ")
    assert [group_name(value) for value in ids] == ["7", "7", "7", "7.5", "1.10", "", "", ""]


def test_splits_without_different_scores_are_refused(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    rows = candidates(20)
    write_pairs(folder / "train.csv", rows)
    write_pairs(folder / "validation.csv", candidates(5, seed=1))
    write_pairs(folder / "test.csv", [["q", "one", "two", "1"], ["r", "three", "four", "1"]])
    with pytest.raises(PeftkitError, match=r"test split are 1 .* a correlation needs different"):
        load_splits(task_of(folder), 0)
    with pytest.raises(PeftkitError, match="the test split has 2 groups of one candidate; NDCG"):
        load_splits(task_of(folder, query="qid"), 0)


def test_fields_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`text_pair` is empty"):
        pk.ScoredPairs(path="rows.csv", text_pair="")
    with pytest.raises(ValueError, match="windows"):
        pk.TextPairScoring(data=pk.ScoredPairs(path="rows.csv"), over_long="windows")
    with pytest.raises(ValueError, match=r"`training.label_smoothing` is 0\.1"):
        pk.Recipe(base=BASE, task=task_of("a.csv"), method=pk.LoRA(),
                  training=pk.Training(label_smoothing=0.1))  # fmt: skip
    with pytest.raises(ValueError, match="none of `spearman`, `pearson`, `loss`"):
        pk.Recipe(base=BASE, task=task_of("a.csv"), method=pk.LoRA(),
                  training=pk.Training(metric="ndcg@10"))  # fmt: skip


def test_the_recipe_and_its_group_are_recorded(pairs_file):
    task = task_of(pairs_file, "listwise", query="qid").with_(k=3)
    assert task.scores == ("ndcg@3", "mrr")
    recipe = pk.Recipe(base=BASE, task=task, method=pk.LoRA())
    assert pk.Recipe.from_json(recipe.to_json()) == recipe
    assert replace(groups(), units=None).num_units == 7


def test_steps_and_notes_count_groups(pairs_file, bases):
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(bases["bert"])), task=task_of(pairs_file, "pairwise"),
        method=pk.LoRA(r=4), training=pk.Training(batch_size=8, num_epochs=1),
    )  # fmt: skip
    prepared = prepare(recipe)
    number = prepared.encoded.train.num_units
    assert number == len(prepared.encoded.train) / 4
    steps = -(-number // 8)
    assert f"only {steps} optimizer steps ({number} examples" in " ".join(prepared.ledger.notes)
