"""Plain HF Trainer + PEFT on the sets of benchmarks/real_sets.py: the same base, rows and epochs.

    python benchmarks/hf_tasks.py wnut17|banking77|xquad lora|full [--data FOLDER] [--seed 0]

Prints one line of JSON. Everything is what the libraries' tutorials do: the architecture's own
head, one learning rate for all parameters, padding to the longest example of a batch, the best
epoch by the validation score.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

EPOCHS = {"wnut17": 4, "banking77": 3}
BATCH = {"wnut17": 16, "banking77": 32}
RATES = {"lora": 1e-3, "full": 2e-4}
IGNORED = -100
Row = dict[str, Any]


def sentences(file: Path) -> list[tuple[list[str], list[str]]]:
    """Words and tags of each sentence of a CoNLL file."""
    found: list[tuple[list[str], list[str]]] = []
    words: list[str] = []
    tags: list[str] = []
    for line in [*file.read_text(encoding="utf-8").splitlines(), ""]:
        word, _, tag = line.strip().partition("\t")
        if word:
            words.append(word)
            tags.append(tag)
        elif words:
            found.append((words, tags))
            words, tags = [], []
    return found


def entities(folder: Path, tokenizer: Any) -> tuple[dict[str, list[Row]], list[str]]:
    """Split -> encoded sentences, labelled at the first token of each word; and the tags."""
    read = {
        split: sentences(folder / f"{split}.conll") for split in ("train", "validation", "test")
    }
    labels = sorted({tag for _, tags in read["train"] for tag in tags})
    splits = {}
    for split, rows in read.items():
        encoded = tokenizer([words for words, _ in rows], is_split_into_words=True, truncation=True)
        splits[split] = []
        for place, (_, tags) in enumerate(rows):
            last, targets = None, []
            for word in encoded.word_ids(place):
                fresh = word is not None and word != last
                targets.append(labels.index(tags[word]) if fresh else IGNORED)
                last = word
            splits[split].append({"input_ids": encoded["input_ids"][place], "labels": targets})
    return splits, labels


def intents(folder: Path, tokenizer: Any) -> tuple[dict[str, list[Row]], list[str]]:
    """Split -> encoded questions; every twentieth training row validates."""
    rows = {}
    for split in ("train", "test"):
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows[split] = list(csv.DictReader(file))
    labels = sorted({row["category"] for row in rows["train"]})
    order = np.random.default_rng(0).permutation(len(rows["train"]))
    held_out = set(order[: len(order) // 20].tolist())
    train = [row for place, row in enumerate(rows["train"]) if place not in held_out]
    validation = [row for place, row in enumerate(rows["train"]) if place in held_out]
    splits = {}
    for split, chosen in (("train", train), ("validation", validation), ("test", rows["test"])):
        ids = tokenizer([row["text"] for row in chosen], truncation=True)["input_ids"]
        splits[split] = [
            {"input_ids": one, "labels": labels.index(row["category"])}
            for one, row in zip(ids, chosen, strict=True)
        ]
    return splits, labels


def strict_f1(expected: list[list[str]], predicted: list[list[str]]) -> float:
    """Entity F1 by seqeval's rules in its strict mode for IOB2."""
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2

    return float(f1_score(expected, predicted, mode="strict", scheme=IOB2))


def answers(arguments: argparse.Namespace) -> None:
    """Trains and scores question answering; hf_questions.py has the steps."""
    from hf_questions import train

    from peftkit import Base
    from peftkit.bases.opening import open_base

    language = arguments.language
    base = str(open_base(Base(name_or_path="packaged:multilingual-e5-small")).folder)
    folder = arguments.data / f"questions-{language}"
    row = train(base, arguments.method, folder, language, arguments.seed, arguments.steps)
    print(json.dumps({"task": f"xquad {language}", **row}))


def main(arguments: argparse.Namespace) -> None:
    set_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    if arguments.task == "xquad":
        answers(arguments)
        return
    task, folder = arguments.task, arguments.data / arguments.task
    base = base_folder()
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = task == "wnut17"
    splits, labels = (entities if tokens else intents)(folder, tokenizer)
    auto = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    model: Any = auto.from_pretrained(base, num_labels=len(labels))
    if arguments.method == "lora":
        config = LoraConfig(
            task_type="TOKEN_CLS" if tokens else "SEQ_CLS", r=8, lora_alpha=16,
            target_modules="all-linear", exclude_modules=["classifier", "pooler.dense"],
        )  # fmt: skip
        model = get_peft_model(model, config)

    def metrics(prediction: Any) -> dict[str, float]:
        chosen = prediction.predictions.argmax(axis=-1)
        if not tokens:
            return {"score": float((chosen == prediction.label_ids).mean())}
        kept = prediction.label_ids != IGNORED
        names = [
            [[labels[label] for label in row[mask]] for row, mask in zip(of, kept, strict=True)]
            for of in (prediction.label_ids, chosen)
        ]
        return {"score": strict_f1(*names)}

    collate = DataCollatorForTokenClassification if tokens else DataCollatorWithPadding
    trainer = Trainer(
        model,
        TrainingArguments(
            f"/tmp/hf_tasks/{task}_{arguments.method}_{arguments.seed}",
            num_train_epochs=EPOCHS[task], seed=arguments.seed,
            per_device_train_batch_size=BATCH[task], per_device_eval_batch_size=64,
            learning_rate=RATES[arguments.method], warmup_steps=0.06, weight_decay=0.01,
            eval_strategy="epoch", save_strategy="best", save_total_limit=1,
            load_best_model_at_end=True, metric_for_best_model="score", report_to="none",
            disable_tqdm=True, logging_strategy="no", use_cpu=True,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=collate(tokenizer),
        compute_metrics=metrics,
    )  # fmt: skip
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    found = {name: trainer.evaluate(splits[name])["eval_score"] for name in ("validation", "test")}
    row = {"task": task, "method": arguments.method, "seed": arguments.seed, **found}
    print(json.dumps({**row, "training_seconds": round(seconds)}))


def base_folder() -> str:
    """The folder of all-MiniLM-L6-v2 in its package."""
    from peftkit.data.packaged import MODELS, find_packaged

    return str(find_packaged("packaged:minilm-l6", MODELS)[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("wnut17", "banking77", "xquad"))
    parser.add_argument("method", choices=("lora", "full"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="of xquad")
    parser.add_argument("--steps", type=int, default=-1, help="of xquad; -1 for all epochs")
    main(parser.parse_args())
