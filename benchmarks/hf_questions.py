"""Question answering with plain HF Trainer + PEFT, as transformers' run_qa.py does it.

    python benchmarks/hf_tasks.py xquad lora --data runs/real_sets --language en

Windows by `truncation="only_second"` and `stride`, targets by the offset mapping, and the best of
20 starts and 20 ends of each window, by the sum of their logits. `benchmarks/real_sets.py
questions` writes the splits.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from peftkit.metrics.answers import Normalization, exact_match, f1

MAX_LENGTH, STRIDE = 384, 128
MOST_TOKENS, N_BEST = 30, 20
RATES = {"lora": 1e-3, "full": 2e-4}
EPOCHS, BATCH = 4, 16
PREFIX = "query: "
NORMALIZATIONS: dict[str, Normalization] = {"en": "squad", "zh": "cmrc2018"}
Row = dict[str, Any]


def questions(folder: Path, seed: int) -> dict[str, list[Row]]:
    """Split -> the questions that peftkit reads, with their contexts and answers."""
    from peftkit import QuestionAnswering, Questions
    from peftkit.data.splits import load_splits

    read, _ = load_splits(QuestionAnswering(data=Questions(path=str(folder), group="title")), seed)
    return {split: [dict(row.values) for row in rows] for split, rows in read.named().items()}


def windows(rows: list[Row], tokenizer: Any) -> tuple[list[Row], list[Row]]:
    """Encodes rows as windows; returns what the model reads, and the row and offsets of each."""
    encoded = tokenizer(
        [PREFIX + row["question"] for row in rows], [row["context"] for row in rows],
        truncation="only_second", max_length=MAX_LENGTH, stride=STRIDE,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    features, places = [], []
    for number, row_number in enumerate(encoded["overflow_to_sample_mapping"]):
        parts = encoded.sequence_ids(number)
        offsets = encoded["offset_mapping"][number]
        inside = [place for place, part in enumerate(parts) if part == 1]
        text, start = rows[row_number]["answers"][0]
        end = start + len(text)
        first, last = 0, 0  # the first token stands for an answer that is not in the window
        if offsets[inside[0]][0] <= start and offsets[inside[-1]][1] >= end:
            first = max(place for place in inside if offsets[place][0] <= start)
            last = min(place for place in inside if offsets[place][1] >= end)
        ids = encoded["input_ids"][number]
        features.append({"input_ids": ids, "start_positions": first, "end_positions": last})
        kept = [span if part == 1 else None for span, part in zip(offsets, parts, strict=True)]
        places.append({"row": row_number, "offsets": kept})
    return features, places


def answers(rows: list[Row], places: list[Row], starts: Any, ends: Any) -> list[str]:
    """The answer to each row: the span with the highest sum of logits over its windows."""
    best = [(-np.inf, "")] * len(rows)
    for place, start_logits, end_logits in zip(places, starts, ends, strict=True):
        offsets, context = place["offsets"], rows[place["row"]]["context"]
        for first in np.argsort(start_logits)[-1 : -N_BEST - 1 : -1]:
            for last in np.argsort(end_logits)[-1 : -N_BEST - 1 : -1]:
                if first >= len(offsets) or last >= len(offsets):
                    continue
                if offsets[first] is None or offsets[last] is None:
                    continue
                if last < first or last - first + 1 > MOST_TOKENS:
                    continue
                score = float(start_logits[first] + end_logits[last])
                if score > best[place["row"]][0]:
                    text = context[offsets[first][0] : offsets[last][1]]
                    best[place["row"]] = (score, text)
    return [text for _, text in best]


def scores(rows: list[Row], given: list[str], language: str) -> dict[str, float]:
    """Mean F1 and exact match."""
    name = NORMALIZATIONS[language]
    texts = [[text for text, _ in row["answers"]] for row in rows]
    pairs = list(zip(given, texts, strict=True))
    return {
        "f1": float(np.mean([f1(one, right, name) for one, right in pairs])),
        "exact_match": float(np.mean([exact_match(one, right, name) for one, right in pairs])),
    }


def train(base: str, method: str, folder: Path, language: str, seed: int, steps: int) -> Row:
    """Trains and scores a model; returns its row.

    Args:
        folder: has train.json, validation.json and test.json.
        steps: most optimizer steps; -1 for all epochs.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    splits = questions(folder, seed)
    encoded = {name: windows(rows, tokenizer) for name, rows in splits.items()}
    model: Any = AutoModelForQuestionAnswering.from_pretrained(base)
    if method == "lora":
        config = LoraConfig(
            task_type="QUESTION_ANS", r=8, lora_alpha=16, target_modules="all-linear",
            exclude_modules=["qa_outputs"],
        )  # fmt: skip
        model = get_peft_model(model, config)

    def metrics(prediction: Any, split: str = "validation") -> dict[str, float]:
        given = answers(splits[split], encoded[split][1], *prediction.predictions)
        return scores(splits[split], given, language)

    trainer = Trainer(
        model,
        TrainingArguments(
            f"/tmp/hf_tasks/xquad_{language}_{method}_{seed}",
            num_train_epochs=EPOCHS, max_steps=steps, seed=seed,
            per_device_train_batch_size=BATCH, per_device_eval_batch_size=32,
            learning_rate=RATES[method], warmup_steps=0.06, weight_decay=0.01,
            eval_strategy="epoch", save_strategy="best", save_total_limit=1,
            load_best_model_at_end=True, metric_for_best_model="f1", report_to="none",
            label_names=["start_positions", "end_positions"], disable_tqdm=True,
            logging_strategy="no", use_cpu=True,
        ),
        train_dataset=encoded["train"][0],
        eval_dataset=encoded["validation"][0],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=metrics,
    )  # fmt: skip
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    trainer.compute_metrics = None  # it reads the validation split
    validation = metrics(trainer.predict(encoded["validation"][0]))
    test = metrics(trainer.predict(encoded["test"][0]), "test")
    return {"validation": validation, "test": test, "training_seconds": round(seconds)}
