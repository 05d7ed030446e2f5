"""Comparisons gone on with: more recipes and seeds, changed code, what a kill leaves; copies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from peftkit import (
    IA3,
    Base,
    Budget,
    Chat,
    Conversations,
    Data,
    HeadOnly,
    LoRA,
    Recipe,
    TextClassification,
)
from peftkit.cli.main import command_line
from peftkit.errors import DataError, OutputError
from peftkit.experiments.comparing.compare import _settle, _Settled, compare
from peftkit.experiments.comparing.comparison import Rate, SeedRun, ValidationPoint
from peftkit.experiments.comparing.console import print_comparison
from peftkit.experiments.comparing.expecting import expect
from peftkit.experiments.comparing.grid import make_grid, precision, rates_around
from peftkit.experiments.comparing.jobs import seed_job
from peftkit.experiments.comparing.prepared_grid import prepare_grid
from peftkit.experiments.comparing.rates import best_rate, collapsed
from peftkit.experiments.comparing.report import write_report
from peftkit.experiments.comparing.runs import read_scores
from peftkit.experiments.comparing.summary import summary
from peftkit.experiments.comparing.trained_out import is_trained_out
from peftkit.experiments.jobs.done import Done
from peftkit.experiments.jobs.folder import (
    ComparisonFolder,
    Identity,
    alone_in,
    check_folder,
    open_folder,
)
from peftkit.experiments.jobs.queue import JobQueue
from peftkit.metrics.metric import Metric
from peftkit.parts.scripts import import_file
from tests.conftest import sentences, write_csv

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "peft_vs_full.py"
LOSS = Metric("loss", higher_is_better=False)
SMALL = Budget(num_trials=1, num_seeds=2)


@pytest.fixture(scope="module")
def recipe(make_recipe, tmp_path_factory):
    file = write_csv(tmp_path_factory.mktemp("data") / "rows.csv", sentences(120))
    task = TextClassification(data=Data(path=str(file), test_fraction=0.4))
    return make_recipe(LoRA(r=4), task=task, num_epochs=3, max_steps=8).with_(name="lora")


@pytest.fixture(scope="module")
def compared(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "grid"
    return compare([recipe], str(folder), SMALL)


@pytest.fixture(scope="module")
def benchmark_script():
    return import_file(BENCHMARK)


class TestFolder:
    IDENTITY = Identity(grid={"data": "1"}, recipes={"lora": {"r": 8}}, code={})

    def test_what_a_kill_in_the_first_moment_leaves_is_no_hindrance(self, tmp_path):
        for name in (".lock", ".grid.json.123"):
            (tmp_path / name).touch()
        with open_folder(str(tmp_path), self.IDENTITY):
            pass
        (tmp_path / "recipes" / "lora.json").unlink()  # killed after grid.json
        with open_folder(str(tmp_path), self.IDENTITY) as folder:
            assert json.loads((folder.path / "recipes/lora.json").read_text()) == {"r": 8}

    def test_a_folder_with_other_things_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(OutputError, match="holds no comparison"):
            check_folder(str(tmp_path), self.IDENTITY)
        assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]

    def test_a_field_that_is_new_at_its_default_is_no_change(self, tmp_path):
        task = Chat(data=Conversations(path="rows.jsonl"))
        recipe = Recipe(base=Base(name_or_path="base"), task=task, method=LoRA())
        now = json.loads(recipe.to_json())
        identity = Identity(self.IDENTITY.grid, {"lora": now}, {})
        with open_folder(str(tmp_path), identity):
            pass
        file = tmp_path / "recipes" / "lora.json"
        older = json.loads(file.read_text())
        del older["task"]["validation_samples"]
        file.write_text(json.dumps(older))
        check_folder(str(tmp_path), identity)
        file.write_text(json.dumps({**older, "seed": 5}))
        with pytest.raises(OutputError, match="seed"):
            check_folder(str(tmp_path), identity)

    def test_a_second_process_leaves_nothing(self, tmp_path):
        with open_folder(str(tmp_path), self.IDENTITY):
            second = Identity(self.IDENTITY.grid, {"other": {"r": 4}}, {})
            with pytest.raises(OutputError, match="another process is running"):
                open_folder(str(tmp_path), second).__enter__()
        assert not (tmp_path / "recipes" / "other.json").exists()

    def test_changed_code_of_ones_own_is_another_comparison(self, tmp_path):
        def of(**code):
            return Identity({}, {}, code)

        with open_folder(str(tmp_path), of(one="a")), pytest.raises(OutputError):
            alone_in(ComparisonFolder(tmp_path)).__enter__()
        with open_folder(str(tmp_path), of(two="b")):
            pass  # another one's
        with pytest.raises(OutputError, match="`one` was 'a' and is 'c'"):
            check_folder(str(tmp_path), of(one="c"))
        check_folder(str(tmp_path), of(one="a", two="b"))


class TestBaseline:
    def test_of_doubly_quantized_recipes(self, recipe):
        base = recipe.base.with_(quantization="nf4", double_quant=True)
        full = make_grid([recipe.with_(base=base)], SMALL).contenders[0].recipe
        assert (full.base.quantization, full.base.double_quant) == ("none", False)
        assert precision(base) == "nf4-double-auto"

    def test_the_order_of_recipes_does_not_change_it(self, recipe):
        training = recipe.training.with_(micro_batch_tokens=512, layout="padded")
        base = recipe.base.with_(dtype="bfloat16")
        other = recipe.with_(name="other", training=training, base=base)
        one, two = (make_grid(order, SMALL) for order in ([recipe, other], [other, recipe]))
        assert one.contenders[0] == two.contenders[0]

    def test_the_recipes_rate_is_tried_as_it_is(self):
        assert rates_around(1.2345e-4, 3) == (3.9e-5, 1.2345e-4, 3.9e-4)


def test_full_fine_tuning_alone_learned_nothing(compared):
    told = summary(replace(compared.record, learned=("lora",)))
    assert told[0].startswith("Full fine-tuning learned nothing in this budget")
    assert told[0].endswith("`lora` learned.")


def test_more_recipes_and_seeds_cost_their_own_runs_only(recipe, compared, tmp_path):
    folder = tmp_path / "grid"
    shutil.copytree(compared.folder, folder)
    before = {file: file.stat().st_mtime_ns for file in folder.glob("trials/**/*.*")}
    assert len(before) > 20
    wider = [recipe, recipe.with_(name="ia3", method=IA3())]
    done = compare(wider, str(folder), Budget(num_trials=1, num_seeds=3))
    rows = {row.name: row for row in done.record.rows}
    assert set(rows) == {"full", "lora", "ia3", "frozen_probe"}
    for name in ("full", "lora", "ia3"):
        assert [seed.seed for seed in rows[name].seeds] == [0, 1, 2]
    assert before == {file: file.stat().st_mtime_ns for file in before}
    assert "recipes/*.json --trials 1 --seeds 3" in done.record.command
    # asked for the first ones again, it names them: the folder has more
    fewer = compare([recipe], str(folder), SMALL)
    names = [Path(word).name for word in fewer.record.command.split() if ".json" in word]
    assert names == ["full.json", "lora.json"]
    assert [row.score for row in fewer.record.rows] == [row.score for row in compared.record.rows]


def test_a_dry_run_tells_the_time_and_writes_nothing(recipe, tmp_path, capsys):
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    folder = tmp_path / "grid"
    arguments = ["--dry-run", "--trials", "1", "--output-dir", str(folder), "--json"]
    command_line(["compare", str(tmp_path / "recipe.json"), *arguments])
    found = json.loads(capsys.readouterr().out)
    assert [of["name"] for of in found["expected"]] == ["full", "lora"]
    for of in found["expected"]:
        assert 0 < of["trial_seconds"] < of["run_seconds"] < of["seconds"]
        assert of["peak_memory_mb"] > 100
        assert (of["trials_left"], of["runs_left"]) == (0, 3)  # one rate has nothing to be tried by
    assert "two small copies of the base" in found["estimated"]
    assert found["seconds"] == sum(of["seconds"] for of in found["expected"])
    assert not folder.exists()


def test_a_dry_run_with_trials_orders_methods_by_what_they_train(recipe, tmp_path):
    longer = recipe.with_(training=recipe.training.with_(max_steps=None, num_epochs=200))
    others = [longer.with_(name="head", method=HeadOnly())]
    expected = expect([longer, *others], str(tmp_path / "grid"), Budget(num_trials=2))
    full, lora, head = expected
    assert [own.trials_left for own in expected] == [2, 2, 2]
    assert full.run_seconds > lora.run_seconds > head.run_seconds
    assert full.peak_memory_mb >= lora.peak_memory_mb >= head.peak_memory_mb > 100
    assert full.seconds == pytest.approx(2 * full.trial_seconds + 3 * full.run_seconds)


def test_one_rate_is_not_tried(compared):
    assert not list((compared.folder / "trials").glob("*/rate-*.json"))
    for row in compared.record.rows:
        assert row.rates == ()
        if row.role != "probe":
            assert row.learning_rate == (1e-4 if row.name == "full" else 1e-2)
    assert "the recipe&#39;s rate; no others were tried" in (
        compared.folder / "compare.html"
    ).read_text(encoding="utf-8")
    assert "each at its recipe's rate" in (compared.folder / "compare.md").read_text(
        encoding="utf-8"
    )


class TestTrainedOut:
    def test_a_method_that_is_best_at_its_end_is_not(self, compared):
        rows = {row.name: row for row in compared.record.rows}
        for name in ("full", "lora"):
            assert rows[name].trained_out == is_trained_out(rows[name].seeds)
        assert rows["frozen_probe"].trained_out is None

        def runs(*best, values=(0.5, 0.6, 0.7)):
            made = tuple(ValidationPoint(n, 0.0, value) for n, value in enumerate(values))
            return [
                SeedRun(seed=0, score=0.7, best_step=step, num_steps=8, validations=made)
                for step in best
            ]

        assert is_trained_out(runs(8)) is False
        assert is_trained_out(runs(8, 3)) is False
        assert is_trained_out(runs(8, 3, 4)) is True
        assert is_trained_out([]) is None
        assert is_trained_out(runs(8, values=(0.5, 1.0, 1.0))) is True  # chosen for its loss
        assert is_trained_out(runs(8, values=(1.0,))) is False

    def test_it_is_said_everywhere(self, compared, tmp_path, capsys):
        def changed(*trained_out):
            pairs = zip(compared.record.rows, trained_out, strict=True)
            rows = tuple(replace(row, trained_out=value) for row, value in pairs)
            return replace(compared.record, rows=rows)

        assert not any("not trained out" in told for told in summary(changed(True, True, True)))
        record = changed(False, False, None)
        told = next(sentence for sentence in summary(record) if "not trained out" in sentence)
        assert told.startswith("`full` and `lora` are not trained out: ")
        assert "the last of 8 steps" in told
        print_comparison(Console(width=200), record, compared.folder)
        assert "baseline, not trained out" in capsys.readouterr().out
        write_report(tmp_path, record)
        assert "| baseline, not trained out |" in (tmp_path / "compare.md").read_text()
        assert ">not trained out</span>" in (tmp_path / "compare.html").read_text()


def test_a_dry_run_counts_what_is_done(recipe, compared, tmp_path, capsys):
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    command = ["compare", str(tmp_path / "recipe.json"), "--output-dir", str(compared.folder)]
    command_line([*command, "--dry-run", "--trials", "1", "--seeds", "2"])
    assert "all trials and runs are done" in capsys.readouterr().out


def test_a_damaged_file_is_named(recipe, compared, tmp_path):
    folder = tmp_path / "grid"
    shutil.copytree(compared.folder, folder)
    trial = folder / "trials" / "lora" / "seed-0-rate-0.01.json"
    for content in ('{"value": 0.', '{"failed": "", "seconds_taken": 1.0}'):  # half, and no run
        trial.write_text(content)
        with pytest.raises(OutputError, match=f"`{trial}` is damaged: ") as raised:
            compare([recipe], str(folder), SMALL)
        assert "\n" not in raised.value.message
        assert "does this part again" in raised.value.hint
    trial.unlink()
    assert compare([recipe], str(folder), SMALL).record.status == "finished"
    (folder / "grid.json").write_text("")
    with pytest.raises(OutputError, match=r"grid.json` is damaged: "):
        compare([recipe], str(folder), SMALL)


class TestSettled:
    """The best rate in a quarter of the steps may be too high for all of them."""

    RATES = (1e-3, 3.16e-3, 1e-2)

    def settled(self, recipe, folder, trials, runs):
        """With what trials have reached, and runs that are done already."""
        grid, prepared = prepare_grid([recipe], SMALL)
        part = ComparisonFolder(folder)
        for rate, value in runs.items():
            failed = "loss is NaN" if value is None else ""
            point = ValidationPoint(8, 1.0, value)
            run = None if failed else SeedRun(seed=0, score=0.5, validations=(point,))
            done = Done(run, failed, seconds_taken=1.0).to_json()
            file = part.file_of(f"lora/seed-0-rate-{rate:g}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(done))
        tried = tuple(
            Rate(rate, value, 0.0) for rate, value in zip(self.RATES, trials, strict=True)
        )
        queue = JobQueue(part, Console(quiet=True), [])
        best = best_rate(tried, grid.metric)
        of = grid.contenders[1]
        first = queue.do(seed_job(of, best, 0, grid, prepared))
        settled, run = _settle(of, _Settled(best, tried), first, queue, grid, prepared)
        assert queue.number == 1 + len(queue.jobs)
        too_high = [rate.learning_rate for rate in settled.tried if rate.too_high]
        return settled.rate, run, too_high

    def test_a_run_that_keeps_what_its_trial_had_decides(self, recipe, tmp_path):
        runs = {1e-2: 0.46}
        assert self.settled(recipe, tmp_path, (0.2, 0.4, 0.5), runs)[::2] == (1e-2, [])

    def test_a_run_that_loses_it_or_fails_has_the_next_lower_rate(self, recipe, tmp_path):
        runs = {1e-2: 0.26, 3.16e-3: None, 1e-3: 0.7}
        rate, run, too_high = self.settled(recipe, tmp_path, (0.2, 0.4, 0.5), runs)
        assert (rate, too_high) == (1e-3, [3.16e-3, 1e-2])
        assert [point.value for point in run.value.validations] == [0.7]

    def test_below_the_lowest_rate_there_is_none(self, recipe, tmp_path):
        runs = {1e-3: 0.1}
        assert self.settled(recipe, tmp_path, (0.5, 0.4, 0.3), runs)[::2] == (1e-3, [])

    def test_of_losses_more_is_worse(self):
        points = tuple(ValidationPoint(n, 0.0, value) for n, value in enumerate((2.3, 2.6)))
        run = Done(SeedRun(seed=0, score=2.6, validations=points))
        assert not collapsed(run, 2.2, LOSS)
        assert collapsed(run, 2.0, LOSS)
        assert not collapsed(Done(None, "killed", died=True), 2.0, LOSS)


class TestCommitted:
    """What benchmarks/peft_vs_full.py copies into the project."""

    def test_the_copy_stands_for_itself(self, benchmark_script, compared, tmp_path, monkeypatch):
        monkeypatch.setattr(benchmark_script, "HERE", tmp_path / "benchmarks")
        target = tmp_path / "benchmarks" / "peft_vs_full" / "reviews"
        target.mkdir(parents=True)
        (target / "of_before.md").touch()
        shutil.copy(compared.folder / "recipes/lora.json", compared.folder / "recipes/old.json")
        data = Path(json.loads((compared.folder / "recipes/lora.json").read_text())
                    ["task"]["data"]["path"])  # fmt: skip
        benchmark_script.commit(compared.folder, target, compared.record, str(data.parent))
        (compared.folder / "recipes/old.json").unlink()
        assert sorted(file.name for file in target.iterdir()) == [
            "compare.html", "compare.json", "compare.md", "findings.md", "recipes", "scores.svg",
        ]  # fmt: skip
        assert sorted(file.name for file in (target / "recipes").iterdir()) == [
            "full.json", "lora.json",
        ]  # fmt: skip
        copied = json.loads((target / "recipes/lora.json").read_text())
        assert copied["task"]["data"]["path"] == f"data/{data.name}"
        record = json.loads((target / "compare.json").read_text())
        assert record["data"] == f"data/{data.name}"
        command = record["rows"][1]["seeds"][0]["command"]
        assert " benchmarks/peft_vs_full/reviews/recipes/lora.json " in command
        assert str(compared.folder) not in (target / "compare.json").read_text()
        text = (target / "findings.md").read_text()
        assert text == "- the best rate of LoRA is 1e+02 times full fine-tuning's (about 10)\n"

    @pytest.mark.parametrize("content", [b"\x89PNG\r\n" * 1000, b"", b"[1]", b"{}"])
    def test_a_wrong_table_is_told_in_a_line(self, benchmark_script, tmp_path, content):
        (tmp_path / "compare.json").write_bytes(content)
        with pytest.raises(DataError, match=r"compare.json` is no table: ") as raised:
            benchmark_script.report_again(tmp_path)
        assert len(raised.value.message) < 200 + len(str(tmp_path))
        assert "\n" not in raised.value.message

    def test_the_tables_in_the_project_are_of_these_methods(self, benchmark_script):
        for file in BENCHMARK.parent.glob("peft_vs_full/*/compare.json"):
            record = json.loads(file.read_text(encoding="utf-8"))
            asked = benchmark_script.COMPARISONS[file.parent.name]
            rows = {row["name"]: row for row in record["rows"] if row["role"] != "probe"}
            assert rows.keys() == asked.methods.keys()
            assert record["status"] == "finished"
            assert record["budget"]["batch_size"] == asked.training.batch_size
            for row in rows.values():
                assert len(row["seeds"]) == 3
                assert len(row["interval"]) == 2
                assert (file.parent / "recipes" / f"{row['name']}.json").is_file()


DIES = '''
"""The processes of its trials and runs are killed as long as a file is there."""
import multiprocessing
import os
import signal
from pathlib import Path
from peftkit import LoRA


class Dies(LoRA):
    def inject(self, *arguments, **named):
        if Path("out_of_luck").exists() and multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().inject(*arguments, **named)
'''


@pytest.mark.slow
def test_a_method_whose_processes_die_is_tried_again(recipe, tmp_path):
    (tmp_path / "own.py").write_text(DIES)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    (tmp_path / "mortal.py").write_text(
        "from own import Dies\n"
        "from peftkit.recipe import Recipe\n"
        "def recipe():\n"
        "    found = Recipe.from_json(open('recipe.json').read())\n"
        "    return found.with_(name='mortal', method=Dies(r=4))\n"
    )
    command = [sys.executable, "-m", "peftkit", "compare", "mortal.py", "--trials", "1"]
    command += ["--seeds", "2", "--output-dir", "grid"]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARK.parents[1])}

    def once():
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        file = tmp_path / "grid" / "compare.json"
        return done, json.loads(file.read_text(encoding="utf-8"))

    (tmp_path / "out_of_luck").touch()
    done, record = once()
    rows = {row["name"]: row for row in record["rows"]}
    assert done.returncode == 1, done.stderr
    assert record["status"] == "incomplete"
    assert rows["mortal"]["verdict"] == "failed"
    assert "memory" in rows["mortal"]["failed"]
    assert rows["full"]["score"] is not None
    (tmp_path / "out_of_luck").unlink()
    done, record = once()
    assert done.returncode == 0, done.stderr
    assert record["status"] == "finished"
    assert all(row["score"] is not None for row in record["rows"])
    (tmp_path / "own.py").write_text(DIES.replace("as long as", "while"))
    done, record = once()
    assert done.returncode == 2
    assert "own.py` has changed" in done.stderr


def test_a_run_that_was_deleted_by_hand_is_named(tmp_path):
    with pytest.raises(OutputError, match="though this run is marked as done"):
        read_scores(tmp_path / "lora" / "seed-0", Metric("accuracy"))
