"""How runs begin and end: what is told early, ties, signals, threads, names of folders."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from peftkit import LoRA
from peftkit.adapters.inspection.inspecting import adapter_in
from peftkit.adapters.newest_run import newest_run
from peftkit.adapters.verifying import verify
from peftkit.cli.main import command_line
from peftkit.errors import AdapterError, Interrupted
from peftkit.metrics.metric import Metric
from peftkit.reports.terminal import print_note
from peftkit.run import run
from peftkit.stages.run_folder import taken_name
from peftkit.tasks.score import Score
from peftkit.training.interruptions import interruptible
from peftkit.training.stopping import Best
from peftkit.training.threads import WAITING, cpu_threads, resolved_threads, usable_cpus
from tests.conftest import write_csv

# --- ties


class Counter(nn.Module):
    """Its one weight counts validations."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(
        st.tuples(st.integers(0, 3).map(float), st.integers(0, 5).map(float)),
        min_size=1,
        max_size=12,
    ),
    metric=st.sampled_from(["accuracy", "loss"]),
    patience=st.integers(0, 4),
)
def test_the_best_weights_have_the_best_score_and_of_these_the_lowest_loss(
    scores, metric, patience
):
    best, model = Best(Metric(metric, metric != "loss"), patience), Counter()
    for step, (accuracy, loss) in enumerate(scores, start=1):
        model.weight.data.fill_(step)
        best.update(Score({"accuracy": accuracy, "loss": loss}, {}), model, step)
        if best.exhausted:
            break
    seen = scores[:step]
    key = {"accuracy": lambda s: (-s[0], s[1]), "loss": lambda s: s[1]}[metric]
    first = min(range(len(seen)), key=lambda n: key(seen[n])) + 1
    best.restore(model)
    assert (best.step, int(model.weight)) == (first, first)
    assert best.since == len(seen) - first
    assert best.exhausted is (patience > 0 and best.since >= patience)


