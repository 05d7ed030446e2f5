"""Memory and speed of training a 1B-parameter Llama shape with random weights, by method and
precision. For a GPU; `--size tiny` shows on a CPU that it runs.

    python benchmarks/quantized_training.py --out benchmarks/results/quantized_training.json

Every variant is a process of its own, so that its peak is its own. Rows of 2,048 random tokens,
loss on every one of them; 5 steps to warm up, 20 that count.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import peftkit as pk

SIZES = {
    "1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "width": 2048, "rows": 2, "warm_up": 5, "steps": 20,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
        "width": 64, "rows": 2, "warm_up": 1, "steps": 3,
    },
}  # fmt: skip
LORA = pk.LoRA(r=16, lora_alpha=32)
VARIANTS: dict[str, tuple[pk.Method, str, bool, str]] = {
    "LoRA, bf16": (LORA, "none", False, "adamw"),
    "LoRA, bf16, checkpointing": (LORA, "none", True, "adamw"),
    "LoRA, int8": (LORA, "int8", False, "paged_adamw_8bit"),
    "LoRA, nf4": (LORA, "nf4", False, "paged_adamw_8bit"),
    "LoRA, nf4, checkpointing": (LORA, "nf4", True, "paged_adamw_8bit"),
    "bottleneck, nf4": (pk.BottleneckAdapter(), "nf4", False, "paged_adamw_8bit"),
    "prefix, nf4": (pk.PrefixTuning(num_virtual_tokens=20), "nf4", False, "paged_adamw_8bit"),
}
"""Name -> method, quantization, activation checkpointing, optimizer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="1b")
    parser.add_argument("--out", type=Path, help="a .json file")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, SIZES[options.size], options.checkpoint)))
        return
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), SIZES[options.size])
        rows = {name: in_a_process(name, options.size, folder) for name in VARIANTS}
    for name, row in rows.items():
        print(name.ljust(28), json.dumps(row))
    if options.out:
        value = {"size": options.size, "machine": machine(), "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(value, indent=1) + "\n")


def in_a_process(name: str, size: str, folder: str) -> dict[str, Any]:
    """What a variant came to; running out of memory is an answer too."""
    command = [sys.executable, __file__, "--size", size, "--variant", name, "--checkpoint", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:300]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def save_checkpoint(folder: Path, size: dict[str, int]) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    fields = {k: v for k, v in size.items() if k not in ("width", "rows", "warm_up", "steps")}
    config = LlamaConfig(**fields, initializer_range=0.02, tie_word_embeddings=True)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def measure(name: str, size: dict[str, int], folder: Path) -> dict[str, Any]:
    """One variant: tokens per second, peak memory in MB, losses, and the gradient norm."""
    import torch
    from accelerate import Accelerator
    from transformers import AutoConfig

    from peftkit.bases.devices import compute_dtype, open_accelerator, peak_memory_mb
    from peftkit.bases.footprint import footprint
    from peftkit.bases.loading import load_weights
    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples
    from peftkit.data.head import Head
    from peftkit.data.ragged import Ragged
    from peftkit.training.guards import gradient_norm
    from peftkit.training.loop import keep_few_activations
    from peftkit.training.optimizers import make_optimizer

    method, quantization, checkpointing, optimizer_name = VARIANTS[name]
    spec = pk.Base(
        name_or_path=str(folder), quantization=quantization, double_quant=quantization == "nf4"
    )
    opened = OpenedBase(
        spec, folder, AutoConfig.from_pretrained(folder), SimpleNamespace(pad_token_id=0)
    )
    accelerator: Accelerator = open_accelerator(spec)
    head = Head("AutoModelForCausalLM", "CAUSAL_LM", trained=False)
    nothing = Examples((), {"input_ids": Ragged.of([])}, np.zeros(0, np.int64))
    torch.manual_seed(0)
    loaded = load_weights(opened, head, compute_dtype(spec), accelerator.device, None)
    base_mb = footprint(loaded.model).total_mb
    model = method.inject(loaded.model, Encoded(nothing, nothing, nothing, head, 0), loaded.head)
    if checkpointing:
        keep_few_activations(model)
    training = pk.Training(optimizer=optimizer_name, learning_rate=1e-4)
    optimizer = make_optimizer(model, training, method.learning_rate_scales(model))
    model, optimizer = accelerator.prepare(model, optimizer)
    random = np.random.default_rng(0)
    seconds, losses, norms = [], [], []
    for step in range(size["warm_up"] + size["steps"]):
        ids = random.integers(1, size["vocab_size"], (size["rows"], size["width"]))
        batch = torch.from_numpy(ids).to(accelerator.device)
        synchronize(accelerator.device)
        started = time.perf_counter()
        model.train()
        optimizer.zero_grad()
        logits = model(input_ids=batch, attention_mask=torch.ones_like(batch)).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten()
        )
        accelerator.backward(loss)
        norms.append(float(gradient_norm(model, 1.0)))
        optimizer.step()
        synchronize(accelerator.device)
        losses.append(loss.item())
        if step >= size["warm_up"]:
            seconds.append(time.perf_counter() - started)
    tokens = size["rows"] * size["width"]
    return {
        "tokens_per_second": round(tokens / statistics.median(seconds), 1),
        "peak_memory_mb": round(peak_memory_mb(accelerator.device)),
        "base_memory_mb": round(base_mb, 1),
        "losses": [round(losses[0], 4), round(losses[-1], 4)],
        "least_gradient_norm": min(norms),
    }


def synchronize(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine() -> dict[str, str]:
    import torch

    from peftkit.adapters.record import versions

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return {"device": gpu or platform.machine(), **versions()}


if __name__ == "__main__":
    main()
