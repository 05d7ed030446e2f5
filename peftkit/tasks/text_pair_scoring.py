"""Text pair scoring: one number for two texts, for matching, ranking and recommendation.

The model reads both texts together (a cross-encoder; Nogueira & Cho 2019, arXiv:1901.04085).
`ranking_losses.py` has the losses, `metrics/ranking.py` and `metrics/correlation.py` the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from peftkit.data.rows import group_name
from peftkit.data.source import Texts
from peftkit.errors import DataError
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Answer, Decision, Ranked, Scored
from peftkit.tasks.reading.candidate_groups import Groups
from peftkit.tasks.reading.numbers import check_decimal_mark, number_of
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.reading.text_pair_columns import OFFER
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

LARGEST = 1e15
"""Largest score; the square of a larger one may be too large for float32."""


class ScoredPairs(Texts):
    """A source of text pairs with scores."""

    text_pair: str = "text_pair"
    """Column with the second text, such as a candidate for the query in `text`."""
    score: str = "score"
    """Column with the score: a rating, a relevance, or 1 and 0. A higher score is better."""
    query: str = ""
    """Column that names the group of candidates which are ranked together, such as a query's id.
    Empty: pairs with the same first text are a group if the objective needs groups; else there are
    no groups."""

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if not self.text_pair:
            raise ValueError("`text_pair` is empty; name the column with the second text")
        return self


class TextPairScoring(TextTask):
    """The task of giving a number to each pair of texts."""

    offer = OFFER
    smooths_labels: ClassVar[bool] = False

    data: ScoredPairs
    """The pairs of texts with their scores."""
    objective: Literal["squared_error", "binary", "pairwise", "listwise"] = "squared_error"
    """What training minimizes. `squared_error`: of the score. `binary`: the binary cross-entropy,
    for scores 0 and 1. `pairwise`: the logistic loss of candidates of a group with different scores
    (RankNet). `listwise`: the cross-entropy of a group's softmax with its relevances (ListNet).
    With the last two, `batch_size` counts groups, and each group counts as one."""
    k: int = Field(default=10, ge=1)
    """Number of ranks that NDCG counts."""

    # Rows

    @property
    def couples(self) -> bool:
        """Whether the loss compares the candidates of a group."""
        return self.objective in ("pairwise", "listwise")

    @property
    def grouped(self) -> bool:
        """Whether pairs are ranked within groups."""
        return self.couples or bool(self.data.query)

    @property
    def answer_columns(self) -> Mapping[str, str]:
        query = {"query": self.data.query} if self.data.query else {}
        return {"score": self.data.score, **query}

    def adapt_tables(self, tables: Mapping[str, Table]) -> Mapping[str, Table]:
        check_decimal_mark(tables, self.data.score, self.data.decimal)
        return tables

    def read_answer(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        value = values.get(self.data.score)
        value = int(value) if isinstance(value, bool) else value  # a match, or none
        score = number_of(value, self.data.score, self.data.number, LARGEST)
        if isinstance(score, str):
            return score
        if not self.data.query:
            return {"score": score}
        query = group_name(values.get(self.data.query))
        return {"score": score, "query": query} if query else f"empty {self.data.query}"

    def query_of(self, row: Row) -> str:
        """The name of the row's group of candidates."""
        return str(row.values["query"] if self.data.query else text_key(row.values["text"]))

    def group(self, row: Row) -> str:
        return f"query {self.query_of(row)}" if self.grouped else ""

    def stratum(self, row: Row) -> str:
        binary = self.objective == "binary" and not self.grouped
        return self.answer_key(row) if binary else ""

    def answer_key(self, row: Row) -> str:
        return f"{row.values['score']:g}"

    @property
    def stratum_column(self) -> str:
        return self.data.score

    def check_rows(self, rows: Sequence[Row]) -> None:
        from peftkit.tasks.reading.pair_checks import check_scores

        check_scores(rows, self.data, self.objective, self.grouped)
        if self.grouped:
            self._refuse_unranked(Groups.of(rows, self.query_of), "")

    def check_splits(self, splits: Splits) -> None:
        from peftkit.tasks.reading.pair_checks import check_both_scores, check_whole_groups

        if not self.grouped:
            check_both_scores(splits, self.data, self.objective)
            return
        check_whole_groups(splits, self.data, self.query_of)
        for name, rows in splits.named().items():
            self._refuse_unranked(Groups.of(rows, self.query_of), f"the {name} split has ")

    def _refuse_unranked(self, groups: Groups, where: str) -> None:
        """Raises DataError if no group has candidates with different scores."""
        if groups.ranked:
            return
        column, use = self.data.query or self.data.text, "NDCG and MRR need"
        if self.couples:
            use = f"the objective `{self.objective}` needs"
        raise DataError(
            f"`{self.data.path}`: {where}{groups.others}; {use} candidates with different scores "
            f"in a group (rows with the same `{column}`)",
            "add groups, or change `validation_fraction` and `test_fraction`"
            if where
            else "name the column of the groups, `--task.data.query NAME`, and check that "
            f"`{self.data.score}` holds the scores; without groups, set `task.objective` to "
            "`squared_error` or `binary` and leave `task.data.query` empty",
        )

    def remarks(self, splits: Splits) -> Iterator[str]:
        yield from super().remarks(splits)
        for name, rows in splits.named().items() if self.grouped else ():
            yield from Groups.of(rows, self.query_of).notes(name, self.couples)

    # Examples

    def head_for(self, splits: Splits) -> Head:
        kind = "multi_label_classification" if self.objective == "binary" else "regression"
        return self.pooled_head(size=1, problem_type=kind)

    def targets_for(self, rows: Sequence[Row], head: Head) -> Array:
        import numpy as np

        return np.array([[row.values["score"]] for row in rows], np.float32).reshape(-1, 1)

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        from peftkit.data.splits import Splits

        if not self.couples:
            return super().encode(splits, base)
        encoded = super().encode(Splits(*map(self._ranked, splits.named().values())), base)
        return replace(
            encoded,
            train=self._united(encoded.train, splits.train),
            validation=self._united(encoded.validation, splits.validation),
            test=self._united(encoded.test, splits.test),
        )

    def _ranked(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        """Returns the rows of groups whose candidates have different scores."""
        names = set(Groups.of(rows, self.query_of).ranked)
        return tuple(row for row in rows if self.query_of(row) in names)

    def _united(self, examples: Examples, rows: Sequence[Row]) -> Examples:
        """Makes each group a unit, whose candidates stay in one micro-batch.

        Args:
            rows: the split's rows, with those that were left out.
        """
        import numpy as np

        numbers: dict[str, int] = {}
        units = [numbers.setdefault(self.query_of(row), len(numbers)) for row in examples.rows]
        left_out = len(rows) - len(examples.rows)
        return replace(examples, units=np.array(units, np.int64), unsupervised=left_out)

    def loss(self, training: LossSettings | None = None) -> Loss:
        from peftkit.tasks.ranking_losses import loss_of

        return loss_of(self.objective)

    def show_answer(self, row: Row) -> str:
        query = f" (query {row.values['query']})" if self.data.query else ""
        return f"{row.values['score']:g}{query}"

    # Scores

    @property
    def scores(self) -> tuple[str, ...]:  # type: ignore[override]  # depends on fields
        """Names of the metrics. The first one chooses the best weights."""
        if self.grouped:
            return (f"ndcg@{self.k}", "mrr")
        return ("auc",) if self.objective == "binary" else ("spearman", "pearson")

    def metric(self, name: str) -> Metric:
        from peftkit.metrics.correlation import METRICS
        from peftkit.metrics.ranking import metrics

        return {**METRICS, **metrics(self.k)}.get(name) or super().metric(name)

    def score_rows(
        self, outputs: Outputs, targets: Array, rows: Sequence[Row], head: Head, decision: Decision
    ) -> Score:
        from peftkit.tasks.scoring.pair_scores import correlated_score, matched_score, ranked_score

        predicted, expected = outputs[:, 0], targets[:, 0]
        if self.grouped:
            groups = [self.query_of(row) for row in rows]
            return ranked_score(self.metric, predicted, expected, rows, groups, self.k)
        if self.objective == "binary":
            return matched_score(self.metric, self._answers(outputs), expected, rows)
        return correlated_score(self.metric, predicted, expected, rows)

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        import numpy as np

        nothing = np.zeros((len(encoded.test), 1), np.float32)
        score = self.metrics(nothing, encoded.test, encoded.head, Decision())
        return {"constant": score.metrics}

    # Answers

    def as_input(self, value: Any) -> dict[str, object]:
        if not isinstance(value, Mapping) or not group_name(value.get("query")):
            return super().as_input(value)
        texts = {role: text for role, text in value.items() if role != "query"}
        return {**super().as_input(texts), "query": group_name(value["query"])}

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        texts = super().read_input(values, table)
        if isinstance(texts, str) or not self.grouped:
            return texts
        if not self.data.query:
            return {**texts, "query": text_key(str(texts["text"]))}
        if self.data.query not in table.columns:
            return texts
        query = group_name(values.get(self.data.query))
        return {**texts, "query": query} if query else f"empty {self.data.query}"

    def answer_rows(self, outputs: Outputs, head: Head, decision: Decision) -> Sequence[Answer]:
        return [Scored(score) for score in map(float, self._answers(outputs))]

    def answers(
        self, kept: Outputs, examples: Examples, head: Head, decision: Decision
    ) -> Sequence[Answer]:
        from peftkit.tasks.scoring.pair_scores import ranks

        numbers = list(map(float, self._answers(kept)))
        queries = [row.values.get("query", "") for row in examples.rows]
        if not all(queries):
            return self.answer_rows(kept, head, decision)
        return [Ranked(*pair) for pair in zip(numbers, ranks(numbers, queries), strict=True)]

    def _answers(self, outputs: Outputs) -> Array:
        """Returns (rows,), the scores; for `binary`, the probabilities of 1."""
        import numpy as np

        scores: Array = outputs[:, 0].astype(np.float64)
        if self.objective == "binary":
            scores = 0.5 * (1 + np.tanh(0.5 * scores))  # a sigmoid that does not overflow
        return scores
