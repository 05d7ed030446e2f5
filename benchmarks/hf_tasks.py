"""Plain HF Trainer + PEFT on the sets of benchmarks/real_sets.py: the same base, rows and epochs.

    python benchmarks/hf_tasks.py wnut17|banking77|semeval|xquad lora|full [--data FOLDER]
                                  [--seed 0] [--language en|zh]

Prints one line of JSON. Everything is what the libraries' tutorials do: the architecture's own
head, one learning rate for all parameters, padding to the longest example of a batch, the best
epoch by the validation score. For semeval, four markers are new tokens, and a linear layer reads
the last hidden states of both entities' first markers; with `full` its rate is ten times as high.
The splits of semeval and xquad are peftkit's. peftkit's own rate for a new head is 0.01; here LoRA
trains the head at LoRA's rate, 0.001.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

EPOCHS = {"wnut17": 4, "banking77": 3, "semeval": 5}
BATCH = {"wnut17": 16, "banking77": 32, "semeval": 16}
RATES = {"lora": 1e-3, "full": 2e-4}
SEMEVAL_RATES = {"lora": 1e-3, "full": 1e-4}
HEAD_RATE = 10
"""How many times the rate of the base is that of the head, for semeval with `full`."""
MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")
FOLDERS = {"semeval": "semeval2010_task8"}
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


def relations(folder: Path, tokenizer: Any, seed: int) -> tuple[dict[str, list[Row]], list[str]]:
    """Split -> encoded sentences with markers; the rows of each split are those that peftkit reads
    with this seed.
    """
    from peftkit import MarkedTexts, RelationExtraction
    from peftkit.data.splits import load_splits
    from peftkit.tasks.reading.entity_marks import marked

    read, _ = load_splits(RelationExtraction(data=MarkedTexts(path=str(folder))), seed)
    labels = sorted({row.values["relation"] for row in read.train})
    splits = {}
    for split, rows in read.named().items():
        texts = [re.sub(r"<(/?)e([12])>", r"[\1E\2]", marked(row)) for row in rows]
        ids = tokenizer(texts, truncation=True)["input_ids"]
        splits[split] = [
            {"input_ids": one, "labels": labels.index(row.values["relation"])}
            for one, row in zip(ids, rows, strict=True)
        ]
    return splits, labels


class MarkedRelations(nn.Module):
    """A linear layer on the last hidden states of both entities' first markers."""

    def __init__(self, trunk: Any, markers: tuple[int, int], num_labels: int) -> None:
        super().__init__()
        self.trunk, self.markers = trunk, markers
        self.dropout = nn.Dropout(trunk.config.hidden_dropout_prob)
        self.classifier = nn.Linear(2 * trunk.config.hidden_size, num_labels)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor]:
        """Loss and logits (rows, labels)."""
        hidden = self.trunk(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        starts = [hidden[input_ids == marker] for marker in self.markers]
        logits = self.classifier(self.dropout(torch.cat(starts, dim=1)))
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def relation_model(base: str, tokenizer: Any, num_labels: int, method: str) -> Any:
    """The model for semeval; with LoRA, embeddings of the markers and the head are trained too."""
    trunk = AutoModel.from_pretrained(base, add_pooling_layer=False)
    trunk.resize_token_embeddings(len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids(list(MARKERS))
    model = MarkedRelations(trunk, (ids[0], ids[2]), num_labels)
    if method == "full":
        return model
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=r".*(query|key|value|dense)",
        modules_to_save=["classifier"], trainable_token_indices={"word_embeddings": ids},
    )  # fmt: skip
    return get_peft_model(model, config)


def official_f1(expected: list[str], predicted: list[str]) -> float:
    """The score of SemEval-2010 task 8: mean F1 of the relations, direction taken into account."""
    right: Counter[str] = Counter()
    wanted = Counter(label.partition("(")[0] for label in expected)
    found = Counter(label.partition("(")[0] for label in predicted)
    for one, other in zip(expected, predicted, strict=True):
        right[one.partition("(")[0]] += one == other
    names = wanted.keys() - {"Other"}
    return sum(2 * right[name] / (wanted[name] + found[name]) for name in names) / len(names)


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
    row = train(base, arguments.method, folder, language, arguments.seed, arguments.max_steps)
    print(json.dumps(row))


def main(arguments: argparse.Namespace) -> None:
    set_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    if arguments.task == "xquad":
        answers(arguments)
        return
    task = arguments.task
    folder = arguments.data / FOLDERS.get(task, task)
    base = base_folder()
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens, rate = task == "wnut17", RATES[arguments.method]
    if task == "semeval":
        tokenizer.add_tokens(list(MARKERS))
        rate = SEMEVAL_RATES[arguments.method]
        splits, labels = relations(folder, tokenizer, arguments.seed)
        model: Any = relation_model(base, tokenizer, len(labels), arguments.method)
    else:
        splits, labels = (entities if tokens else intents)(folder, tokenizer)
        auto = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
        model = auto.from_pretrained(base, num_labels=len(labels))
    if arguments.method == "lora" and task != "semeval":
        config = LoraConfig(
            task_type="TOKEN_CLS" if tokens else "SEQ_CLS", r=8, lora_alpha=16,
            target_modules="all-linear", exclude_modules=["classifier", "pooler.dense"],
        )  # fmt: skip
        model = get_peft_model(model, config)

    def metrics(prediction: Any) -> dict[str, float]:
        chosen = prediction.predictions.argmax(axis=-1)
        if task == "semeval":
            of_rows = ([labels[label] for label in of] for of in (prediction.label_ids, chosen))
            return {"score": official_f1(*of_rows)}
        if not tokens:
            return {"score": float((chosen == prediction.label_ids).mean())}
        kept = prediction.label_ids != IGNORED
        names = [
            [[labels[label] for label in row[mask]] for row, mask in zip(of, kept, strict=True)]
            for of in (prediction.label_ids, chosen)
        ]
        return {"score": strict_f1(*names)}

    own_rates = task == "semeval" and arguments.method == "full"
    collate = DataCollatorForTokenClassification if tokens else DataCollatorWithPadding
    trainer = Trainer(
        model,
        TrainingArguments(
            f"/tmp/hf_tasks/{task}_{arguments.method}_{arguments.seed}",
            num_train_epochs=EPOCHS[task], seed=arguments.seed,
            per_device_train_batch_size=BATCH[task], per_device_eval_batch_size=64,
            learning_rate=rate, max_steps=arguments.max_steps, warmup_steps=0.06, weight_decay=0.01,
            eval_strategy="epoch", save_strategy="best", save_total_limit=1,
            load_best_model_at_end=True, metric_for_best_model="score", report_to="none",
            disable_tqdm=True, logging_strategy="no", use_cpu=True,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=collate(tokenizer),
        compute_metrics=metrics,
        optimizers=(optimizer_of(model, rate), None) if own_rates else (None, None),
    )  # fmt: skip
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    found = {name: trainer.evaluate(splits[name])["eval_score"] for name in ("validation", "test")}
    print(json.dumps({**found, "training_seconds": round(seconds)}))


def optimizer_of(model: Any, rate: float) -> Any:
    """AdamW whose rate for the head is `HEAD_RATE` times as high, as it is often set. Biases and
    norms do not decay, as in Trainer.
    """
    groups = []
    for is_head, of_group in ((False, rate), (True, HEAD_RATE * rate)):
        chosen = [p for name, p in model.named_parameters() if ("classifier" in name) == is_head]
        for dimensions, decay in ((2, 0.01), (1, 0.0)):
            some = [p for p in chosen if min(p.dim(), 2) == dimensions]
            groups.append({"params": some, "lr": of_group, "weight_decay": decay})
    return torch.optim.AdamW(groups)


def base_folder() -> str:
    """The folder of all-MiniLM-L6-v2 in its package."""
    from peftkit.data.packaged import MODELS, find_packaged

    return str(find_packaged("packaged:minilm-l6", MODELS)[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("wnut17", "banking77", "semeval", "xquad"))
    parser.add_argument("method", choices=("lora", "full"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int, default=-1, help="to try it; -1 for all epochs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="of xquad")
    main(parser.parse_args())
