"""Merging beside PEFT's merge_and_unload: peak memory and seconds, each in a process of its own.

    python benchmarks/merging.py RUN [--rounds 3]       # writes benchmarks/merging.json

RUN is a finished run of a causal language model; its adapter is merged into the weights that PEFT's
users merge into (the original ones, in float32) and, by peftkit, into those that were trained on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
IMPORTS = "import torch, transformers, peft, peftkit.deploy.merging.merge"
PEFT = """
import sys, torch
from transformers import AutoModelForCausalLM
from peft import PeftModel
base, adapter, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
merged.save_pretrained(output)
"""
PEFT_DEQUANTIZED = """
import sys, torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from peft import PeftModel
base, adapter, output = sys.argv[1:]
config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=config)
model = model.dequantize(torch.float32)
merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
merged.save_pretrained(output)
"""
PEFTKIT = """
import sys
from peftkit.deploy.merging.folding import merge
base, run, output = sys.argv[1:]
merge(run).save_pretrained(output)
"""
CERTIFIED = """
import sys
from peftkit.deploy.merging.merge import merge_to
base, run, output = sys.argv[1:]
merge_to(run, output)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    base = base_folder(options.run)
    variants = {
        "imports alone": (IMPORTS, options.run),
        "PEFT merge_and_unload, into the original weights": (PEFT, options.run / "adapter"),
        "PEFT merge_and_unload, into the dequantized weights": (
            PEFT_DEQUANTIZED,
            options.run / "adapter",
        ),
        "peftkit.deploy.merging.folding.merge, compared with the probes": (PEFTKIT, options.run),
        "peftkit merge, with its certificate": (CERTIFIED, options.run),
    }
    recipe = json.loads((options.run / "recipe.json").read_text())
    if recipe["base"]["quantization"] != "nf4":
        variants = {name: value for name, value in variants.items() if "dequantized" not in name}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, (code, adapter) in variants.items():
            found[name].append(measure(code, base, adapter))
            print(name, found[name][-1], flush=True)
    result = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        | {"turns": len(turns), "largest_peak_mb": max(turn["peak_mb"] for turn in turns)}
        for name, turns in found.items()
    }
    value = {"base": recipe["base"], "method": recipe["method"], "variants": result}
    (HERE / "merging.json").write_text(json.dumps(value, indent=1) + "\n")
    print(table(result))


def base_folder(run: Path) -> Path:
    """Where the original weights are."""
    from peftkit.bases.opening import open_base
    from peftkit.recipe import Recipe

    recipe = Recipe.from_json((run / "recipe.json").read_text())
    return open_base(recipe.base).folder


def measure(code: str, base: Path, adapter: Path) -> dict[str, float]:
    """Peak memory, CPU-seconds and seconds of a program that writes a merged model."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-W", "ignore", "-c", code, str(base), str(adapter)]
        start = time.monotonic()
        started = subprocess.Popen([*command, f"{work}/merged"], stderr=subprocess.PIPE)
        assert started.stderr is not None
        told = started.stderr.read().decode()
        _, status, used = os.wait4(started.pid, 0)
        if status:
            raise SystemExit(told)
        return {
            "peak_mb": used.ru_maxrss / 1024,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "seconds": time.monotonic() - start,
        }


def table(result: dict[str, dict[str, float]]) -> str:
    rows = [
        f"| {name} | {v['peak_mb']:,.0f} MB | {v['cpu_seconds']:.1f} | {v['seconds']:.1f} |"
        for name, v in result.items()
    ]
    head = ["| | peak memory | CPU-seconds | seconds |", "|---|---:|---:|---:|"]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    main()
