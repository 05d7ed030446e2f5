"""Whole comparisons of chat models, with forgetting, and of a method that is not peftkit's own."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from peftkit import Budget
from peftkit.evaluation.retention import Retention
from peftkit.experiments.comparing.compare import compare
from tests.conftest import write_jsonl

pytestmark = pytest.mark.slow

OWN = '''
"""A low-rank method with another default."""
from peftkit import LoRA


class Thin(LoRA):
    r: int = 1
'''


def test_chat_models_in_two_precisions(make_chat, tmp_path):
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": f"It is here, {n}."} for n in range(9)])
    budget = Budget(num_trials=1, num_seeds=2, retention=Retention(path=str(texts)))
    recipes = [
        make_chat(
            task={"samples": 20}, base={"quantization": name}, columns={"test_fraction": 0.5}
        ).with_(name=f"lora_{name}")
        for name in ("none", "nf4")
    ]
    done = compare(recipes, str(tmp_path / "grid"), budget)
    rows = {row.name: row for row in done.record.rows}
    assert set(rows) == {"full", "lora_none", "lora_nf4"}  # language models have no frozen probe
    assert rows["lora_nf4"].precision == "nf4"
    for row in rows.values():
        assert not row.failed
        assert row.score < done.record.before  # a loss
        assert math.isclose(
            row.forgetting, sum(seed.forgetting for seed in row.seeds) / 2, abs_tol=1e-9
        )
        assert 0 <= row.extra["rouge_l"] <= 1
        assert row.peak_memory_mb["merging"] is None or row.peak_memory_mb["merging"] > 0
    assert rows["full"].forgetting != rows["lora_none"].forgetting
    assert rows["lora_none"].adapter_bytes < rows["full"].adapter_bytes
    assert "forgetting" in (done.folder / "compare.html").read_text(encoding="utf-8")


def test_a_method_of_ones_own(make_recipe, tmp_path):
    """From a script, whose processes import the file of the class."""
    (tmp_path / "own.py").write_text(OWN)
    recipe = make_recipe().with_(name="thin")
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    script = tmp_path / "script.py"
    script.write_text(
        "from own import Thin\n"
        "import peftkit\n"
        "from peftkit.recipe import Recipe\n"
        "if __name__ == '__main__':\n"
        "    recipe = Recipe.from_json(open('recipe.json').read()).with_(method=Thin())\n"
        "    peftkit.compare([recipe], 'grid', peftkit.Budget(num_trials=1, num_seeds=2))\n"
    )
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, capture_output=True)
    record = json.loads((tmp_path / "grid" / "compare.json").read_text(encoding="utf-8"))
    row = next(row for row in record["rows"] if row["name"] == "thin")
    assert row["method"] == "own:Thin"
    assert row["verdict"] in ("better", "worse", "equivalent", "undecided")
    command = row["seeds"][0]["command"]
    assert f"--trust-module {tmp_path / 'own.py'}" in command
    subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=tmp_path, check=True, capture_output=True
    )
    ours, theirs = (
        (tmp_path / folder / "by_example.json").read_bytes()
        for folder in (f"grid/{row['seeds'][0]['folder']}", "again/thin-0")
    )
    assert ours == theirs