# --- signals


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """Python's own handler of Ctrl-C, which it does not install where a shell starts the tests in
    the background and has the signal ignored.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_is_noted_and_the_second_ends_the_block():
    codes, reached = [], []

    def kept(code):
        codes.append(code)
        return ""

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible(kept) as signals:
        signal.raise_signal(signal.SIGTERM)
        reached.append(signals.code)
        signal.raise_signal(signal.SIGINT)
        reached.append("not here")
    with interruptible(kept) as signals, signals.at_once():
        signal.raise_signal(signal.SIGTERM)
        reached.append("nor here")
    with interruptible(kept):
        pass
    assert (codes, reached) == ([130, 143], [143])
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_is_an_error_where_nothing_can_be_kept():
    with pytest.raises(Interrupted, match="stopped at step 3; nothing is kept") as caught:  # noqa: SIM117
        with interruptible(lambda code: "at step 3"):
            signal.raise_signal(signal.SIGTERM)
    assert caught.value.exit_code == 143


def interrupted(tmp_path, recipe, number, until):
    """Exit code and messages of a run that gets a signal once its output has a text."""
    recipe_file = tmp_path / "recipe.json"
    recipe_file.write_text(recipe.to_json())
    command = [sys.executable, "-m", "peftkit", "run", str(recipe_file)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if until in line:
                time.sleep(0.3)
                process.send_signal(number)
                break
        _, error = process.communicate(timeout=60)
        return process.returncode, error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_keeps_the_best_validated_weights(tmp_path, make_recipe, number):
    recipe = make_recipe(num_epochs=10_000, evaluate_every=5, early_stopping_patience=0)
    code, error = interrupted(tmp_path, recipe, number, "step 10 ")
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], error
    folder = tmp_path / "runs" / "tiny"
    assert re.search(r"stopped at step \d+ of 90,000; the best validated weights \(step \d+", error)
    assert "adapter.unfinished" in error
    assert "Traceback" not in error
    assert not verify(str(folder / "adapter.unfinished")).problems
    with pytest.raises(AdapterError, match="was interrupted, and left an unfinished adapter"):
        adapter_in(folder)


class Stopped(LoRA):
    """A signal comes in the third step."""

    def after_step(self, model, step, num_steps):
        super().after_step(model, step, num_steps)
        if step == 3:
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_before_the_first_validation_leaves_nothing(in_tmp, make_recipe):
    recipe = make_recipe(Stopped(r=4), max_steps=9, evaluate_every=5)
    with pytest.raises(Interrupted) as caught:
        run(recipe)
    assert caught.value.exit_code == 143
    assert caught.value.message == (
        "stopped at step 3 of 9, before there were weights to keep; nothing is kept"
    )
    assert not Path("runs").exists()


# --- told before the model libraries are imported

EARLY = {
    "a missing file": (["check", "recipe.json", "--task.data.path", "nowhere.csv"], "no file"),
    "a wrong column": (["run", "recipe.json", "--task.data.text", "review"], "no column `review`"),
    "a wrong run folder": (["predict", "runs/nothing", "--text", "x"], "no folder"),
    "an output that exists": (["run", "recipe.json", "--output-dir", "taken"], "exists already"),
    "a missing base": (["plan", "recipe.json", "--base.name-or-path", "./nowhere"], "no file"),
    "an adapter to start from": (["run", "recipe.json", "--start-from", "runs/no"], "no folder"),
    "a comparison": (["compare", "recipe.json", "--task.data.path", "nowhere.csv"], "no file"),
    "a base of the Hub": (["run", "recipe.json", "--base.name-or-path", "org/no"], "the Hub does"),
    "rows to answer": (["predict", "taken", "--file", "no.csv", "--out", "o.csv"], "no file"),
}


@pytest.mark.parametrize("what", EARLY)
def test_what_is_wrong_is_told_without_the_model_libraries(tmp_path, make_recipe, what):
    arguments, told = EARLY[what]
    (tmp_path / "recipe.json").write_text(make_recipe().to_json())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "adapter_config.json").write_text("{}")
    code = (
        "import sys; from peftkit.cli.main import command_line\n"
        f"try: command_line({arguments!r})\n"
        "finally: print(sorted({'torch', 'transformers', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert done.stdout.strip() == "[]"


def test_a_file_that_lies_beside_the_script_is_pointed_at(in_tmp, make_recipe, capsys):
    (in_tmp / "sub").mkdir()
    write_csv(in_tmp / "sub" / "rows.csv", [("a", "b")])
    recipe = json.loads(make_recipe().to_json())
    recipe["task"]["data"]["path"] = "rows.csv"
    (in_tmp / "sub" / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(SystemExit):
        command_line(["check", "sub/recipe.json"])
    assert "it is beside the script: give `sub/rows.csv`" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command_line(["check", "recipe.json"])
    assert f"it was looked for in `{in_tmp}`" in capsys.readouterr().err


# --- what a signal leaves


def test_a_signal_in_the_check_leaves_the_adapter(make_recipe, in_tmp, monkeypatch):
    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("peftkit.run.check_saved", interrupted)
    with pytest.raises(Interrupted, match="before the saved adapter was checked") as caught:
        run(make_recipe(max_steps=1))
    assert not verify("runs/tiny/adapter.unchecked").problems
    assert caught.value.hint == "check it with `peftkit verify runs/tiny/adapter.unchecked`"
    monkeypatch.setattr("peftkit.run.train_and_score", interrupted)
    with pytest.raises(Interrupted, match="stopped before anything was saved"):
        run(make_recipe(max_steps=1))
    assert not Path("runs/tiny-2").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(
    ("at", "left", "told"),
    [
        ("peftkit.training.loop._finish", "adapter.unfinished", "the best validated weights"),
        ("peftkit.run.versions", "adapter.unchecked", "before the saved adapter was checked"),
        ("peftkit.run.write_receipt", "adapter", ""),
    ],
)
def test_a_signal_between_two_stages_loses_nothing(
    make_recipe, in_tmp, monkeypatch, number, at, left, told
):
    module, name = at.rsplit(".", 1)
    before = getattr(importlib.import_module(module), name)

    def with_signal(*given):
        signal.raise_signal(number)
        return before(*given)

    monkeypatch.setattr(at, with_signal)
    if told:
        with pytest.raises(Interrupted, match=told) as caught:
            run(make_recipe(max_steps=2))
        assert caught.value.exit_code == 128 + number
    else:
        run(make_recipe(max_steps=2))
        assert (in_tmp / "runs/tiny/receipt.html").is_file()
    assert not verify(f"runs/tiny/{left}").problems
    if left == "adapter.unfinished":
        card = (in_tmp / "runs/tiny" / left / "README.md").read_text()
        assert "Not finished: a signal interrupted training." in card
        assert "| scores | " in card
        assert "| validation, step 2 | " in card


def test_notes_in_a_log_are_single_lines():
    out = io.StringIO()
    print_note(Console(file=out, width=40), "word " * 30)
    assert len(out.getvalue().splitlines()) == 1


OWN = """
import os, signal
from peftkit import *
class Stopped(LoRA):
    def after_step(self, model, step, num_steps):
        if step == 25 and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGTERM)
