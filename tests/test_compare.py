"""Comparisons: what a verdict means, what is refused, and a whole one on a tiny base."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils import set_seed
from rich.console import Console
from scipy.sparse import csr_array

from peftkit import (
    Budget,
    Chat,
    Conversations,
    Data,
    LoRA,
    PromptTuning,
    TextClassification,
)
from peftkit.bases.devices import open_accelerator
from peftkit.cli.main import command_line
from peftkit.errors import OutputError, RecipeError, TrainingError
from peftkit.evaluation.retention import Retention
from peftkit.evaluation.scoring import evaluate
from peftkit.experiments.comparing.compare import compare
from peftkit.experiments.comparing.comparison import Comparison, Rate, read_comparison
from peftkit.experiments.comparing.grid import for_search, make_grid, rates_around
from peftkit.experiments.comparing.prepared_grid import prepare_grid
from peftkit.experiments.comparing.rates import best_rate
from peftkit.experiments.comparing.verdicts import Estimate, difference, estimate, judge
from peftkit.experiments.jobs.folder import ComparisonFolder, alone_in
from peftkit.experiments.jobs.own_process import DiedError, run_isolated
from peftkit.experiments.jobs.queue import Job, JobQueue
from peftkit.metrics import answers
from peftkit.metrics.bootstrap import paired_interval, score_interval, sums_interval
from peftkit.metrics.metric import Metric
from peftkit.metrics.strict_entities import strict_f1
from peftkit.stages.fitting import choose_trained, fit, inject, load
from peftkit.stages.outcome import Clock
from peftkit.stages.preparing import prepare
from peftkit.tasks.score import Parts
from tests.conftest import call_forked, sentences, write_csv

ACCURACY, LOSS = Metric("accuracy"), Metric("loss", higher_is_better=False)
TIMES = ("seconds", "seconds_taken", "seconds_per_epoch", "seconds_to_best", "created")
TIMES += ("seconds_to_99_of_full", "peak_memory_mb", "command")


class PartsOfLoss(TextClassification):
    """A task whose accuracy has no parts."""

    def metrics(self, kept, examples, head, decision):
        score = super().metrics(kept, examples, head, decision)
        return replace(score, parts={"loss": score.parts["loss"]})


def seeds_of(values):
    """(seeds, examples) as scores with weights of 1."""
    return [Parts((tuple(map(float, row)), (1.0,) * len(row))) for row in values]


class TestVerdicts:
    @pytest.mark.parametrize(
        ("seed", "example", "rest"),
        [(0.0, 0.0, 0.3), (0.0, 0.2, 0.2), (0.005, 0.0, 0.3), (0.02, 0.2, 0.3), (0.1, 0.1, 0.3)],
    )
    @pytest.mark.parametrize("num_seeds", [2, 3, 5])
    def test_no_difference_is_called_one_in_five_percent_at_most(
        self, seed, example, rest, num_seeds
    ):
        random = np.random.default_rng(0)
        called = 0
        for _ in range(400):
            values = seed * random.standard_normal((num_seeds, 1))
            values = values + example * random.standard_normal((1, 200))
            values = values + rest * random.standard_normal((num_seeds, 200))
            found = difference(seeds_of(values), seeds_of(0 * values), ACCURACY)
            called += judge(found, 1e-9, ACCURACY) in ("better", "worse")
        assert called / 400 <= 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5

    def test_a_difference_is_found(self):
        random = np.random.default_rng(0)
        right = random.random((3, 1000))
        found = difference(seeds_of(right < 0.8), seeds_of(right < 0.7), ACCURACY)
        assert found.value == pytest.approx(0.1, abs=0.01)
        assert judge(found, 0.01, ACCURACY) == "better"
        assert judge(found, 0.01, LOSS) == "worse"

    def test_models_that_never_agree_are_not_equivalent(self):
        """Whose examples and seeds have equal means all the same."""
        ours = np.array([[1, 0] * 30, [0, 1] * 30])
        found = difference(seeds_of(ours), seeds_of(1 - ours), ACCURACY)
        assert judge(found, 0.01, ACCURACY) == "undecided"
        assert found.high - found.low > 0.2

    def test_shares_stay_between_0_and_1(self):
        right = np.random.default_rng(0).random((2, 40)) < [[0.4], [0.9]]
        found = estimate(seeds_of(right), ACCURACY)
        assert 0 <= found.low < found.high <= 1

    def test_one_seed_has_the_interval_of_its_examples(self):
        right = np.random.default_rng(0).random((1, 400)) < 0.8
        found = estimate(seeds_of(right), ACCURACY)
        share = right.mean()
        half = 1.966 * (share * (1 - share) / 399) ** 0.5
        assert found.value == share
        assert found.interval == pytest.approx((share - half, share + half), rel=1e-3)

    def test_weights_make_a_ratio(self):
        """Losses of sequences: the score is that of all tokens, the interval the delta method's."""
        random = np.random.default_rng(0)
        tokens = random.integers(1, 50, 300)
        losses = tokens * 2.0 + random.standard_normal((3, 300))
        seeds = [Parts((tuple(row), tuple(map(float, tokens)))) for row in losses]
        found = estimate(seeds, LOSS)
        assert found.value == pytest.approx(losses.sum() / (3 * tokens.sum()))
        # long sequences have large losses, which is no uncertainty of their ratio
        assert found.high - found.low < 0.02

    def test_a_score_that_is_no_mean_has_the_interval_of_a_bootstrap(self):
        """F of entities: right, predicted and expected ones of each row."""
        random = np.random.default_rng(0)
        expected = random.integers(0, 5, (400, 1))
        ours = np.hstack([random.binomial(expected, 0.8), random.poisson(2, (400, 1)), expected])
        others = np.hstack([random.binomial(expected, 0.5), random.poisson(2, (400, 1)), expected])
        metric = Metric("strict_f1", statistic=strict_f1)
        found = estimate([Parts.of(ours)], metric)
        right, predicted, wanted = ours.sum(axis=0)
        assert found.value == pytest.approx(2 * right / (predicted + wanted))
        assert found.interval == pytest.approx(sums_interval(ours, strict_f1), abs=0.006)
        gap = difference([Parts.of(ours)], [Parts.of(others)], metric)
        assert gap.interval == pytest.approx(paired_interval(ours, others, strict_f1), abs=0.006)
        assert judge(gap, 0.01, metric) == "better"

    def test_a_share_that_is_always_1_has_the_interval_of_its_own_rows(self):
        """Fifteen rows, of which five are what the score is about."""
        table = np.array([[1.0, 1.0]] * 5 + [[0.0, 0.0]] * 10)
        metric = answers.METRICS["no_answer_f1"]
        assert score_interval(metric, table) == pytest.approx((0.025 ** (1 / 5), 1.0))
        kinds, counts = np.unique(table, axis=0, return_counts=True)
        assert score_interval(metric, kinds, counts)[0] == pytest.approx(0.025 ** (1 / 5))
        assert score_interval(metric, csr_array(table))[0] == pytest.approx(0.025 ** (1 / 5))

    def test_of_a_score_that_is_no_mean_five_percent_at_most_are_called_different(self):
        random, called = np.random.default_rng(0), 0
        metric = Metric("strict_f1", statistic=strict_f1)
        for _ in range(300):
            expected = random.integers(0, 5, (150, 1))
            ours, others = (
                [
                    Parts.of(np.hstack([random.binomial(expected, luck), expected, expected]))
                    for luck in np.clip(random.normal(0.7, 0.02, 3), 0, 1)
                ]
                for _ in range(2)
            )
            called += judge(difference(ours, others, metric), 1e-9, metric) != "undecided"
        assert called / 300 <= 0.05 + 2 * (0.05 * 0.95 / 300) ** 0.5

    @pytest.mark.parametrize(
        ("low", "high", "verdict"),
        [
            (-0.005, 0.009, "equivalent"),
            (0.001, 0.009, "equivalent"),
            (0.001, 0.02, "better"),
            (-0.03, -0.02, "worse"),
            (-0.02, 0.001, "undecided"),
        ],
    )
    def test_what_an_interval_means(self, low, high, verdict):
        assert judge(Estimate((low + high) / 2, low, high), 0.01, ACCURACY) == verdict


