"""Text classification: one label for a text, or for a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import PositiveFloat, model_validator

from peftkit.data.source import Data, as_number
from peftkit.errors import DataError, did_you_mean, quoted
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
from peftkit.tasks.score import Score
from peftkit.tasks.task import Task
from peftkit.tasks.text_task import TextTask

if TYPE_CHECKING:
    from peftkit.data.encoded import Encoded, Examples
    from peftkit.data.head import Head
    from peftkit.data.ragged import Array
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.task import Outputs


class TextClassification(TextTask):
    """The task of choosing a label for each text, or for each pair of texts."""

    offer = OFFER
    scores: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "weighted_f1")
    decides: ClassVar[bool] = True

    data: Data
    """The labelled texts."""
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
    def answer_columns(self) -> Mapping[str, str]:
        return {"label": self.data.label}

    def read_answer(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        column = self.data.label
        value = label_text(values.get(column))
        if value is None or (isinstance(value, str) and is_empty(value)):
            return f"empty {column}"
        if not isinstance(value, str):
            return f"{column} is {type(value).__name__}, not text"
        label = self._label(value)
        names = self.data.label_names or (table.label_names or {}).get(column, {})
        if self.data.fold_labels:
            names = {self._label(in_file): self._label(name) for in_file, name in names.items()}
        if names and label not in names and label not in names.values():
            return f"{column} `{label}` is not in label_names"
        return {"label": names.get(label, label)}

    def _label(self, text: str) -> str:
        """A label, or a label's name, in the form in which labels are compared."""
        return _folded(text, self.data.decimal) if self.data.fold_labels else text.strip()

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
                "the task TextRegression learns numbers: `TextRegression(data=Numbers(path=..., "
                f'score="{self.data.label}"))`; or name another column, `--task.data.label NAME`; '
                "if each is a class, name them in `task.data.label_names`",
            )

    def remarks(self, splits: Splits) -> Iterator[str]:
        counts = {name: Counter(map(self.stratum, rows)) for name, rows in splits.named().items()}
        yield from label_remarks(counts, self.class_weights != "none", self.data.number)
        yield from super().remarks(splits)

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

    def head_for(self, splits: Splits) -> Head:
        """Returns a head with a class for each label: first those of `label_names` in their order,
        then the others, numbers before names.
        """
        present = set(map(self.stratum, splits.train))
        named = list(dict.fromkeys(map(self._label, self.data.label_names.values())))
        rest = sorted(present - set(named), key=number_first)
        return self.pooled_head((*(name for name in named if name in present), *rest))

    def targets_for(self, rows: Sequence[Row], head: Head) -> Array:
        import numpy as np

        index = {label: place for place, label in enumerate(head.labels)}
        return np.array([index[self.stratum(row)] for row in rows], np.int64)

    def weights_for(self, rows: Sequence[Row], head: Head) -> Sequence[float] | None:
        if self.class_weights == "none":
            return None
        labels = list(map(self.stratum, rows))
        if isinstance(self.class_weights, dict):
            return [self.class_weights.get(label, 1.0) for label in labels]
        counts = Counter(labels)
        return [len(rows) / (len(head.labels) * counts[label]) for label in labels]

    def show_answer(self, row: Row) -> str:
        return self.stratum(row)

    def metric(self, name: str) -> Metric:
        from peftkit.metrics.classification import METRICS

        return METRICS.get(name) or super().metric(name)

    def decide(self, kept: Outputs, examples: Examples, head: Head) -> Decision:
        from peftkit.metrics.calibration import fit_temperature
        from peftkit.tasks.scoring.row_outputs import row_means, row_targets

        found = fit_temperature(row_means(kept, examples), row_targets(examples))
        return Decision({"temperature": (found,)})

    def score_rows(
        self, outputs: Outputs, targets: Array, rows: Sequence[Row], head: Head, decision: Decision
    ) -> Score:
        from peftkit.tasks.scoring.class_scores import class_score

        return class_score(
            self.metric, outputs, targets, rows, head, decision.number("temperature")
        )

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        from peftkit.tasks.scoring.majority import majority_scores

        return {"majority": majority_scores(self, encoded)}

    def answer_rows(self, outputs: Outputs, head: Head, decision: Decision) -> Sequence[Answer]:
        from peftkit.tasks.scoring.class_scores import softmax

        probabilities = softmax(outputs / (decision.number("temperature") or 1.0)).max(axis=1)
        labels = [head.labels[index] for index in outputs.argmax(axis=1)]
        return [Prediction(*pair) for pair in zip(labels, map(float, probabilities), strict=True)]


@cache
def _folded(label: str, decimal: str) -> str:
    return folded(label, partial(as_number, decimal=decimal))