def recipe():
    return Recipe(base=Base(name_or_path=BASE), method=Stopped(r=4),
                  task=TextClassification(data=Data(path=ROWS)),
                  training=Training(num_epochs=500, batch_size=15, evaluate_every=10))
main(recipe)
"""


@pytest.mark.slow
def test_of_several_processes_all_stop_at_the_step_at_which_one_is_to(tmp_path, bases, reviews):
    values = f"BASE, ROWS = {str(bases['bert'])!r}, {str(reviews)!r}\n"
    (tmp_path / "own.py").write_text(values + OWN)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "own.py"]
    done = subprocess.run(
        [sys.executable, *launcher], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=200,
    )  # fmt: skip
    assert "stopped at step 25 of" in done.stderr
    assert not verify(str(tmp_path / "runs/own/adapter.unfinished")).problems


# --- names of run folders


def test_the_newest_of_several_runs_has_a_name(in_tmp):
    assert taken_name("mine", "") is None
    for number, name in enumerate(("mine", "mine-2", "mine-3", "mine-too", "mine-10", "mine-16")):
        folder = in_tmp / "runs" / name
        (folder / "adapter").mkdir(parents=True)
        named = name if name == "mine-16" else "mine"  # a recipe may be called so
        (folder / "recipe.json").write_text(json.dumps({"name": named}))
        os.utime(folder / "recipe.json", (number, number))
    for name, when in (("mine-2", 99), ("mine-16", 100)):
        os.utime(in_tmp / "runs" / name / "recipe.json", (when, when))
    (in_tmp / "runs" / "mine-12" / "adapter").mkdir(parents=True)  # something else
    (in_tmp / "runs" / "mine-4").mkdir()
    assert newest_run("runs/mine@latest") == "runs/mine-2"
    assert taken_name("mine", "") == Path("runs/mine-5")
    assert taken_name("mine", "elsewhere") is None
    assert newest_run("runs/mine") == "runs/mine"
    assert newest_run("org/name@latest") == "org/name@latest"
    with pytest.raises(AdapterError, match="no run in `runs` is called `mind`") as error:
        newest_run("runs/mind@latest")
    assert "did you mean" in error.value.hint


# --- threads


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
        ({"cpu.max": "nonsense"}, None),
        ({"membership": "0::/user/job\n", "user/cpu.max": "100000 100000\n"}, 1),
        ({"membership": "4:cpu,cpuacct:/job\n5:pids:/x\n", "cpu/job/cpu.cfs_quota_us": "100000",
          "cpu/job/cpu.cfs_period_us": "100000"}, 1),
        ({"membership": "0::/elsewhere\n", "job/cpu.max": "100000 100000\n"}, None),
    ],
)  # fmt: skip
def test_a_process_uses_no_more_processors_than_it_may(tmp_path, files, cpus):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    all_of_them = len(os.sched_getaffinity(0))
    assert usable_cpus(tmp_path, tmp_path / "membership") == (cpus or all_of_them)


def test_the_user_chooses_threads_and_they_are_put_back():
    assert resolved_threads(3) == 3
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_sleep_while_they_wait_unless_the_user_says_how(given, expected):
    """In commands, before torch is imported; `import peftkit` alone changes nothing."""
    print_them = "print({name: os.environ[name] for name in WAITING if name in os.environ})"
    code = (
        "import os, sys\nimport peftkit.cli.main\nfrom peftkit.training.threads import WAITING\n"
        f"{print_them}\n"
        "try: peftkit.cli.main.command_line(['verify', 'nowhere'])\nexcept SystemExit: pass\n"
        f"assert 'torch' not in sys.modules\n{print_them}"
    )
    bare = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**bare, **given}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    before, after = done.stdout.splitlines()[0], done.stdout.splitlines()[-1]
    assert before == str(given)
    assert after == str(expected)


def test_threads_of_runs_in_their_own_process_sleep_too():
    """Where a comparison is started by a script and no command."""
    code = (
        "from peftkit.experiments.jobs.own_process import run_isolated\nimport os\n"
        "if __name__ == '__main__': print(run_isolated(os.getenv, 'GOMP_SPINCOUNT'))"
    )
    bare = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run(
        [sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1000"


def test_a_run_records_its_threads(tmp_path, make_recipe):
    done = run(make_recipe(max_steps=1, threads=1), str(tmp_path / "r"))
    recipe = json.loads((done.folder / "recipe.json").read_text())
    assert recipe["training"]["threads"] == 1
    assert done.record.device.startswith("cpu, 1 thread")
