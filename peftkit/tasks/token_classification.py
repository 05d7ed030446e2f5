"""Token classification: one label for each word of a text, such as the names in it.

The label of a word is predicted at its first token. A row that is too long for the model is split
into overlapping windows; a word in two windows is read in the one with more context around it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftkit.data.rows import check_columns
from peftkit.data.source import Source
from peftkit.errors import DataError, RecipeError, quoted
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Answer, Decision
from peftkit.tasks.reading.labels import alike, number_first
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.reading.token_classification_columns import OFFER
from peftkit.tasks.reading.word_checks import wrong_labels, wrong_words
from peftkit.tasks.score import Parts, Score
from peftkit.tasks.task import Piece, Task

if TYPE_CHECKING:
    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples
    from peftkit.data.head import Head
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.task import Outputs


class TaggedWords(Source):
    """A source of texts as lists of words, with a label for each word."""

    tokens: str = "tokens"
    """Column with a list of words."""
    labels: str = "labels"
    """Column with a list of labels, one for each word."""
    label_names: dict[str, str] = {}
    """Label in the file -> name of the class, in the order of the classes; empty to use the file's
    labels as names."""


@dataclass(frozen=True)
class Labels(Answer):
    """The labels that the model chooses for the words of a text."""

    labels: tuple[str, ...]

    def cells(self) -> dict[str, str]:
        """The answer as column -> value, for a file of answers."""
        return {"predicted": json.dumps(self.labels, ensure_ascii=False)}

    def line(self, text: str) -> str:
        """The line to print for a text and this answer: each word with its label."""
        return " ".join(f"{w}/{label}" for w, label in zip(text.split(), self.labels, strict=True))


class TokenClassification(Task):
    """The task of choosing a label for each word."""

    task_type: ClassVar[str] = "TOKEN_CLS"
    offer = OFFER
    scores: ClassVar[tuple[str, ...]] = ("entity_f1", "accuracy")

    data: TaggedWords
    """The labelled words."""
    max_length: int = Field(default=512, ge=8)
    """Most tokens of a window; the base may allow less."""
    overlap: int = Field(default=64, ge=0)
    """Number of tokens that neighbouring windows of a row share, at most half a window."""

    @property
    def source(self) -> TaggedWords:
        return self.data

    @property
    def columns(self) -> Mapping[str, str]:
        return {"tokens": self.data.tokens, "labels": self.data.labels}

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        words, labels = values.get(self.data.tokens), values.get(self.data.labels)
        if wrong := wrong_words(words, self.data.tokens):
            return wrong
        assert isinstance(words, list)
        if not isinstance(labels, list):
            return f"{self.data.labels} is {type(labels).__name__}, not a list"
        if len(labels) != len(words):
            return f"{self.data.labels} has {len(labels)} entries, {self.data.tokens} {len(words)}"
        if wrong := wrong_labels(labels, self.data.labels):
            return wrong
        names = self.data.label_names or (table.label_names or {}).get(self.data.labels, {})
        in_file = [str(label).strip() for label in labels]
        if unknown := [label for label in in_file if names and label not in names]:
            return f"{self.data.labels} `{unknown[0]}` is not in label_names"
        return {"tokens": words, "labels": [names.get(label, label) for label in in_file]}

    def as_input(self, value: Any) -> dict[str, object]:
        words = value.get("tokens", value.get("text")) if isinstance(value, Mapping) else value
        words = words.split() if isinstance(words, str) else words
        if wrong := wrong_words(words, "the input"):
            raise RecipeError(wrong, "give a text, or a list of words")
        return {"tokens": words}

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        check_columns(table, {"tokens": self.data.tokens})
        words = values.get(self.data.tokens)
        return wrong_words(words, self.data.tokens) or {"tokens": words}

    def key(self, row: Row) -> str:
        return json.dumps([row.values["tokens"], row.values["labels"]])

    def group(self, row: Row) -> str:
        return text_key(" ".join(row.values["tokens"]))  # one text may be labelled in several ways

    def stratum(self, row: Row) -> str:
        return ""

    def remarks(self, splits: Splits) -> Iterable[str]:
        from peftkit.metrics.entities import OUTSIDE

        counts = Counter(
            label
            for rows in splits.named().values()
            for row in rows
            for label in row.values["labels"]
        )
        for group in alike(counts, lambda _: None):
            labels = quoted(f"{label}: {counts[label]:,} words" for label in group)
            yield f"labels that look alike count as separate classes ({labels}); correct one"
        if OUTSIDE not in counts:
            yield (
                f"no label is `{OUTSIDE}`, so every word counts as part of an entity; if a label "
                f"means none, name it `{OUTSIDE}` (`--task.data.label-names`), else choose by "
                "`--training.metric accuracy`"
            )

    def check_splits(self, splits: Splits) -> None:
        known = _labels_of(splits.train)
        if len(known) == 1:
            raise DataError(
                f"`{self.data.path}`: all words of the training rows have the label "
                f"{quoted(known)}",
                "training needs two labels or more",
            )
        for name in ("validation", "test"):
            if other := sorted(_labels_of(splits.named()[name]) - known):
                raise DataError(
                    f"`{self.data.path}`: the {name} split has the label {quoted(other)}, which no "
                    f"training row has; training has {quoted(sorted(known))}",
                    "correct the label, or add training rows for it",
                )

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        from peftkit.data.encoded import Encoded
        from peftkit.data.head import Head

        named = list(dict.fromkeys(self.data.label_names.values()))
        rest = sorted(_labels_of(splits.train) - set(named), key=number_first)
        labels = (*named, *rest)
        train, validation, test = (
            self._encode(rows, base.tokenizer, labels) for rows in splits.named().values()
        )
        head = Head("AutoModelForTokenClassification", self.task_type, labels)
        return Encoded(train, validation, test, head, base.tokenizer.pad_token_id)

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        return self._encode(rows, base.tokenizer, ())

    def show(
        self, example: int, examples: Examples, head: Head, tokenizer: Any
    ) -> tuple[Piece, ...]:
        assert examples.read_at is not None
        tokens = tokenizer.convert_ids_to_tokens(examples.input_ids[example].tolist())
        targets = examples.targets[examples.outputs_of(example)]
        names = dict(zip(examples.read_at[example][:, 0].tolist(), targets.tolist(), strict=True))
        pieces = []
        for place, token in enumerate(tokens):
            pieces.append(Piece(f"{' ' * bool(place)}{token}"))
            if place in names:
                pieces.append(Piece(f"/{head.labels[names[place]]}", supervised=True))
        return tuple(pieces)

    def metric(self, name: str) -> Metric:
        from peftkit.metrics.classification import METRICS
        from peftkit.metrics.entities import ENTITY_F1

        return {**METRICS, "entity_f1": ENTITY_F1}.get(name) or super().metric(name)

    def metrics(self, kept: Outputs, examples: Examples, head: Head, decision: Decision) -> Score:
        import numpy as np

        from peftkit.metrics.classification import classification_scores
        from peftkit.metrics.entities import entity_counts
        from peftkit.tasks.encoding.token_windows import split_by_row
        from peftkit.tasks.scoring.class_scores import label_table, target_losses

        chosen, right = kept.argmax(axis=1), kept.argmax(axis=1) == examples.targets
        predicted, expected, hits, losses = (
            split_by_row(column, examples)
            for column in (chosen, examples.targets, right, target_losses(kept, examples.targets))
        )
        counts = entity_counts(*(
            [[head.labels[label] for label in row] for row in rows]
            for rows in (expected, predicted)
        ))  # fmt: skip
        scores = classification_scores(chosen, examples.targets, len(head.labels))
        return Score.of(
            self.metric,
            {
                "entity_f1": Parts.of(counts),
                "accuracy": Parts.of(np.array([(row.sum(), len(row)) for row in hits])),
                "loss": Parts.of(np.array([(row.sum(), len(row)) for row in losses])),
            },
            tables=(label_table(scores, head.labels),),
        )

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        import numpy as np

        most = Counter(encoded.train.targets.tolist()).most_common(1)[0][0]
        kept = np.zeros((len(encoded.test.targets), len(encoded.head.labels)), np.float32)
        kept[:, most] = 1
        return {"majority": self.metrics(kept, encoded.test, encoded.head, Decision()).metrics}

    def answers(
        self, kept: Outputs, examples: Examples, head: Head, decision: Decision
    ) -> Sequence[Answer]:
        from peftkit.tasks.encoding.token_windows import split_by_row

        rows = split_by_row(kept.argmax(axis=1), examples)
        return [Labels(tuple(head.labels[index] for index in row)) for row in rows]

    def _encode(self, rows: Sequence[Row], tokenizer: Any, labels: tuple[str, ...]) -> Examples:
        """Encodes the rows as windows; targets are indices of `labels`, or `IGNORE_INDEX` if
        `labels` is empty.
        """
        from peftkit.data.encoded import IGNORE_INDEX
        from peftkit.tasks.encoding.token_windows import encode_windows

        index = {label: place for place, label in enumerate(labels)}
        targets = [
            [index[label] for label in row.values["labels"]]
            if labels
            else [IGNORE_INDEX] * len(row.values["tokens"])
            for row in rows
        ]
        return encode_windows(rows, targets, tokenizer, self.max_length, self.overlap)


def _labels_of(rows: Iterable[Row]) -> set[str]:
    return {label for row in rows for label in row.values["labels"]}