@pytest.fixture(scope="module")
def recipe(make_recipe, tmp_path_factory):
    file = write_csv(tmp_path_factory.mktemp("data") / "rows.csv", sentences(240))
    task = TextClassification(data=Data(path=str(file), test_fraction=0.3))
    return make_recipe(LoRA(r=4), task=task).with_(name="lora")


class TestGrid:
    def test_rates_are_half_a_decade_apart_around_the_recipes(self):
        assert rates_around(1e-3, 4) == (3.16e-4, 1e-3, 3.16e-3, 1e-2)
        assert rates_around(1e-3, 3) == (3.16e-4, 1e-3, 3.16e-3)
        assert rates_around(2e-5, 1) == (2e-5,)

    def test_full_fine_tuning_is_added_at_a_rate_of_its_own(self, recipe):
        quantized = recipe.with_(base=recipe.base.with_(quantization="nf4"))
        grid = make_grid([quantized], Budget(num_trials=3))
        assert [of.name for of in grid.contenders] == ["full", "lora"]
        full = grid.contenders[0].recipe
        assert full.method.kind() == "FullFineTuning"
        assert full.base.quantization == "none"
        assert grid.contenders[0].rates == (3.16e-5, 1e-4, 3.16e-4)

    def test_all_have_the_same_budget(self, recipe):
        hasty = recipe.training.with_(early_stopping_patience=1)
        grid = make_grid([recipe.with_(training=hasty)], Budget())
        assert {of.recipe.training.early_stopping_patience for of in grid.contenders} == {0}
        assert for_search(recipe, 80).training.max_steps == 20

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"split_seed": 1}, "`split_seed` is 0 in `lora` and 1 in `other`"),
            ({"start_from": "runs/x"}, "`other` starts from an adapter"),
            ({"name": "lora"}, "`lora` is the name of more than one recipe"),
            ({"name": "frozen_probe"}, "`frozen_probe` is the name"),
            ({"seed": 3}, "`seed` is 0 in `lora` and 3 in `other`"),
        ],
    )
    def test_more_than_the_method_differs(self, recipe, change, told):
        other = recipe.with_(**{"name": "other", **change})
        with pytest.raises(RecipeError, match="`") as raised:
            make_grid([recipe, other], Budget())
        assert told in raised.value.message

    def test_another_budget_or_task_is_named(self, recipe):
        longer = recipe.with_(name="other", training=recipe.training.with_(num_epochs=3))
        with pytest.raises(RecipeError, match=r"`training.num_epochs` is 2 in `lora` and 3"):
            make_grid([recipe, longer], Budget())
        lion = recipe.with_(name="other", training=recipe.training.with_(optimizer="lion"))
        with pytest.raises(RecipeError, match=r"`training.optimizer` is 'adamw' in `lora`"):
            make_grid([recipe, lion], Budget())
        chat = Chat(data=Conversations(path="rows.jsonl"))
        with pytest.raises(RecipeError, match="`task` is 'TextClassification' in `lora`"):
            make_grid([recipe, recipe.with_(name="other", task=chat)], Budget())

    def test_a_metric_without_parts_is_refused_before_weights(self, recipe):
        task = PartsOfLoss(**dict(recipe.task))
        loss = recipe.with_(task=task, training=recipe.training.with_(metric="loss"))
        assert prepare_grid([loss], Budget())[0].metric.name == "loss"
        accuracy = loss.with_(training=loss.training.with_(metric="accuracy"))
        with pytest.raises(
            RecipeError, match=r"PartsOfLoss.metrics` returns no value per row"
        ) as told:
            prepare_grid([accuracy], Budget())
        assert told.value.hint == "compare by `loss`"

    def test_a_classifier_has_no_loss_on_general_text(self, recipe):
        with pytest.raises(RecipeError, match="trains no language model"):
            prepare_grid([recipe], Budget(retention=Retention(path="rows.jsonl")))

    def test_the_differing_field_of_a_part_is_named(self, recipe):
        data = recipe.task.data.with_(test_fraction=0.2)
        other = recipe.with_(name="other", task=recipe.task.with_(data=data))
        with pytest.raises(RecipeError, match=r"`task.data.test_fraction` is 0.3 in `lora`"):
            make_grid([recipe, other], Budget())

    def test_options_are_named_as_they_were_given(self, recipe, tmp_path, capsys):
        (tmp_path / "recipe.json").write_text(recipe.to_json())
        for option, value in (("--trials", "0"), ("--seeds", "0"), ("--margin", "-1")):
            with pytest.raises(SystemExit):
                command_line(["compare", str(tmp_path / "recipe.json"), option, value])
            assert f"`{option}` should be" in capsys.readouterr().err

    def test_a_margin_of_zero_is_refused(self):
        with pytest.raises(ValueError, match="greater than 0"):
            Budget(margin=0)

    def test_an_option_is_not_taken_for_a_longer_one(self, tmp_path, capsys):
        """`--seed` is the recipe's, `--seeds` how many runs."""
        with pytest.raises(SystemExit):
            command_line(["compare", str(tmp_path / "none.py"), "--seed", "1", "--dry-run"])
        assert "no file" in capsys.readouterr().err

    def test_virtual_tokens_that_cut_texts_are_refused(self, recipe):
        long = recipe.with_(task=recipe.task.with_(max_length=64))
        rows = [(" ".join(["film"] * 70), "good"), (" ".join(["plot"] * 70), "bad")]
        file = Path(long.task.data.path)
        other = write_csv(file.with_name("long.csv"), [*sentences(60), *rows])
        data = long.task.data.with_(path=str(other))
        long = long.with_(task=long.task.with_(data=data))
        prompt = long.with_(name="prompt", method=PromptTuning(num_virtual_tokens=8))
        with pytest.raises(RecipeError, match="`prompt` would read other examples than `full`"):
            prepare_grid([long, prompt], Budget())


