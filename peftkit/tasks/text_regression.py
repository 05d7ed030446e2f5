"""Text regression: a number for a text, or for a pair of texts.

For learning, numbers are scaled: (number - target_mean) / target_scale, by default the mean and the
standard deviation of the training rows. Answers and metrics are scaled back. With `ordinal`, the
numbers are K ordered levels, learned as K - 1 questions "is it above level k?" (see
tasks/scoring/level_scores.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, FiniteFloat, model_validator

from peftkit.data.source import Texts
from peftkit.errors import DataError
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Answer, Decision, Scored
from peftkit.tasks.reading.numbers import (
    LARGEST,
    check_decimal_mark,
    check_levels,
    check_scaled,
    level_remarks,
    level_text,
    number_of,
    number_remarks,
    scale_remarks,
    whole_levels,
)
from peftkit.tasks.reading.text_regression_columns import OFFER
from peftkit.tasks.score import Score
from peftkit.tasks.text_task import TextTask

if TYPE_CHECKING:
    from peftkit.data.encoded import Encoded
    from peftkit.data.head import Head
    from peftkit.data.ragged import Array
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.losses import Loss, LossSettings
    from peftkit.tasks.task import Outputs


class Numbers(Texts):
    """A source of texts, or of pairs of texts, with a number for each."""

    score: str = "score"
    """Column with the number."""


@dataclass(frozen=True)
class Level(Scored):
    """The level, an ordered number, that the model chooses for one example."""

    def cells(self) -> dict[str, str]:
        """The answer as column -> value, for a file of answers."""
        return {"score": level_text(self.score)}

    def line(self, text: str) -> str:
        """The line to print for a text and this answer."""
        return f"{level_text(self.score)}  {text}"


class TextRegression(TextTask):
    """The task of giving a number to each text, or to each pair of texts."""

    offer = OFFER
    scores: ClassVar[tuple[str, ...]] = ("rmse", "mae", "r2", "spearman")
    smooths_labels: ClassVar[bool] = False

    data: Numbers
    """The texts with their numbers."""
    ordinal: bool = False
    """Whether the numbers are ordered levels, such as stars, between which nothing lies."""
    levels: tuple[FiniteFloat, ...] = ()
    """With `ordinal`: the levels in ascending order. If empty, the whole numbers from the lowest to
    the highest of the training rows, which the run records here."""
    target_mean: FiniteFloat | None = None
    """Number that the model learns as 0. If not given, the mean of the training rows, which the run
    records here."""
    target_scale: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Difference that the model learns as 1. If not given, the standard deviation of the training
    rows, which the run records here."""

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if self.levels and not self.ordinal:
            raise ValueError("`levels` are given, but `ordinal` is not set; set it")
        if self.levels and (
            len(self.levels) < 2 or any(low >= high for low, high in pairwise(self.levels))
        ):
            raise ValueError("`levels` are not two or more numbers in ascending order")
        if self.ordinal and not (self.target_mean is None is self.target_scale):
            raise ValueError(
                "`target_mean` and `target_scale` scale numbers, and with `ordinal` levels are "
                "learned; leave them out"
            )
        return self

    @property
    def known_scores(self) -> tuple[str, ...]:
        own = ("mae", "quadratic_kappa", "accuracy") if self.ordinal else self.scores
        return (*own, "loss")

    @property
    def answer_columns(self) -> Mapping[str, str]:
        return {"score": self.data.score}

    def adapt_tables(self, tables: Mapping[str, Table]) -> Mapping[str, Table]:
        check_decimal_mark(tables, self.data.score, self.data.decimal)
        return tables

    def read_answer(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        number = number_of(values.get(self.data.score), self.data.score, self.data.number)
        return number if isinstance(number, str) else {"score": number}

    def stratum(self, row: Row) -> str:
        return level_text(row.values["score"])

    def strata(self, rows: Sequence[Row]) -> Sequence[str]:
        """The level of each row, or the fifth of the rows that it belongs to by its number."""
        if self.ordinal or not rows:
            return list(map(self.stratum, rows))
        from peftkit.tasks.scoring.number_scores import quantile_groups

        groups, names = quantile_groups(_numbers(rows))
        return [names[group] for group in groups]

    @property
    def stratum_column(self) -> str:
        return self.data.score

    def check_rows(self, rows: Sequence[Row]) -> None:
        numbers = {row.number: row.values["score"] for row in rows}
        self._check_varied(list(numbers.values()), "all rows")
        if self.ordinal:
            check_levels(numbers, self.levels, self.data.path, self.data.score)

    def check_splits(self, splits: Splits) -> None:
        train = _numbers(splits.train)
        self._check_varied(train, "all training rows")
        if not self.ordinal:
            numbers = {name: _numbers(rows) for name, rows in splits.named().items()}
            check_scaled(numbers, self.target_mean, self.target_scale)
        if not self.ordinal or self.levels:
            return
        low, high = min(train), max(train)
        for name in ("validation", "test"):
            for row in splits.named()[name]:
                if not low <= row.values["score"] <= high:
                    raise DataError(
                        f"`{self.data.path}`: the {name} split has the level {self.stratum(row)} "
                        f"in row {row.number}, and training has {level_text(low)} to "
                        f"{level_text(high)}",
                        "name all levels in their order, such as `--task.levels 1 2 3`",
                    )

    def _check_varied(self, numbers: Sequence[float], where: str) -> None:
        """Raises DataError if all numbers are equal."""
        if numbers and max(numbers) - min(numbers) < 1 / LARGEST:
            raise DataError(
                f"`{self.data.path}`: column `{self.data.score}` is {level_text(numbers[0])} in "
                f"{where}, {len(numbers):,}: there is nothing to learn",
                "check that `score` names the right column",
            )

    def remarks(self, splits: Splits) -> Iterator[str]:
        numbers = _numbers(splits.train)
        if self.ordinal:
            yield from level_remarks(numbers, self.levels or whole_levels(numbers))
        else:
            yield from number_remarks(numbers, self.data.score)
            yield from scale_remarks(numbers, self.target_mean, self.target_scale)
        yield from super().remarks(splits)

    def remembering(self, splits: Splits) -> Self:
        """A copy of the task with the levels, or the mean and the scale, of the training rows."""
        import numpy as np

        numbers = _numbers(splits.train)
        if self.ordinal:
            return self if self.levels else self.with_(levels=whole_levels(numbers))
        mean, scale = self.target_mean, self.target_scale
        return self.with_(
            target_mean=float(np.mean(numbers)) if mean is None else mean,
            target_scale=float(np.std(numbers)) if scale is None else scale,
        )

    @property
    def _scaling(self) -> tuple[float, float]:
        """The mean and the scale of the targets."""
        assert self.target_mean is not None, "`remembering` sets it before rows are encoded"
        assert self.target_scale is not None
        return self.target_mean, self.target_scale

    def head_for(self, splits: Splits) -> Head:
        """Returns a head with one output, or with an output for each level but the last."""
        if not self.ordinal:
            return self.pooled_head(size=1, problem_type="regression")
        names = tuple(f"above {level_text(level)}" for level in self.levels[:-1])
        return self.pooled_head(names, problem_type="multi_label_classification")

    def targets_for(self, rows: Sequence[Row], head: Head) -> Array:
        import numpy as np

        numbers = np.array(_numbers(rows), np.float64)
        if self.ordinal:
            from peftkit.tasks.scoring.level_scores import above

            return above(np.searchsorted(self.levels, numbers), len(self.levels))
        mean, scale = self._scaling
        return ((numbers - mean) / scale).astype(np.float32)[:, None]

    def loss(self, training: LossSettings | None = None) -> Loss:
        from peftkit.tasks.losses import BinaryCrossEntropies, SquaredError

        return BinaryCrossEntropies() if self.ordinal else SquaredError()

    def show_answer(self, row: Row) -> str:
        return self.stratum(row)

    def metric(self, name: str) -> Metric:
        from peftkit.metrics.classification import METRICS as OF_CLASSES
        from peftkit.metrics.kappa import QUADRATIC_KAPPA
        from peftkit.metrics.regression import METRICS

        known = {**METRICS, "quadratic_kappa": QUADRATIC_KAPPA, "accuracy": OF_CLASSES["accuracy"]}
        return known.get(name) or super().metric(name)

    def score_rows(
        self, outputs: Outputs, targets: Array, rows: Sequence[Row], head: Head, decision: Decision
    ) -> Score:
        if self.ordinal:
            from peftkit.tasks.scoring.level_scores import level_score

            return level_score(self.metric, outputs, targets, rows, self.levels)
        from peftkit.tasks.scoring.number_scores import number_score

        return number_score(self.metric, outputs, targets, rows, *self._scaling)

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        """The scores of the training rows' mean number, or of their median level."""
        import numpy as np

        from peftkit.tasks.scoring.row_outputs import row_targets

        targets, test = row_targets(encoded.train), encoded.test
        if self.ordinal:
            name, guess = "median", np.where(targets.mean(axis=0) > 0.5, 1.0, -1.0)
        else:
            name, guess = "mean", targets.mean(axis=0, dtype=np.float64)
        outputs = np.tile(guess.astype(np.float32), (len(test), 1))
        return {name: self.metrics(outputs, test, encoded.head, Decision()).metrics}

    def answer_rows(self, outputs: Outputs, head: Head, decision: Decision) -> Sequence[Answer]:
        if self.ordinal:
            from peftkit.tasks.scoring.level_scores import places_of

            return [Level(self.levels[place]) for place in places_of(outputs)]
        mean, scale = self._scaling
        return [Scored(scale * float(number) + mean) for number in outputs[:, 0]]

    def meaning_of_outputs(self, head: Head) -> str:
        if self.ordinal:
            levels = ", ".join(map(level_text, self.levels))
            return (
                f"The levels are {levels}. Each output is the logit of a level above one of them; "
                "the answer is the level that follows as many levels as outputs are above 0."
            )
        mean, scale = self._scaling
        return (
            f"The output is a scaled number: `{self.data.score} = {scale!r} * output + {mean!r}`. "
            "With peftkit, answers are scaled back."
        )


def _numbers(rows: Sequence[Row]) -> list[float]:
    return [row.values["score"] for row in rows]
