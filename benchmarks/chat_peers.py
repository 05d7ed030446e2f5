"""Chat fine-tuning on alpaca_demo rows, beside HF Trainer + PEFT on the same tokens and labels.

    python benchmarks/chat_peers.py DATA_FOLDER [ROWS_PER_LANGUAGE]

DATA_FOLDER holds the English and the Chinese alpaca_demo JSON file. Each trains SmolLM2 with LoRA
for one epoch, in a process of its own, one after the other; writes benchmarks/chat_peers.json and
its part of docs/recipes.md.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from parts import write_part
from speed import labels_of

import recipes

RESULT = Path(__file__).with_suffix(".json")
BASE = "packaged:smollm2-135m-instruct"
SETTINGS: dict[str, Any] = {
    "learning_rate": 5e-4, "num_epochs": 1, "batch_size": 16, "weight_decay": 0.01,
    "warmup_ratio": 0.06, "max_grad_norm": 1.0, "micro_batch_tokens": 1024,
}  # fmt: skip
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32}
MICRO_BATCH = 4
"""Examples per forward pass of HF Trainer, which accumulates to the same batch."""
PEERS = {
    "HF Trainer + PEFT": {},
    "the same, grouped by length": {"train_sampling_strategy": "group_by_length"},
}
TEXT = """\
{train} rows of alpaca_demo to train on and {test} to test, half English, half Chinese ({tokens}
tokens, {supervised} of them answers), SmolLM2-135M-Instruct in float32, LoRA r=16 on all linear
layers, one epoch in batches of 16 at 5e-4, {device}; identical tokens and labels, one run each,
one after the other (`python benchmarks/chat_peers.py DATA {per}`). Before training: loss
{before:.3f}.

{table}

Loss is per answer token of the test rows, computed the same way for all. Speed counts tokens
without padding. HF Trainer reads {micro} examples at a time and accumulates; its order of the rows
is its own.
"""


def main(data: Path, rows: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_rows(data, rows, folder / "rows.jsonl")
        results = {"peftkit": ours(folder)}
        for name, options in PEERS.items():
            print(name, flush=True)
            command = [sys.executable, __file__, "--peer", scratch, json.dumps(options)]
            subprocess.run(command, check=True)
            results[name] = json.loads((folder / "peer.json").read_text())
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    write_part("peers", report(results), recipes.TARGET)


def write_rows(data: Path, rows: int, target: Path) -> None:
    files = sorted(data.glob("*.json"))
    lines = []
    for file in files:
        for row in json.loads(file.read_text(encoding="utf-8"))[:rows]:
            lines.append(json.dumps({**row, "of": file.stem}, ensure_ascii=False))
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ours(folder: Path) -> dict[str, Any]:
    """Trains with peftkit, and leaves the tokens and labels of its splits for the peers."""
    from peftkit import Base, Chat, Conversations, LoRA, Recipe, Training
    from peftkit.stages.preparing import prepare

    recipe = Recipe(
        base=Base(name_or_path=BASE),
        task=Chat(
            data=Conversations(path=str(folder / "rows.jsonl"), stratum="of"),
            max_length=512,
            samples=0,
        ),
        method=LoRA(**LORA, target_modules="all-linear"),
        training=Training(**SETTINGS),
        name="alpaca",
    )
    prepared = prepare(recipe)
    splits = {}
    for name, examples in prepared.encoded.splits().items():
        splits[name] = [
            {"input_ids": ids.tolist(), "labels": labels_of(examples, example)}
            for example, ids in enumerate(examples.input_ids)
        ]
    layers = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()  # noqa: SIM905
    shared = {
        "model": str(prepared.base.folder),
        "pad": prepared.encoded.pad_token_id,
        "targets": layers,
        "splits": splits,
    }
    (folder / "shared.json").write_text(json.dumps(shared))
    (folder / "recipe.json").write_text(recipe.to_json())
    command = [sys.executable, "-m", "peftkit", "run", str(folder / "recipe.json")]
    subprocess.run([*command, "--output-dir", str(folder / "run")], check=True)
    run = json.loads((folder / "run" / "run.json").read_text())
    training, ledger = run["training"], run["ledger"]["splits"]
    return {
        "before": run["test"]["before"]["loss"],
        "loss": run["test"]["after"]["loss"],
        # without the score on the validation rows, which the peers do not compute
        "tokens_per_second": training["num_tokens"]
        / (training["train_seconds"] - training["validation_seconds"]),
        "padding": ledger["train"]["padding"],
        "peak_memory_mb": run["peak_memory_mb"],
        "trainable_parameters": run["trainable_parameters"],
        "rows": {name: split["rows"] for name, split in ledger.items()},
        "tokens": training["num_tokens"],
        "supervised": ledger["train"]["supervised"],
        "device": run["device"],
        "versions": run["versions"],
    }


def peer(folder: Path, options: dict[str, Any]) -> None:
    """Trains with HF Trainer and PEFT, as its documentation does it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )

    shared = json.loads((folder / "shared.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(shared["model"])
    model = AutoModelForCausalLM.from_pretrained(shared["model"], dtype=torch.float32)
    config = LoraConfig(**LORA, target_modules=shared["targets"], task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    steps = -(-len(shared["splits"]["train"]) // SETTINGS["batch_size"])
    arguments = TrainingArguments(
        output_dir=str(folder / "peer"),
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=SETTINGS["batch_size"] // MICRO_BATCH,
        num_train_epochs=1,
        learning_rate=SETTINGS["learning_rate"],
        weight_decay=SETTINGS["weight_decay"],
        warmup_steps=round(SETTINGS["warmup_ratio"] * steps),
        max_grad_norm=SETTINGS["max_grad_norm"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        seed=0,
        **options,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=shared["splits"]["train"],
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    tokens = sum(len(row["input_ids"]) for row in shared["splits"]["train"])
    result = {
        "loss": held_out_loss(model.eval(), shared["splits"]["test"]),
        "tokens_per_second": tokens / seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "training_losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
    }
    (folder / "peer.json").write_text(json.dumps(result))


def held_out_loss(model: Any, rows: list[dict[str, list[int]]]) -> float:
    """Mean over all answer tokens, one document at a time."""
    import torch

    total = count = 0.0
    for row in rows:
        labels = torch.tensor(row["labels"])[1:].to(model.device)
        with torch.no_grad():
            ids = torch.tensor([row["input_ids"]], device=model.device)
            logits = model(input_ids=ids).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += float((labels != -100).sum())
    return total / count


def report(results: dict[str, dict[str, Any]]) -> str:
    first = results["peftkit"]
    lines = [
        "| | loss | tokens/s | of peftkit's | peak memory | trained parameters |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, result in results.items():
        share = result["tokens_per_second"] / first["tokens_per_second"]
        lines.append(
            f"| {name} | {result['loss']:.3f} | {result['tokens_per_second']:.0f} | {share:.2f} | "
            f"{result['peak_memory_mb'] / 1000:.1f} GB | {result['trainable_parameters']:,} |"
        )
    return TEXT.format(
        train=first["rows"]["train"],
        test=first["rows"]["test"],
        tokens=f"{first['tokens']:,}",
        supervised=f"{first['supervised']:,}",
        device=first["device"],
        before=first["before"],
        micro=MICRO_BATCH,
        per=sum(first["rows"].values()) // 2,
        table="\n".join(lines),
    )


if __name__ == "__main__":
    if sys.argv[1] == "--peer":
        peer(Path(sys.argv[2]), json.loads(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 150)