def doubled(number: int) -> tuple[int, int]:
    return 2 * number, os.getpid()


def unlucky(reason: str) -> None:
    if reason == "error":
        raise TrainingError("loss is NaN", "lower it")
    if reason == "bug":
        raise KeyError("no such thing")
    os.kill(os.getpid(), signal.SIGKILL)


class TestApart:
    def test_another_process_answers(self):
        number, process = run_isolated(doubled, 21)
        assert number == 42
        assert process != os.getpid()

    def test_its_errors_come_through(self):
        with pytest.raises(TrainingError, match="loss is NaN") as raised:
            run_isolated(unlucky, "error")
        assert raised.value.hint == "lower it"
        with pytest.raises(DiedError, match="KeyError: 'no such thing'"):
            run_isolated(unlucky, "bug")
        with pytest.raises(DiedError, match="as happens when memory runs out"):
            run_isolated(unlucky, "kill")


class TestCourse:
    """What becomes of parts that fail."""

    def test_a_failure_is_kept_and_a_death_is_not(self, tmp_path):
        folder = ComparisonFolder(tmp_path)
        jobs = [Job(f"one/{why}", 1.0, unlucky, (why,), Wrote) for why in ("error", "kill")]
        queue = JobQueue(folder, Console(quiet=True), jobs)
        assert queue.do(jobs[0]).failed == "loss is NaN"
        assert not queue.incomplete
        assert "killed" in queue.do(jobs[1]).failed
        assert queue.incomplete
        assert list(queue.failures) == ["one/error", "one/kill"]
        assert folder.done("one/error", Wrote).failed == "loss is NaN"
        assert folder.done("one/kill", Wrote) is None

    def test_what_was_broken_off_is_begun_anew(self, tmp_path):
        folder = ComparisonFolder(tmp_path)
        left = folder.run_folder("one/run")
        left.mkdir(parents=True)
        (left / "half").write_text("of it")
        job = Job("one/run", 1.0, wrote, (), Wrote, folder=True)
        assert JobQueue(folder, Console(quiet=True), [job]).do(job).value == Wrote(("whole",))
        assert folder.done("one/run", Wrote).value == Wrote(("whole",))


