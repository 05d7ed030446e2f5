"""Text classification: one label for a text, or for a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from peftkit.data.rows import check_columns
from peftkit.data.source import Data, as_number
from peftkit.errors import DataError, RecipeError, did_you_mean, quoted
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Answer, Decision, Prediction
from peftkit.tasks.reading.labels import (
    folded,
    is_empty,
    label_remarks,
    label_text,
    number_first,
    scores_not_classes,
)
from peftkit.tasks.reading.text_classification_columns import OFFER
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.reading.text_remarks import text_remarks
from peftkit.tasks.score import Score
from peftkit.tasks.task import Piece, Task

if TYPE_CHECKING:
    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples
    from peftkit.data.head import Head
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.task import Outputs


class TextClassification(Task):
    """The task of choosing a label for each text, or for each pair of texts."""

    task_type: ClassVar[str] = "SEQ_CLS"
    one_output: ClassVar[bool] = True
    offer = OFFER
    scores: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "weighted_f1")

    data: Data
    """The labelled texts."""
    max_length: int = Field(default=512, ge=4)
    """Most tokens of an example; longer ones are cut at the end, and the record counts them. The
    base may allow less."""
    pooling: Literal["head", "mean", "cls"] = "head"
    """The classifier. `head`: the classification head of the base's architecture; `mean`: dropout
    and a linear layer on the mean of a text's last hidden states, for which sentence-transformers
    were trained; `cls`: dropout and a linear layer on the first token's last hidden state."""
    class_weights: Literal["none", "balanced"] | dict[str, PositiveFloat] = "none"
    """Weight of each label in the loss; labels without a weight get 1. `balanced` gives a label the
    weight rows / (labels x rows of the label)."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names: dict[str, str] = {}
        for label, name in self.data.label_names.items() if self.data.fold_labels else ():
            other = names.setdefault(self._label(label), name)
            if self._label(other) != self._label(name):
                raise ValueError(
                    f"`data.label_names` gives the names `{other}` and `{name}` to labels that "
                    "`data.fold_labels` merges"
                )
        return self

    @classmethod
    def of_published(cls, task_type: str, path: str) -> Task | None:
        return cls(data=Data(path=path)) if task_type == cls.task_type else None

    @property
    def source(self) -> Data:
        return self.data

    @property
    def columns(self) -> Mapping[str, str]:
        pair = {"text_pair": self.data.text_pair} if self.data.text_pair else {}
        return {"text": self.data.text, **pair, "label": self.data.label}

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        read: dict[str, Any] = {}
        for role, column in self.columns.items():
            value = values.get(column)
            if role == "label":
                value = label_text(value)
            if value is None or (isinstance(value, str) and is_empty(value)):
                return f"empty {column}"
            if not isinstance(value, str):
                return f"{column} is {type(value).__name__}, not text"
            read[role] = value
        label = self._label(read["label"])
        names = self.data.label_names or (table.label_names or {}).get(self.data.label, {})
        if self.data.fold_labels:
            names = {self._label(in_file): self._label(name) for in_file, name in names.items()}
        if names and label not in names and label not in names.values():
            return f"{self.data.label} `{label}` is not in label_names"
        read["label"] = names.get(label, label)
        return read

    def _label(self, text: str) -> str:
        """A label, or a label's name, in the form in which labels are compared."""
        return _folded(text, self.data.decimal) if self.data.fold_labels else text.strip()

    def as_input(self, value: Any) -> dict[str, object]:
        values = {"text": value} if isinstance(value, str) else value
        wanted = [role for role in self.columns if role != "label"]
        items = values.items() if isinstance(values, Mapping) else ()
        filled = [role for role, text in items if text]
        if sorted(filled) != sorted(wanted):
            leave = "leave `--text-pair` out" if "text_pair" in filled else "give `text`"
            raise RecipeError(
                f"the task classifies {quoted(wanted)}, and the input has "
                f"{quoted(filled) or 'neither'}",
                "give `--text-pair` too" if len(wanted) > 1 else leave,
            )
        return dict(values)

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        columns = {role: name for role, name in self.columns.items() if role != "label"}
        check_columns(table, columns)
        texts = {role: values.get(column) for role, column in columns.items()}
        if all(isinstance(text, str) and not is_empty(text) for text in texts.values()):
            return texts
        return "empty text"

    def key(self, row: Row) -> str:
        texts = (row.values["text"], row.values.get("text_pair", ""))
        return "\x1f".join(map(text_key, texts))

    def stratum(self, row: Row) -> str:
        return str(row.values["label"])

    @property
    def stratum_column(self) -> str:
        return self.data.label

    def check_rows(self, rows: Sequence[Row]) -> None:
        if self.data.label_names:
            return
        counts = Counter(map(self.stratum, rows))
        comma = partial(as_number, decimal=",")
        if numbers := scores_not_classes(counts, self.data.number) or scores_not_classes(
            counts, comma
        ):
            raise DataError(
                f"`{self.data.path}`: column `{self.data.label}` holds {numbers}",
                "peftkit has no regression yet: turn them into classes, such as ranges, or name "
                "another column, `--task.data.label NAME`; if each is a class, name them in "
                "`task.data.label_names`",
            )

    def remarks(self, splits: Splits) -> Iterator[str]:
        counts = {name: Counter(map(self.stratum, rows)) for name, rows in splits.named().items()}
        yield from label_remarks(counts, self.class_weights != "none", self.data.number)
        texts = [str(row.values["text"]) for row in splits.train]
        yield from text_remarks(texts, self.data.text)

    def check_splits(self, splits: Splits) -> None:
        labels = {name: set(map(self.stratum, rows)) for name, rows in splits.named().items()}
        if len(labels["train"]) < 2:
            raise DataError(
                f"`{self.data.path}`: column `{self.data.label}` has one label in the training "
                f"rows, {quoted(labels['train'])}; training needs two or more",
                "check that `label` names the right column",
            )
        for name in ("validation", "test"):
            if only := sorted(labels[name] - labels["train"]):
                folds = {_folded(label, self.data.decimal) for label in labels["train"]}
                raise DataError(
                    f"`{self.data.path}`: the {name} split has the label {quoted(only)}, which "
                    f"no training row has; training has {quoted(sorted(labels['train']))}",
                    "`--task.data.fold-labels` merges labels that look alike"
                    if all(_folded(label, self.data.decimal) in folds for label in only)
                    else did_you_mean(only[0], labels["train"])
                    or "correct the label, add training rows for it, or remove those rows",
                )
        weighed = set(self.class_weights) if isinstance(self.class_weights, dict) else set()
        if unknown := sorted(weighed - labels["train"]):
            raise DataError(
                f"`task.class_weights` is for {quoted(unknown)}, which is no label; the labels are "
                f"{quoted(sorted(labels['train']))}",
                did_you_mean(unknown[0], labels["train"]) or "remove it; other labels weigh 1",
            )

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        from peftkit.data.encoded import Encoded
        from peftkit.tasks.encoding.text_encoding import token_notes

        tokenizer = base.tokenizer
        labels = self._labels(splits)
        weights = self._weights(splits, labels)
        parts = {
            name: self._encode(rows, tokenizer, labels, weights if name == "train" else None)
            for name, rows in splits.named().items()
        }
        special = tokenizer.num_special_tokens_to_add(pair=bool(self.data.text_pair))
        return Encoded(
            parts["train"], parts["validation"], parts["test"], self._head(labels),
            tokenizer.pad_token_id, tuple(token_notes(parts, special)),
        )  # fmt: skip

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        return self._encode(rows, base.tokenizer, (), None)

    def show(
        self, example: int, examples: Examples, head: Head, tokenizer: Any
    ) -> tuple[Piece, ...]:
        tokens = tokenizer.convert_ids_to_tokens(examples.input_ids[example].tolist())
        label = head.labels[int(examples.targets[example])]
        return Piece(" ".join(tokens) + "\nlabel: "), Piece(label, supervised=True)

    def metric(self, name: str) -> Metric:
        from peftkit.metrics.classification import METRICS

        return METRICS.get(name) or super().metric(name)

    def metrics(self, kept: Outputs, examples: Examples, head: Head, decision: Decision) -> Score:
        from peftkit.tasks.scoring.class_scores import class_score

        return class_score(self.metric, kept, examples, head)

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        import numpy as np

        majority = Counter(encoded.train.targets.tolist()).most_common(1)[0][0]
        outputs = np.zeros((len(encoded.test), len(encoded.head.labels)), np.float32)
        outputs[:, majority] = 1
        return {"majority": self.metrics(outputs, encoded.test, encoded.head, Decision()).metrics}

    def answers(
        self, kept: Outputs, examples: Examples, head: Head, decision: Decision
    ) -> Sequence[Answer]:
        from peftkit.tasks.scoring.class_scores import softmax

        probabilities = softmax(kept).max(axis=1)
        labels = [head.labels[index] for index in kept.argmax(axis=1)]
        return [Prediction(*pair) for pair in zip(labels, map(float, probabilities), strict=True)]

    def _head(self, labels: tuple[str, ...]) -> Head:
        from peftkit.data.head import Head

        if self.pooling == "head":
            return Head("AutoModelForSequenceClassification", self.task_type, labels)
        return Head("AutoModel", self.task_type, labels, pooling=self.pooling)

    def _labels(self, splits: Splits) -> tuple[str, ...]:
        """Names of the classes: first those in `label_names`, in the same order, then the others,
        numbers before names.
        """
        present = set(map(self.stratum, splits.train))
        named = list(dict.fromkeys(map(self._label, self.data.label_names.values())))
        rest = sorted(present - set(named), key=number_first)
        return (*(name for name in named if name in present), *rest)

    def _weights(self, splits: Splits, labels: tuple[str, ...]) -> dict[str, float] | None:
        if self.class_weights == "none":
            return None
        if isinstance(self.class_weights, dict):
            return {label: self.class_weights.get(label, 1.0) for label in labels}
        counts = Counter(map(self.stratum, splits.train))
        return {label: len(splits.train) / (len(labels) * counts[label]) for label in labels}

    def _encode(
        self,
        rows: Sequence[Row],
        tokenizer: Any,
        labels: tuple[str, ...],
        weights: dict[str, float] | None,
    ) -> Examples:
        """Encodes the rows; targets are indices of `labels`; without labels, `IGNORE_INDEX`."""
        import numpy as np

        from peftkit.data.encoded import IGNORE_INDEX, Examples
        from peftkit.tasks.encoding.text_encoding import check_last_tokens, encode_texts

        texts = [row.values["text"] for row in rows]
        pairs = [row.values["text_pair"] for row in rows] if self.data.text_pair else None
        encoded = encode_texts(texts, pairs, tokenizer, self.max_length)
        check_last_tokens(rows, encoded.inputs["input_ids"], tokenizer)
        of_rows = None if weights is None else [weights[self.stratum(row)] for row in rows]
        targets = [labels.index(self.stratum(row)) if labels else IGNORE_INDEX for row in rows]
        return Examples(
            rows=tuple(rows),
            inputs=encoded.inputs,
            targets=np.array(targets, np.int64),
            weights=None if of_rows is None else np.array(of_rows, np.float32),
            truncated=encoded.truncated,
            unknown_tokens=encoded.unknown_tokens,
        )


@cache
def _folded(label: str, decimal: str) -> str:
    return folded(label, partial(as_number, decimal=decimal))
