"""Multi-label classification: any number of labels for a text, or for a pair of texts.

Each label has an output of its own. A text gets the labels whose probability, the sigmoid of the
output, is at least the label's threshold, which is chosen on the validation split.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from peftkit.data.source import Texts
from peftkit.errors import DataError, did_you_mean, quoted
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Answer, Decision
from peftkit.tasks.reading.label_separators import with_label_lists
from peftkit.tasks.reading.label_sets import NONE, joined, label_set, with_noted_words
from peftkit.tasks.reading.labels import alike, number_first, scarce, with_rows
from peftkit.tasks.reading.multi_label_columns import OFFER
from peftkit.tasks.score import Score
from peftkit.tasks.text_task import TextTask

if TYPE_CHECKING:
    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples
    from peftkit.data.head import Head
    from peftkit.data.ragged import Array
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.losses import Loss, LossSettings
    from peftkit.tasks.task import Outputs

THRESHOLD = "threshold"
"""Name of the thresholds in the decision."""
MANY_WITHOUT = 0.1
"""A note is written if at least this share of the training rows has no label."""


class LabelSets(Texts):
    """A source of texts with any number of labels."""

    labels: str = "labels"
    """Column with the labels: a list, such a list as JSON text, or a text with separators. An empty
    cell means that the text has no label."""
    label_separator: str = ""
    """Separator of the labels in a text. If empty, `;`, `|` or `,`, or a wide form of them, is
    detected, unless it is not clear."""
    label_names: dict[str, str] = {}
    """Label in the file -> its name, in the order of the outputs. If empty, the source's own names
    or labels are used."""


@dataclass(frozen=True)
class LabelSet(Answer):
    """The labels that the model gives a text; none, one or several."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    """(labels,), the probability of each of these labels."""

    def cells(self) -> dict[str, str]:
        """The answer as column -> value, for a file of answers."""
        return {
            "predicted": json.dumps(self.labels, ensure_ascii=False),
            "probabilities": json.dumps([round(p, 6) for p in self.probabilities]),
        }

    def line(self, text: str) -> str:
        """The line to print for a text and this answer."""
        pairs = zip(self.labels, self.probabilities, strict=True)
        return f"{joined(f'{label} {p:.4f}' for label, p in pairs)}  {text}"


class MultiLabelClassification(TextTask):
    """The task of choosing any number of labels for each text, or for each pair of texts."""

    offer = OFFER
    scores: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "subset_accuracy")
    decides: ClassVar[bool] = True

    data: LabelSets
    """The texts with their labels."""
    positive_weights: Literal["none", "balanced"] = "none"
    """Weight in the loss of the texts that have a label, beside 1 for those that lack it.
    `balanced`: rows without the label / rows with it."""

    @property
    def answer_columns(self) -> Mapping[str, str]:
        return {"labels": self.data.labels}

    def adapt_tables(self, tables: Mapping[str, Table]) -> Mapping[str, Table]:
        column, separator = self.data.labels, self.data.label_separator
        split = tables if separator else with_label_lists(tables, column)
        return {
            name: with_noted_words(table, column, separator, self._names(table))
            for name, table in split.items()
        }

    def _names(self, table: Table) -> Mapping[str, str]:
        """Label in the file -> its name; empty if labels are their own names."""
        return self.data.label_names or (table.label_names or {}).get(self.data.labels, {})

    def read_answer(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        column = self.data.labels
        if column not in values:
            return f"no `{column}` (`[]` means no label)"
        labels = label_set(values[column], column, self.data.label_separator, self._names(table))
        return labels if isinstance(labels, str) else {"labels": labels}

    def stratum(self, row: Row) -> str:
        return json.dumps(row.values["labels"], ensure_ascii=False)

    def strata(self, rows: Sequence[Row]) -> Sequence[str]:
        """The rarest label of each row: sets are often unique, and rare labels need care most."""
        counts = _counts(rows)
        return [
            min(row.values["labels"], key=lambda label: (counts[label], label), default="")
            for row in rows
        ]

    def counted(self, rows: Sequence[Row]) -> Sequence[Sequence[str]]:
        return [row.values["labels"] or (NONE,) for row in rows]

    @property
    def stratum_column(self) -> str:
        return self.data.labels

    def check_rows(self, rows: Sequence[Row]) -> None:
        counts = _counts(rows)
        if not rows or len(counts) > 1:
            return
        found = f"only one label, {quoted(counts)}" if counts else "no label in any row"
        raise DataError(
            f"`{self.data.path}`: column `{self.data.labels}` has {found}; training needs two or "
            "more",
            "check that `labels` names the right column"
            + ("; for yes or no, use TextClassification" if counts else ""),
        )

    def check_splits(self, splits: Splits) -> None:
        known = _counts(splits.train)
        for name in ("validation", "test"):
            labels = _counts(splits.named()[name])
            if not labels:
                raise DataError(
                    f"`{self.data.path}`: no row of the {name} split has a label, so F1 cannot be "
                    "computed",
                    f"add rows, or raise `{name}_fraction`",
                )
            if only := sorted(labels.keys() - known.keys()):
                raise DataError(
                    f"`{self.data.path}`: the {name} split has the label {quoted(only)}, which no "
                    f"training row has; training has {quoted(sorted(known))}",
                    did_you_mean(only[0], known)
                    or "correct the label, add training rows for it, or remove it",
                )
        if always := sorted(label for label in known if known[label] == len(splits.train)):
            raise DataError(
                f"`{self.data.path}`: all {len(splits.train):,} training rows have the label "
                f"{quoted(always)}, so nothing tells when to leave it out",
                "remove the label, or add rows without it",
            )

    def remarks(self, splits: Splits) -> Iterator[str]:
        counts = {name: _counts(rows) for name, rows in splits.named().items()}
        total = sum(counts.values(), Counter[str]())
        for group in alike(total, self.data.number):
            shown = with_rows(group, total)
            yield f"labels that look alike count as different labels: {shown}; correct one"
        without = sum(not row.values["labels"] for row in splits.train)
        if without >= MANY_WITHOUT * len(splits.train):
            yield (
                f"{without:,} of {len(splits.train):,} training rows have no label: the model "
                "learns to give such texts none"
            )
        yield from scarce(counts)
        yield from super().remarks(splits)

    def head_for(self, splits: Splits) -> Head:
        """Returns a head with an output for each label: first those of `label_names` in their
        order, then the others, numbers before names.
        """
        known = _counts(splits.train)
        named = list(dict.fromkeys(self.data.label_names.values()))
        rest = sorted(known.keys() - set(named), key=number_first)
        labels = (*(name for name in named if name in known), *rest)
        return self.pooled_head(labels, problem_type="multi_label_classification")

    def targets_for(self, rows: Sequence[Row], head: Head) -> Array:
        """Returns (rows, labels): 1 where a row has the label, else 0."""
        import numpy as np

        index = {label: place for place, label in enumerate(head.labels)}
        targets = np.zeros((len(rows), len(head.labels)), np.float32)
        for number, row in enumerate(rows):
            targets[number, [index[label] for label in row.values["labels"]]] = 1
        return targets

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        encoded = super().encode(splits, base)
        if self.positive_weights == "none":
            return encoded
        having = self.targets_for(splits.train, encoded.head).sum(axis=0)
        weights = (len(splits.train) - having) / having
        weighted = (encoded.train.targets * weights).astype(encoded.train.targets.dtype)
        return replace(encoded, train=replace(encoded.train, targets=weighted))

    def loss(self, training: LossSettings | None = None) -> Loss:
        from peftkit.tasks.label_set_loss import LabelSetCrossEntropy

        return LabelSetCrossEntropy(training.label_smoothing if training else 0.0)

    def show_answer(self, row: Row) -> str:
        return joined(row.values["labels"])

    def metric(self, name: str) -> Metric:
        from peftkit.metrics.label_sets import METRICS

        return METRICS.get(name) or super().metric(name)

    def decide(self, kept: Outputs, examples: Examples, head: Head) -> Decision:
        from peftkit.tasks.scoring.label_set_scores import best_thresholds
        from peftkit.tasks.scoring.row_outputs import row_means, row_targets

        chosen = best_thresholds(row_means(kept, examples), row_targets(examples) > 0)
        return Decision({THRESHOLD: tuple(chosen)})

    def score_rows(
        self, outputs: Outputs, targets: Array, rows: Sequence[Row], head: Head, decision: Decision
    ) -> Score:
        from peftkit.tasks.scoring.label_set_scores import label_set_score

        limits = _thresholds(decision, head)
        return label_set_score(self.metric, outputs, targets > 0, rows, head.labels, limits)

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        import numpy as np

        outputs = np.full((len(encoded.test), len(encoded.head.labels)), -1, np.float32)
        outputs[:, _constant(encoded)] = 1
        return {"majority": self.metrics(outputs, encoded.test, encoded.head, Decision()).metrics}

    def constant_answer(self, encoded: Encoded) -> str:
        return joined(encoded.head.labels[index] for index in _constant(encoded))

    def answer_rows(self, outputs: Outputs, head: Head, decision: Decision) -> Sequence[Answer]:
        import numpy as np

        from peftkit.tasks.scoring.label_set_scores import probabilities_of

        probabilities = probabilities_of(outputs)
        given = probabilities >= np.array(_thresholds(decision, head))
        return [
            LabelSet(
                tuple(head.labels[place] for place in here.nonzero()[0]),
                tuple(of_row[here].tolist()),
            )
            for here, of_row in zip(given, probabilities, strict=True)
        ]


def _counts(rows: Sequence[Row]) -> Counter[str]:
    """Label -> number of rows that have it."""
    return Counter(label for row in rows for label in row.values["labels"])


def _thresholds(decision: Decision, head: Head) -> tuple[float, ...]:
    """The threshold of each label; 0.5 before they are chosen."""
    return decision.numbers.get(THRESHOLD, (0.5,) * len(head.labels))


def _constant(encoded: Encoded) -> list[int]:
    """Indices of the labels, the most frequent ones, that give the training rows the highest micro
    F1 if each row gets just these.
    """
    import numpy as np

    from peftkit.tasks.scoring.row_outputs import row_targets

    given = row_targets(encoded.train) > 0
    counts = given.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    number = np.arange(1, len(order) + 1)
    f1 = 2 * counts[order].cumsum() / (number * len(given) + counts.sum())
    return sorted(order[: f1.argmax() + 1].tolist())