@dataclass(frozen=True)
class Wrote:
    there: tuple[str, ...]


def wrote(folder: str) -> Wrote:
    Path(folder).mkdir()
    (Path(folder) / "whole").write_text("")
    return Wrote(tuple(sorted(file.name for file in Path(folder).iterdir())))


class TestRows:
    def test_a_rate_is_chosen_by_score_then_loss(self):
        rates = [
            Rate(rate, value, loss)
            for rate, value, loss in ((1e-3, 0.7, 0.5), (1e-2, 0.7, 0.4), (0.1, None, None))
        ]
        assert best_rate(rates, ACCURACY) == 1e-2
        assert best_rate(rates[2:], ACCURACY) is None

    def test_no_difference_in_a_few_examples_is_no_equivalence(self):
        same = seeds_of(np.ones((3, 30)))
        assert judge(difference(same, same, ACCURACY), 0.01, ACCURACY) == "undecided"
        same = seeds_of(np.ones((3, 600)))
        assert judge(difference(same, same, ACCURACY), 0.01, ACCURACY) == "equivalent"


@pytest.fixture(scope="module")
def compared(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "grid"
    return compare([recipe], str(folder), Budget(num_trials=1, num_seeds=2))


class TestWhole:
    def test_the_promised_rows(self, compared):
        rows = {row.name: row for row in compared.record.rows}
        assert list(rows) == ["full", "lora", "frozen_probe"]
        assert rows["full"].verdict == "baseline"
        assert rows["lora"].verdict in ("better", "worse", "equivalent", "undecided")
        assert [seed.seed for seed in rows["lora"].seeds] == [0, 1]
        mean = sum(seed.score for seed in rows["lora"].seeds) / 2
        assert rows["lora"].score == pytest.approx(mean)
        low, high = rows["lora"].interval
        assert low < mean < high
        apart_from_full = rows["lora"].difference_to_full.value
        assert apart_from_full == pytest.approx(mean - rows["full"].score, abs=1e-9)
        assert rows["lora"].trainable_parameters < rows["full"].trainable_parameters
        assert rows["lora"].peak_memory_mb["merging"] > 0
        assert rows["frozen_probe"].score > compared.record.before
        assert rows["lora"].difference_to_probe.value == pytest.approx(
            mean - rows["frozen_probe"].score, abs=1e-9
        )
        for name in ("compare.json", "compare.html", "compare.md"):
            assert (compared.folder / name).is_file()

    def test_asked_again_nothing_is_done_again(self, recipe, compared):
        def written():
            return {file: file.stat().st_mtime_ns for file in compared.folder.glob("trials/**/*")}

        before = written()
        again = compare([recipe], str(compared.folder), Budget(num_trials=1, num_seeds=2))
        assert written() == before
        content = json.loads((compared.folder / "compare.json").read_text())
        assert again.record.to_json() == content
        assert again.record == read_comparison(compared.folder)
        assert timeless(content) == timeless(compared.record.to_json())

    def test_two_processes_do_not_do_the_same(self, recipe, compared):
        with (
            alone_in(ComparisonFolder(compared.folder)),
            pytest.raises(OutputError, match="another process is running"),
        ):
            compare([recipe], str(compared.folder), Budget(num_trials=1, num_seeds=2))

    def test_another_recipe_of_the_same_name_does_not_go_on_there(self, recipe, compared):
        other = recipe.with_(method=LoRA(r=2))
        with pytest.raises(OutputError, match=r"`lora.method.r` was 4 and is 2"):
            compare([other], str(compared.folder), Budget(num_trials=1, num_seeds=2))
        elsewhere = recipe.with_(split_seed=1)
        with pytest.raises(OutputError, match="`data` has changed"):
            compare([elsewhere], str(compared.folder), Budget(num_trials=1, num_seeds=2))

    def test_one_of_an_earlier_digest_is_shown_and_not_continued(self, compared, recipe, tmp_path):
        old = shutil.copytree(compared.folder, tmp_path / "old")
        grid = json.loads((old / "grid.json").read_text())
        grid["data"] = "0" * 64  # of version 1, which had no number
        (old / "grid.json").write_text(json.dumps(grid))
        with pytest.raises(OutputError, match="digest of the examples has version 1"):
            compare([recipe], str(old), Budget(num_trials=1, num_seeds=2))
        again = Comparison.from_json(json.loads((old / "compare.json").read_text()))
        assert again == compared.record

    def test_the_printed_command_gives_the_same_bits(self, compared, tmp_path):
        row = next(row for row in compared.record.rows if row.name == "lora")
        command = row.seeds[1].command.replace("again", str(tmp_path / "again"))
        probe = compared.record.rows[-1]
        ran, probed = (
            call_forked(partial(run_module, words), tmp_path)
            for words in (command.split(), probe.command.split()[2:])
        )
        assert ran.returncode == 0, ran.stderr
        assert probed.returncode == 0, probed.stderr
        assert json.loads(probed.stdout)["metrics"]["accuracy"] == probe.score
        folders = (compared.folder / row.seeds[1].folder, tmp_path / "again" / "lora-1")
        ours, theirs = ((folder / "by_example.json").read_bytes() for folder in folders)
        assert ours == theirs


def run_module(words):
    """What `python -m WORDS` does."""
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def timeless(value):
    """A record without what takes another time in each run."""
    if isinstance(value, dict):
        return {name: timeless(part) for name, part in value.items() if name not in TIMES}
    return [timeless(part) for part in value] if isinstance(value, list | tuple) else value


def scores_of(prepared, seed):
    """What a run with that seed makes of the test examples."""
    accelerator = open_accelerator(prepared.recipe.base)
    ready = prepared.__class__(**{**prepared.__dict__, "recipe": prepared.recipe.with_(seed=seed)})
    set_seed(seed)
    model = inject(load(ready, accelerator), ready)
    engine = choose_trained(model, ready, accelerator).engine
    fit(engine, ready, Clock(), Console(quiet=True))
    return evaluate(engine, ready.encoded.test, ready.recipe.task).parts["accuracy"]


@pytest.fixture(scope="module")
def small(recipe):
    return recipe.with_(training=recipe.training.with_(max_steps=12, evaluate_every=6))


@pytest.mark.slow
class TestNull:
    """Real runs: what is the same is not told apart, what is crippled is."""

    def test_one_method_under_two_names(self, small):
        torch.set_num_threads(1)
        prepared = prepare(small)
        verdicts = []
        for repetition in range(20):
            seeds = [scores_of(prepared, 6 * repetition + place) for place in range(6)]
            found = difference(seeds[:3], seeds[3:], ACCURACY)
            verdicts.append(judge(found, 0.01, ACCURACY))
        assert sum(verdict in ("better", "worse") for verdict in verdicts) <= 1  # 5 % of 20

    def test_a_crippled_method_is_worse(self, small):
        torch.set_num_threads(1)
        whole = small.with_(training=small.training.with_(max_steps=40))
        crippled = small.with_(
            method=LoRA(r=1, target_modules=["layer.1.attention.self.query"]),
            training=small.training.with_(max_steps=2, evaluate_every=1),
        )
        ours, others = prepare(crippled), prepare(whole)
        scores = ([scores_of(of, seed) for seed in range(3)] for of in (ours, others))
        found = difference(*scores, ACCURACY)
        assert judge(found, 0.01, ACCURACY) == "worse"


@pytest.mark.slow
def test_killed_ten_times_it_comes_to_the_same(recipe, compared, tmp_path):
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    folder = tmp_path / "grid"
    command = [sys.executable, "-m", "peftkit", "compare", str(tmp_path / "recipe.json")]
    command += ["--trials", "1", "--seeds", "2", "--output-dir", str(folder)]
    random = np.random.default_rng(0)
    for _ in range(10):
        before = {file: file.read_bytes() for file in folder.glob("trials/**/*.json")
                  if file.parent.parent.name == "trials"}  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(float(random.uniform(8, 30)))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert all(file.read_bytes() == known for file, known in before.items())
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "frozen_probe" in done.stdout
    record = json.loads((folder / "compare.json").read_text())
    assert timeless(record) == timeless(compared.record.to_json())
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "weighted_f1"])
def test_runs_that_agree_on_few_rows_prove_nothing(name):
    expected = np.arange(20) % 3
    predicted = np.where(np.arange(20) < 3, (expected + 1) % 3, expected)
    metric = TextClassification(data=Data(path="rows.csv")).metric(name)
    parts = Parts.of(np.stack([expected, predicted], axis=1), num_labels=3)
    if name == "accuracy":
        parts = Parts.of(np.stack([expected == predicted, np.ones(20)], axis=1).astype(float))
    gap = difference([parts] * 2, [parts] * 2, metric)
    assert gap.value == 0
    assert judge(gap, 0.01, metric) == "undecided"
    few = Parts.of(np.stack([expected[:4], predicted[:4]], axis=1), num_labels=3)
    if name != "accuracy":
        low, high = estimate([few, few], metric).interval
        assert 0 <= low <= high <= 1
