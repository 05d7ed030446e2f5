"""Examples as token ids, ragged: no padding, no batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from peftkit.data.rows import Row

IGNORE_INDEX = -100
LEAST_SHARED = 8
"""Tokens that several examples must begin with, or each has its own."""


Output = Literal["pooled", "tokens", "spans", "vocabulary"]
"""One output for each example; one for each token: of classes, of a start and an end, or of the
vocabulary, which is never whole in memory."""
OF_AUTO_CLASS: dict[str, Output] = {
    "AutoModelForCausalLM": "vocabulary",
    "AutoModelForQuestionAnswering": "spans",
    "AutoModelForSeq2SeqLM": "vocabulary",
    "AutoModelForTokenClassification": "tokens",
}


@dataclass(frozen=True)
class Head:
    """What the model must put out; all that loading needs to know about the task."""

    auto_class: str
    """Name of transformers' AutoModel class."""
    task_type: str
    """PEFT's name of the task, such as `SEQ_CLS` or `CAUSAL_LM`."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the logits; empty where the vocabulary is put out."""
    trained: bool = True
    """Whether the modules above the trunk are trained whole, whatever the method."""
    pooling: str = ""
    """What a classifier of peftkit's own reads of the last hidden states, `mean` or `cls`; empty
    for the head of the architecture."""
    generation: dict[str, Any] = field(default_factory=dict)
    """How the trained model writes, by the names of transformers' `GenerationConfig`, the tokens it
    stops at among them; empty where it does not write."""

    @property
    def output(self) -> Output:
        """What is read of the model."""
        return OF_AUTO_CLASS.get(self.auto_class, "pooled")


LANGUAGE_MODEL = Head("AutoModelForCausalLM", "CAUSAL_LM", trained=False)
"""Of a base that goes on with a text."""


@dataclass(frozen=True)
class Examples:
    """One split. All lists are as long as `rows`; arrays are one-dimensional int64 or float32."""

    rows: tuple[Row, ...]
    input_ids: Sequence[npt.NDArray[np.int64]]
    targets: Sequence[npt.NDArray[np.int64]]
    """(1,) where the task reads one position; else (length,), aligned with the position whose
    output predicts it, `IGNORE_INDEX` where nothing is supervised."""
    weights: Sequence[npt.NDArray[np.float32]] | None = None
    """Of the targets, same shapes; None for 1 everywhere."""
    segment_ids: Sequence[npt.NDArray[np.int64]] | None = None
    truncated: int = 0
    """Examples that lost tokens to `max_length`."""
    unsupervised: int = 0
    """Rows left out because nothing in them was supervised."""
    too_long: int = 0
    """Rows left out because they were longer than `max_length`."""
    unknown_tokens: int = 0
    """Tokens that the tokenizer did not know."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_tokens(self) -> int:
        """Without padding."""
        return sum(len(ids) for ids in self.input_ids)

    def tokens_of(self, indices: Iterable[int]) -> int:
        """Of some examples, without padding."""
        return sum(len(self.input_ids[index]) for index in indices)

    def shared_tokens(self, indices: Sequence[int]) -> int:
        """With how many tokens, of which no output is read, all of these examples begin, such as a
        system prompt; 0 if they are fewer than `LEAST_SHARED`. Causal attention makes the same of
        them in each.
        """
        if len(indices) < 2 or self.segment_ids is not None:
            return 0
        first = self.input_ids[indices[0]]
        shared = len(first)
        for index in indices:
            ids, targets = self.input_ids[index], self.targets[index]
            shared = max(0, min(shared, len(ids) - 1))
            shared = _first(ids[:shared] != first[:shared], shared)
            if len(targets) == len(ids):
                shared = _first(targets[:shared] != IGNORE_INDEX, shared)
        return shared if shared >= LEAST_SHARED else 0

    def chosen(self, indices: Sequence[int]) -> Examples:
        """Some of the examples, in that order, without the counts of rows cut or left out."""

        def of(column: Sequence[Any] | None) -> list[Any] | None:
            return None if column is None else [column[index] for index in indices]

        return Examples(
            rows=tuple(self.rows[index] for index in indices),
            input_ids=[self.input_ids[index] for index in indices],
            targets=[self.targets[index] for index in indices],
            weights=of(self.weights),
            segment_ids=of(self.segment_ids),
        )

    @property
    def num_supervised(self) -> int:
        """Targets that count in the loss."""
        return sum(int((targets != IGNORE_INDEX).sum()) for targets in self.targets)


@dataclass(frozen=True)
class Prompt:
    """The beginning of a test example, which the model is to go on with."""

    row: int
    text: str
    """What a person reads of it."""
    expected: str
    """How the row goes on."""
    input_ids: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """All splits as the model reads them."""

    train: Examples
    validation: Examples
    test: Examples
    head: Head
    pad_token_id: int
    notes: tuple[str, ...] = field(default=())
    """What a person should know about the encoding."""
    prompts: tuple[Prompt, ...] = ()
    """Of the test split, answered before and after training; none where nothing is written."""

    @property
    def sha256(self) -> str:
        """Of the token ids, targets and weights of all splits, in order."""
        digest = hashlib.sha256()
        for examples in self.splits().values():
            for column in (examples.input_ids, examples.targets, examples.weights or ()):
                for values in column:
                    digest.update(values.tobytes())
            digest.update(b"|")
        return digest.hexdigest()

    def splits(self) -> dict[str, Examples]:
        """By name, in order."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def _first(found: npt.NDArray[np.bool_], otherwise: int) -> int:
    """The first place where something was found."""
    return int(found.argmax()) if found.any() else otherwise
