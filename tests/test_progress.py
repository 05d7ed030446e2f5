"""What a log that is no terminal is told while work goes on."""

from __future__ import annotations

import io
import re

import pytest
from accelerate import Accelerator
from rich.console import Console

import peftkit
from peftkit import HeadOnly, LoRA
from peftkit.adapters.verifying import verify
from peftkit.deploy.merging import certificate
from peftkit.deploy.merging.certificate import MergeInputs, compute_outputs
from peftkit.evaluation.scoring import evaluate
from peftkit.run import run
from peftkit.stages.fitting import engine_of, load
from peftkit.stages.preparing import prepare
from peftkit.training.progress import EVERY, Pace, Stages, TrainingProgress

CPU = Accelerator(cpu=True)


class FakeClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def plain() -> Console:
    return Console(file=io.StringIO(), width=60)


def lines_of(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


class TestPace:
    def test_a_line_every_thirty_seconds_and_none_at_the_end(self):
        clock, said = FakeClock(), []
        pace = Pace(said.append, "test", 1000, clock=clock)
        for _ in range(100):
            clock.now += 1
            pace.advance(10)
        assert said == [
            "test: 300 of 1,000 rows, 10 rows/s, 1 min 10 s left",
            "test: 600 of 1,000 rows, 10 rows/s, 40 s left",
            "test: 900 of 1,000 rows, 10 rows/s, 10 s left",
        ]
        assert EVERY == 30

    def test_short_work_is_silent(self):
        clock, said = FakeClock(), []
        pace = Pace(said.append, "test", 50, clock=clock)
        for _ in range(50):
            clock.now += 0.59
            pace.advance(1)
        assert said == []

    def test_slow_work_is_told_after_each_batch(self):
        clock, said = FakeClock(), []
        pace = Pace(said.append, "answers", 3, clock=clock)
        for _ in range(3):
            clock.now += 400
            pace.advance(1)
        assert said == [
            "answers: 1 of 3 rows, 400 s each, 13 min 20 s left",
            "answers: 2 of 3 rows, 400 s each, 6 min 40 s left",
        ]


def test_stages_are_named_where_what_came_before_took_long():
    clock, said = FakeClock(), []
    stages = Stages(said.append, clock=clock)
    for seconds, stage in ((1, "reading"), (45, "loading"), (3, "asking"), (30, "comparing")):
        clock.now += seconds
        stages(stage)
    assert said == ["loading, after 46 s", "comparing, after 1 min 19 s"]


class TestTraining:
    def steps(self, console, count, seconds, num_steps=100, visible=True):
        clock = FakeClock()
        with TrainingProgress(console, num_steps, visible, clock=clock) as progress:
            for number in range(count):
                clock.now += seconds
                progress.step(2.0 if number < 20 else 1.0, 1e-3, 16, 500)
        return lines_of(console)

    def test_lines_inside_an_epoch(self):
        told = self.steps(plain(), 50, 1.6)
        assert told == [  # 19 steps are 30.4 seconds
            "  step 19 of 100  train loss 2.0000  10 examples/s  2 min 10 s left",
            "  step 38 of 100  train loss 1.0526  10 examples/s  1 min 39 s left",
        ]

    def test_nothing_of_a_short_one(self):
        assert self.steps(plain(), 100, 0.29) == []

    def test_nothing_after_the_last_step(self):
        assert self.steps(plain(), 4, 10.0, num_steps=3) == []

    def test_one_process_of_several_speaks(self):
        assert self.steps(plain(), 50, 10, visible=False) == []

    def test_a_terminal_has_its_bar_and_no_lines(self):
        console = Console(file=io.StringIO(), force_terminal=True, width=120)
        told = "\n".join(self.steps(console, 50, 10))
        assert "train loss" not in told


@pytest.fixture(scope="module")
def classifier(make_recipe):
    prepared = prepare(make_recipe(HeadOnly()))
    return prepared, load(prepared, CPU).model.eval()


def test_scoring_counts_every_row(classifier):
    prepared, model = classifier
    done: list[int] = []
    engine = engine_of(model, prepared, CPU)
    evaluate(engine, prepared.encoded.train, prepared.recipe.task, done.append)
    assert sum(done) == len(prepared.encoded.train) > 0


def test_writing_counts_every_prompt(make_chat):
    prepared = prepare(make_chat(task={"samples": 3, "generation": {"max_new_tokens": 2}}))
    model = load(prepared, CPU).model.eval()
    done: list[int] = []
    prompts = [prompt.input_ids for prompt in prepared.encoded.prompts]
    engine_of(model, prepared, CPU).write(prompts, prepared.base.tokenizer, done.append)
    assert sum(done) == len(prepared.encoded.prompts) > 0


def test_a_merge_counts_its_validation(classifier, monkeypatch):
    prepared, model = classifier
    monkeypatch.setattr(certificate, "Pace", lambda *a: Pace(*a, every=0.0))
    encoded, said = prepared.encoded, []
    inputs = MergeInputs(prepared.recipe.with_(
        training=prepared.recipe.training.with_(micro_batch_tokens=64)
    ), encoded.head, encoded.pad_token_id, ((5, 6, 7),), encoded.validation)  # fmt: skip
    compute_outputs(model, inputs, CPU, said.append)
    assert said
    assert all(line.startswith("validation: ") and " of 30 rows" in line for line in said)


@pytest.fixture(scope="module")
def finished(make_recipe, tmp_path_factory):
    console = plain()
    folder = tmp_path_factory.mktemp("runs") / "run"
    return run(make_recipe(LoRA(r=2), max_steps=3), str(folder), console), console


def test_a_short_run_says_nothing_in_between(finished):
    assert not re.search(r"left|/s", "\n".join(lines_of(finished[1])))


def test_an_adapter_answers_many_rows(finished, monkeypatch):
    from peftkit.adapters import loading

    adapter = peftkit.load(str(finished[0].folder))
    monkeypatch.setattr(loading, "Pace", lambda *a: Pace(*a, every=0.0))
    said: list[str] = []
    texts = [f"the film {' was' * (n % 40)} great" for n in range(600)]
    assert len(adapter.predict(texts, said.append)) == 600
    assert said[0].startswith("answers: ")
    assert " of 600 rows, " in said[0]
    said.clear()
    monkeypatch.undo()
    adapter.predict(texts[:50], said.append)
    assert said == []


def test_verify_names_its_stages(finished):
    said: list[str] = []
    findings = verify(str(finished[0].folder), stage=said.append)
    assert not findings.problems
    assert said == [
        "comparing the files of the base", "loading the adapter on its base",
        "comparing its answers with the record and the base alone",
    ]  # fmt: skip
