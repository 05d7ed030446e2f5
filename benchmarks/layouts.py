"""Banking77 in packed and in padded batches, three seeds each: packing changes no result.

    python benchmarks/layouts.py DATA_FOLDER

DATA_FOLDER holds train.csv and test.csv of banking77. MiniLM with LoRA on the first rows; writes
benchmarks/layouts.json and its part of benchmarks/README.md.
"""

from __future__ import annotations

import csv
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from parts import write_part

ROWS = {"train": 2000, "validation": 300, "test": 1000}
SEEDS = (0, 1, 2)


def main(data: Path) -> None:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        splits(data, Path(scratch))
        for seed in SEEDS:
            for layout in ("auto", "padded"):
                rows.append(trained(Path(scratch), layout, seed))
                print(rows[-1], flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    write_part("layouts", report(rows))


def splits(data: Path, folder: Path) -> None:
    """Writes rows of the official training and test files, drawn once for all runs."""
    with (data / "train.csv").open(encoding="utf-8") as file:
        train = list(csv.DictReader(file))
    with (data / "test.csv").open(encoding="utf-8") as file:
        test = list(csv.DictReader(file))
    random.Random(0).shuffle(train)
    random.Random(0).shuffle(test)
    end = ROWS["train"] + ROWS["validation"]
    parts = {
        "train": train[: ROWS["train"]],
        "validation": train[ROWS["train"] : end],
        "test": test[: ROWS["test"]],
    }
    for name, rows in parts.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "category"])
            writer.writeheader()
            writer.writerows(rows)


def trained(folder: Path, layout: Any, seed: int) -> dict[str, Any]:
    from peftkit import Base, Data, LoRA, Recipe, TextClassification, Training
    from peftkit.run import run

    recipe = Recipe(
        base=Base(name_or_path="packaged:minilm-l6"),
        task=TextClassification(data=Data(path=str(folder), text="text", label="category")),
        method=LoRA(r=8, lora_alpha=16),
        training=Training(learning_rate=3e-3, num_epochs=3, batch_size=32, layout=layout),
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as runs:
        record = run(recipe, f"{runs}/run").record
    learned = record.training
    return {
        "layout": learned.layout,
        "seed": seed,
        "accuracy": record.test.after["accuracy"],
        "seconds": learned.learning_seconds,
        "device": record.device,
    }


def report(rows: list[dict[str, Any]]) -> str:
    lines = ["| layout | accuracy by seed | mean | spread | training |", "|---|---|---:|---:|---:|"]
    for layout in ("packed", "padded"):
        those = [row for row in rows if row["layout"] == layout]
        scores = [row["accuracy"] for row in those]
        lines.append(
            f"| {layout} | {', '.join(f'{score:.3f}' for score in scores)} | "
            f"{statistics.mean(scores):.3f} | {max(scores) - min(scores):.3f} | "
            f"{statistics.mean(row['seconds'] for row in those):.0f} s |"
        )
    sizes = ", ".join(f"{count:,} {name}" for name, count in ROWS.items())
    return (
        "## Packed and padded batches\n"
        f"banking77, {sizes} rows, MiniLM with LoRA r=8 at 3e-3, three epochs, "
        f"{rows[0]['device']} (`python benchmarks/layouts.py DATA`); time without validation.\n\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
