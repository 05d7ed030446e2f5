"""Less common ways along the line: pairs, weights, trackers, Hub data, several processes."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys

import pytest

import peftkit
from peftkit import Base, Data, HeadOnly, LoRA, Recipe, TextClassification, Training
from peftkit.bases.devices import frozen_gc, open_accelerator
from peftkit.errors import MissingPackageError
from peftkit.run import run
from tests.conftest import call_forked, sentences, write_csv


def test_pairs_of_texts_train_and_predict(bases, tmp_path):
    rows = [(a, b, str(a_label == b_label)) for (a, a_label), (b, b_label) in
            zip(sentences(120), sentences(120, seed=1)[::-1], strict=True)]  # fmt: skip
    rows += [(b, a, label) for a, b, label in rows[:40]]
    labels = [label for *_, label in rows]
    rows[0] = (*rows[0][:2], "False" if labels[0] == "True" else "True")
    path = write_csv(tmp_path / "pairs.csv", rows, ("left", "right", "same"))
    data = Data(path=str(path), text="left", text_pair="right", label="same")
    recipe = Recipe(
        base=Base(name_or_path=str(bases["bert"])),
        task=TextClassification(data=data, class_weights="balanced"),
        method=LoRA(r=2),
        training=Training(max_steps=2),
    )
    folder = run(recipe, str(tmp_path / "run")).folder
    adapter = peftkit.load(str(folder))
    pair = {"text": "a warm film", "text_pair": "a cold film"}
    swapped = {"text": pair["text_pair"], "text_pair": pair["text"]}
    first, second = adapter.predict([pair, swapped])
    assert first.probability != second.probability, "both texts are read, in their order"


def test_tensorboard_gets_losses_and_scores(make_recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(make_recipe(HeadOnly(), max_steps=3, report_to="tensorboard"), str(tmp_path / "run"))
    (events,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events.parent)).Reload()
    assert len(accumulator.Scalars("loss")) == 3
    assert accumulator.Scalars("validation/accuracy")


def test_a_tracker_that_is_not_installed_is_an_error():
    with pytest.raises(MissingPackageError, match="pip install wandb"):
        open_accelerator(Base(name_or_path="x"), "wandb")


def test_frozen_gc_inside_others_leave_all_frozen():
    with frozen_gc():
        with frozen_gc():
            pass
        assert gc.get_freeze_count()


def fill_hub_cache(source, cache):
    """Leaves a data set as a download from the Hub would."""
    import datasets

    datasets.load_dataset("csv", data_files=str(source), cache_dir=str(cache))
    folder = next(cache.glob("csv/default-*"))
    target = cache / "org___reviews" / "default" / "0.0.0" / ("0" * 40)
    (made,) = (path for path in (folder / "0.0.0").iterdir() if path.is_dir())
    shutil.copytree(made, target)
    for file in target.iterdir():
        file.rename(file.with_name(file.name.replace("csv-", "reviews-")))


CHECKS = """
import sys
from peftkit.cli.main import command_line
command_line(["check", "recipe.json", "--json"])
print("checked", file=sys.stderr)
command_line(["check", "recipe.json", "--task.data.path", "org/other"])
"""


def test_a_hub_data_set_works_offline_from_the_cache(reviews, bases, tmp_path):
    cache = tmp_path / "cache"
    made = call_forked(lambda: fill_hub_cache(reviews, cache), tmp_path)
    assert made.returncode == 0, made.stderr
    recipe = Recipe(
        base=Base(name_or_path=str(bases["bert"])),
        task=TextClassification(data=Data(path="org/reviews")),
        method=HeadOnly(),
    )
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(cache),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CHECKS], capture_output=True, text=True, env=environment,
        cwd=tmp_path, check=False,
    )  # fmt: skip
    checked, _, missing = done.stderr.partition("checked\n")
    assert missing, checked
    assert json.loads(done.stdout)["ledger"]["read"][0]["read"] == 200
    assert done.returncode == 2
    assert "`org/other` is not a local file, and cannot be loaded from the Hub" in missing


def test_two_processes_give_the_losses_of_one(make_recipe, tmp_path):
    recipe = make_recipe(LoRA(r=4), dropout=0.0, max_steps=6, batch_size=15, evaluate_every=3)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["--no-python", sys.executable, "-m", "peftkit", "run", "recipe.json", "--json"]
    done = subprocess.run(
        [sys.executable, *launcher, *command, "--output-dir", "two"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run(recipe, str(tmp_path / "one"))
    records = [json.loads((tmp_path / n / "run.json").read_text()) for n in ("one", "two")]
    one, two = ([step["loss"] for step in r["training"]["history"]] for r in records)
    assert two == pytest.approx(one, rel=1e-5)
    assert records[1]["test"]["after"] == pytest.approx(records[0]["test"]["after"], rel=1e-4)
