"""Runs every sentiment recipe at full size, one after the other, and writes docs/recipes.md.

    python benchmarks/recipes.py [RUNS_FOLDER]

Runs that RUNS_FOLDER holds already are not repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "recipes.md"
FIRST = ("sentiment_full", "sentiment_lora", "sentiment_head_only")
HEADER = (
    "recipe", "method", "learning rate", "accuracy (95 % interval)", "trained parameters", "saved",
    "total time", "training", "peak memory", "base's weights",
)  # fmt: skip
TEXT = """\
# Recipes, measured
Written by `make recipes`; do not edit. Rotten Tomatoes reviews ({rows} rows: {train} to train on,
{test} to test), MiniLM-L6 (22.7M parameters), one epoch in batches of 32, seed 0, {device}; one run
each, so that methods whose intervals overlap are not ranked. Before training: accuracy
{before:.3f}; always guessing one label: {majority:.3f}. Memory is the whole process, with 0.4 GB of
libraries; learning rates were chosen on the validation rows of a third of the data (docs/log.md).

{table}

Quantization saves memory where the weights are most of it; here they are 87 MB of a process whose
peak is activations, and bitsandbytes' layers on a CPU dequantize in every pass. Prompt tuning and
p-tuning reach the model through a few embeddings before the text, and the literature too finds them
far behind on models this small (Lester et al. 2021). Next to the head alone, the two top layers are
the quickest: where nothing below trains, the backward pass ends.
"""


def main(runs: Path) -> None:
    runs.mkdir(parents=True, exist_ok=True)
    recipes = sorted(ROOT.glob("recipes/sentiment_*.py"), key=lambda p: (p.stem not in FIRST, p))
    records = {recipe.stem: record_of(recipe, runs / recipe.stem) for recipe in recipes}
    TARGET.write_text(report(records), encoding="utf-8")
    print(f"wrote {TARGET}")


def record_of(recipe: Path, folder: Path) -> dict[str, Any]:
    """The content of run.json; the recipe is run if there is none."""
    if not (folder / "run.json").is_file():
        print(recipe.stem, flush=True)
        command = [sys.executable, str(recipe), "--output-dir", str(folder)]
        subprocess.run(command, check=True)
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return record


def report(records: dict[str, dict[str, Any]]) -> str:
    first = records["sentiment_lora"]
    splits = first["ledger"]["splits"]
    lines = [HEADER, ["---", "---"] + ["---:"] * (len(HEADER) - 2)]
    lines += [row(name, record) for name, record in records.items()]
    return TEXT.format(
        rows=f"{sum(split['rows'] for split in splits.values()):,}",
        train=f"{splits['train']['rows']:,}",
        test=f"{splits['test']['rows']:,}",
        device=first["device"],
        before=first["test"]["before"]["accuracy"],
        majority=first["test"]["baseline"]["majority"]["accuracy"],
        table="\n".join("| " + " | ".join(line) + " |" for line in lines),
    )


def row(name: str, record: dict[str, Any]) -> list[str]:
    recipe, test, seconds = record["recipe"], record["test"], record["seconds"]
    low, high = test["intervals"]["accuracy"]
    size = record["adapter_bytes"]
    return [
        f"`{name}.py`",
        method_of(recipe),
        f"{recipe['training']['learning_rate']:g}",
        f"{test['after']['accuracy']:.3f} ({low:.3f}-{high:.3f})",
        f"{record['trainable_parameters']:,}",
        f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB",
        f"{sum(seconds.values()):.0f} s",
        f"{record['training']['train_seconds']:.0f} s",
        f"{record['peak_memory_mb'] / 1000:.1f} GB",
        f"{record['base_memory_mb']:.0f} MB",
    ]


def method_of(recipe: dict[str, Any]) -> str:
    """`LoRA r=8 on nf4`: the kind, what the recipe set of it, and the quantization."""
    method = dict(recipe["method"])
    kind = method.pop("kind")
    shown = ("r", "init_r", "target_r", "num_virtual_tokens", "placement", "reduction_factor", "k")
    fields = ", ".join(f"{key}={method[key]}" for key in shown if key in method)
    quantized = recipe["base"]["quantization"]
    on = "" if quantized == "none" else f", on {quantized}"
    return f"{kind} {fields}".strip() + on


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "recipes")
