"""Runs the recipes of a kind at full size, one after the other, and writes their part of
docs/recipes.md.

    python benchmarks/recipes.py sentiment|chat [RUNS_FOLDER]

Runs that RUNS_FOLDER holds already are not repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from parts import write_part

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "recipes.md"
FIRST = ("sentiment_full", "sentiment_lora", "sentiment_head_only", "chat_full", "chat_lora")
COSTS = (
    "trained parameters", "saved", "total time", "training", "peak memory", "base's weights",
)  # fmt: skip
SENTIMENT = """\
{rows} Rotten Tomatoes reviews ({train} to train on, {test} to test), MiniLM-L6 (22.7M parameters),
one epoch in batches of 32, seed 0, {device}; one run each, so that methods whose intervals overlap
are not ranked. Before training: accuracy {before:.3f}; always guessing one label: {majority:.3f}.
Memory is the whole process, with 0.4 GB of libraries; learning rates were chosen on the validation
rows of a third of the data (docs/log.md).

{table}

Quantization saves memory where the weights are most of it; here they are 87 MB of a process whose
peak is activations, and bitsandbytes' layers on a CPU dequantize in every pass. Prompt tuning and
p-tuning reach the model through a few embeddings before the text, and the literature too finds them
far behind on models this small (Lester et al. 2021). Next to the head alone, the two top layers are
the quickest: where nothing below trains, the backward pass ends.
"""
CHAT = """\
{rows} conversations of an invented shop, English and Chinese ({train} to train on, {test} of other
scenarios to test), SmolLM2-135M-Instruct, up to {epochs} epochs in batches of {batch}, seed 0,
{device}; one run each. Loss and perplexity are of the tokens of unseen answers; before training:
loss {before:.3f} (in nf4 {before_nf4:.3f}).

{table}
"""


def main(kind: str, runs: Path) -> None:
    runs.mkdir(parents=True, exist_ok=True)
    recipes = sorted(ROOT.glob(f"recipes/{kind}_*.py"), key=lambda p: (p.stem not in FIRST, p))
    records = {recipe.stem: record_of(recipe, runs / recipe.stem) for recipe in recipes}
    write_part(kind, (sentiment if kind == "sentiment" else chat)(records), TARGET)
    print(f"wrote {TARGET}")


def record_of(recipe: Path, folder: Path) -> dict[str, Any]:
    """The content of run.json; the recipe is run if there is none."""
    if not (folder / "run.json").is_file():
        print(recipe.stem, flush=True)
        command = [sys.executable, str(recipe), "--output-dir", str(folder)]
        subprocess.run(command, check=True)
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return record


def sentiment(records: dict[str, dict[str, Any]]) -> str:
    first = records["sentiment_lora"]
    header = ("recipe", "method", "learning rate", "accuracy (95 % interval)", *COSTS)
    cells = {name: [with_interval(record, "accuracy")] for name, record in records.items()}
    return SENTIMENT.format(
        **rows_of(first),
        before=first["test"]["before"]["accuracy"],
        majority=first["test"]["baseline"]["majority"]["accuracy"],
        table=table(header, cells, records),
    )


def chat(records: dict[str, dict[str, Any]]) -> str:
    first = records["chat_lora"]
    header = (
        "recipe", "method", "learning rate", "loss", "perplexity (95 % interval)",
        "token accuracy", "best epoch", *COSTS,
    )  # fmt: skip
    cells = {name: chat_cells(record) for name, record in records.items()}
    return CHAT.format(
        **rows_of(first),
        epochs=first["recipe"]["training"]["num_epochs"],
        batch=first["recipe"]["training"]["batch_size"],
        before=first["test"]["before"]["loss"],
        before_nf4=records["chat_qlora"]["test"]["before"]["loss"],
        table=table(header, cells, records),
    )


def chat_cells(record: dict[str, Any]) -> list[str]:
    training, test = record["training"], record["test"]
    steps_per_epoch = max(r["step"] for r in training["history"] if r["epoch"] == 1)
    fall = 100 * (1 - test["after"]["loss"] / test["before"]["loss"])
    return [
        f"{test['after']['loss']:.3f} ({-fall:+.0f} %)",
        with_interval(record, "perplexity", 2),
        f"{test['after']['token_accuracy']:.3f}",
        f"{training['best_step'] / steps_per_epoch:.0f}",
    ]


def rows_of(record: dict[str, Any]) -> dict[str, str]:
    splits = record["ledger"]["splits"]
    return {
        "rows": f"{sum(split['rows'] for split in splits.values()):,}",
        "train": f"{splits['train']['rows']:,}",
        "test": f"{splits['test']['rows']:,}",
        "device": record["device"],
    }


def with_interval(record: dict[str, Any], metric: str, digits: int = 3) -> str:
    test = record["test"]
    value, low, high = (
        f"{x:.{digits}f}" for x in (test["after"][metric], *test["intervals"][metric])
    )
    return f"{value} ({low}-{high})"


def table(
    header: tuple[str, ...], scores: dict[str, list[str]], records: dict[str, dict[str, Any]]
) -> str:
    lines: list[Any] = [header, ["---", "---"] + ["---:"] * (len(header) - 2)]
    for name, record in records.items():
        recipe = record["recipe"]
        rate = f"{recipe['training']['learning_rate']:g}"
        lines.append([f"`{name}.py`", method_of(recipe), rate, *scores[name], *costs(record)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def costs(record: dict[str, Any]) -> list[str]:
    size = record["adapter_bytes"]
    return [
        f"{record['trainable_parameters']:,}",
        f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB",
        f"{sum(record['seconds'].values()):.0f} s",
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
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "runs" / "recipes"
    main(sys.argv[1], folder)
