"""What `peftkit plan` expects beside what runs take: four methods on two bases.

    python benchmarks/plan.py

Runs eight recipes for a few steps, each in a process of its own; writes benchmarks/plan.json and
its part of benchmarks/README.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from parts import write_part

HERE = Path(__file__).parent
RECIPES = HERE.parent / "recipes"
STEPS = "6"
CHAT = ["--task.samples", "0"]
METHODS = {
    "LoRA": ("sentiment_lora", "chat_lora"),
    "full fine-tuning": ("sentiment_full", "chat_full"),
    "bottleneck adapters": ("sentiment_houlsby", "chat_bottleneck"),
    "prefix tuning": ("sentiment_prefix", "chat_prefix"),
}
BASES = ("MiniLM-L6 (22M), sentiment", "SmolLM2-135M, chat")


def main() -> None:
    rows = []
    for method, recipes in METHODS.items():
        for base, recipe in zip(BASES, recipes, strict=True):
            rows.append({"method": method, "base": base, **measured(recipe)})
            print(rows[-1], flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    write_part("plan", report(rows))


def measured(recipe: str) -> dict[str, Any]:
    """Expected and measured peak memory of a short run, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--json", "--output-dir", f"{folder}/run", "--training.max-steps", STEPS]
        options += CHAT if recipe.startswith("chat") else []
        command = [sys.executable, str(RECIPES / f"{recipe}.py"), *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    run = json.loads(done.stdout)
    planned, found = run["plan"]["peak_mb"], run["peak_memory_mb"]
    return {
        "planned_mb": round(planned),
        "measured_mb": round(found),
        "difference": planned / found - 1,
        "seconds_to_plan": run["seconds"]["plan"],
        "device": run["device"],
    }


def report(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| base | method | planned MB | measured MB | difference | seconds to plan |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['base']} | {row['method']} | {row['planned_mb']:,} | {row['measured_mb']:,} | "
        f"{row['difference']:+.0%} | {row['seconds_to_plan']:.1f} |"
        for row in rows
    ]
    worst = max(abs(row["difference"]) for row in rows)
    return (
        "## What a plan expects\n"
        f"Peak memory of whole runs, six steps each, {rows[0]['device']} "
        f"(`python benchmarks/plan.py`); the largest difference is {worst:.0%}.\n\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
