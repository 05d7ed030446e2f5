"""Relation extraction: the relation between two entities that are marked in a text.

The model reads markers around both entities, and the relation is read at the first marker of each
(entity markers and entity start; Baldini Soares et al. 2019, arXiv:1906.03158). On a base that
reads from left to right it is read at the last marker of each, which has seen its entity. The
markers are tokens of the task, whose embeddings are trained with any method.
`metrics/relations.py` has the scores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit.data.marked_sentences import COMMENT, MARK, NUMBER
from peftkit.data.rows import check_columns
from peftkit.errors import DataError, RecipeError, did_you_mean, quoted
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Answer, Decision, Prediction
from peftkit.tasks.input_options import PAIR, InputOption
from peftkit.tasks.reading.entity_marks import ADVICE, marked, read_marks
from peftkit.tasks.reading.labels import number_first
from peftkit.tasks.reading.marked_texts import (
    Found,
    MarkedTexts,
    a_row_for_each_pair,
    find_entities,
    read_entities,
    read_relation,
)
from peftkit.tasks.reading.relation_columns import OFFER
from peftkit.tasks.reading.relation_remarks import relation_remarks
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.score import Score
from peftkit.tasks.task import Piece, Task
from peftkit.wording import has, plural

if TYPE_CHECKING:
    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples
    from peftkit.data.head import Head
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.task import Outputs


class RelationExtraction(Task):
    """The task of choosing the relation between two entities that are marked in a text."""

    task_type: ClassVar[str] = "SEQ_CLS"
    one_output: ClassVar[bool] = True
    offer = OFFER
    scores: ClassVar[tuple[str, ...]] = ("official_f1", "micro_f1", "macro_f1", "accuracy")
    decides: ClassVar[bool] = True
    input_options: ClassVar[Mapping[str, InputOption]] = {"text": PAIR["text"]}

    data: MarkedTexts
    """The texts with their entities and relations."""
    max_length: int = Field(default=256, ge=16)
    """Most tokens of an example; the base may allow less. A longer text is cut around its entities;
    a pair of entities that are too far apart is left out and counted."""
    pooling: Literal["markers", "mean", "head"] = "markers"
    """The layers on top of the base. `markers`: dropout and a linear layer on the last hidden
    states of the first marker of both entities, or of the last one if the base reads from left to
    right; `mean`: on the mean of all last hidden states; `head`: the classification head of the
    base's architecture."""
    prefix: str = ""
    """Text to put before each text, such as `query: ` for E5; recorded with the adapter."""

    # Rows

    @property
    def source(self) -> MarkedTexts:
        return self.data

    @property
    def columns(self) -> Mapping[str, str]:
        of_pair = {} if self.data.pairs else {"relation": self.data.relation}
        return {**self.data.text_columns, **of_pair}

    def columns_read(self, table: Table) -> Collection[str]:
        return {*self.columns.values(), COMMENT, NUMBER}

    def adapt_tables(self, tables: Mapping[str, Table]) -> Mapping[str, Table]:
        column = self.data.pairs
        return {
            name: a_row_for_each_pair(table, column) if column in table.columns else table
            for name, table in tables.items()
        }

    def adapt_inputs(self, table: Table) -> Table:
        return self.adapt_tables({"all": table})["all"]

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        found = read_entities(values, self.data)
        if isinstance(found, str):
            places = {"head", "tail"} <= set(table.columns) and self._lacks_places(table)
            options = "`--task.data.head head --task.data.tail tail`"
            return f"{found}, or give {options}" if places else found
        relation = read_relation(values, self.data, table)
        return relation if isinstance(relation, str) else {**_row(found), **relation}

    def as_input(self, value: Any) -> dict[str, object]:
        values = {"text": value} if isinstance(value, str) else value
        if not isinstance(values, Mapping):
            raise RecipeError(
                f"an input is {type(value).__name__}, not a text with marked entities", ADVICE
            )
        in_words = "tokens" in values
        names = ("the input", "its head", "its tail")
        found = find_entities(
            values.get("tokens" if in_words else "text"), values.get("head"), values.get("tail"),
            names, in_words=in_words, marks="head" not in values,
        )  # fmt: skip
        if isinstance(found, str):
            raise RecipeError(found, "" if ADVICE in found or "head" in values else ADVICE)
        return _row(found)

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        text = values.get(self.data.text)
        if isinstance(text, str) and MARK.search(text) and self._lacks_places(table):
            found: Found | str = read_marks(text, self.data.text)
        else:
            check_columns(table, self.data.text_columns)
            found = read_entities(values, self.data)
        return found if isinstance(found, str) else _row(found)

    def _lacks_places(self, table: Table) -> bool:
        """Whether a table has none of the columns that say where entities are."""
        return not {self.data.head, self.data.tail, self.data.pairs} & set(table.columns)

    def key(self, row: Row) -> str:
        return text_key(marked(row))

    def group(self, row: Row) -> str:
        return text_key(row.values["text"])  # a text may have several pairs

    def stratum(self, row: Row) -> str:
        return str(row.values["relation"])

    @property
    def stratum_column(self) -> str:
        return self.data.relation

    def check_splits(self, splits: Splits) -> None:
        relations = {name: set(map(self.stratum, rows)) for name, rows in splits.named().items()}
        known = relations["train"]
        if len(known) < 2:
            raise DataError(
                f"`{self.data.path}`: the training rows have one relation, {quoted(known)}; "
                "training needs two or more",
                f"check that `relation` names the right column; rows without a relation are "
                f"`{self.data.no_relation}`",
            )
        for name in ("validation", "test"):
            if only := sorted(relations[name] - known):
                number = next(
                    row.number for row in splits.named()[name] if self.stratum(row) == only[0]
                )
                raise DataError(
                    f"`{self.data.path}`: the {name} split has the relation {quoted(only)} (first "
                    f"in row {number}), which no training row has; training has "
                    f"{quoted(sorted(known))}",
                    did_you_mean(only[0], known)
                    or "correct the relation, add training rows for it, or remove those rows",
                )

    def remarks(self, splits: Splits) -> Iterator[str]:
        yield from relation_remarks(splits, self.data)

    # Examples

    def tokens(self) -> tuple[str, ...]:
        from peftkit.tasks.encoding.marked_encoding import MARKERS

        return MARKERS

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        from peftkit.data.encoded import Encoded
        from peftkit.tasks.encoding.text_encoding import prefix_notes

        head = self._head(sorted(set(map(self.stratum, splits.train)), key=number_first), base)
        index = {label: place for place, label in enumerate(head.labels)}
        train, validation, test = (
            self._encode(rows, base, head, [index[self.stratum(row)] for row in rows])
            for rows in splits.named().values()
        )
        parts = zip(splits.named(), (train, validation, test), strict=True)
        if empty := [name for name, examples in parts if not len(examples)]:
            raise DataError(
                f"`{self.data.path}`: no row of {quoted(empty)} fits `max_length` "
                f"{self.max_length}: the entities are too far apart",
                "raise `--task.max-length`",
            )
        notes = tuple(prefix_notes(base.name, self.prefix))
        if test.too_long:
            notes = (*notes, f"{plural(test.too_long, 'test row')} {has(test.too_long)} entities "
                     "too far apart for `task.max_length`, and no part in the scores")  # fmt: skip
        return Encoded(train, validation, test, head, base.tokenizer.pad_token_id, notes)

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        from peftkit.data.encoded import IGNORE_INDEX
        from peftkit.tasks.encoding.marked_encoding import refuse_far_apart

        examples = self._encode(rows, base, head, [IGNORE_INDEX] * len(rows))
        refuse_far_apart(examples, rows, min(self.max_length, base.tokenizer.model_max_length))
        return examples

    def _encode(
        self, rows: Sequence[Row], base: OpenedBase, head: Head, targets: Sequence[int]
    ) -> Examples:
        import numpy as np

        from peftkit.tasks.encoding.marked_encoding import encode_marked

        return encode_marked(
            rows, np.array(targets, np.int64), base.tokenizer, prefix=self.prefix,
            max_length=self.max_length, read=head.markers,
        )  # fmt: skip

    def _head(self, relations: Sequence[str], base: OpenedBase) -> Head:
        """Returns the head for the relations of the training rows: first those of `label_names`,
        last the one that means none.
        """
        from peftkit.bases.architectures import is_decoder
        from peftkit.data.head import Head
        from peftkit.tasks.encoding.marked_encoding import MARKERS

        named = [name for name in self.data.label_names.values() if name in relations]
        none = self.data.no_relation
        order = [*dict.fromkeys(named), *(name for name in relations if name not in named)]
        labels = tuple(sorted(order, key=lambda name: name == none))
        if self.pooling == "head":
            return Head("AutoModelForSequenceClassification", self.task_type, labels)
        read: tuple[str, ...] = ()
        if self.pooling == "markers":
            read = MARKERS[1::2] if is_decoder(base.config) else MARKERS[::2]
        return Head("AutoModel", self.task_type, labels, pooling=self.pooling, markers=read)

    def show(
        self, example: int, examples: Examples, head: Head, tokenizer: Any
    ) -> tuple[Piece, ...]:
        tokens = tokenizer.convert_ids_to_tokens(examples.input_ids[example].tolist())
        answer = self.stratum(examples.row(example))
        return Piece(" ".join(tokens) + "\nrelation: "), Piece(answer, supervised=True)

    # Scores and answers

    def metric(self, name: str) -> Metric:
        from peftkit.metrics.relations import METRICS

        return METRICS.get(name) or super().metric(name)

    def decide(self, kept: Outputs, examples: Examples, head: Head) -> Decision:
        from peftkit.metrics.calibration import fit_temperature

        return Decision({"temperature": (fit_temperature(kept, examples.targets),)})

    def metrics(self, kept: Outputs, examples: Examples, head: Head, decision: Decision) -> Score:
        from peftkit.tasks.scoring.relation_scores import relation_score

        return relation_score(
            self.metric, kept, examples.targets, examples.rows, head.labels, self.data.no_relation,
            decision.number("temperature"),
        )  # fmt: skip

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        from peftkit.tasks.scoring.majority import majority_scores

        return {"majority": majority_scores(self, encoded)}

    def answers(
        self, kept: Outputs, examples: Examples, head: Head, decision: Decision
    ) -> Sequence[Answer]:
        from peftkit.tasks.scoring.class_scores import softmax

        probabilities = softmax(kept / (decision.number("temperature") or 1.0)).max(axis=1)
        return [
            Prediction(head.labels[label], float(probability))
            for label, probability in zip(kept.argmax(axis=1), probabilities, strict=True)
        ]

    def meaning_of_outputs(self, head: Head) -> str:
        return (
            "The input has markers around both entities: `[E1]Ada[/E1] lives in[E2] London[/E2].` "
            "A space before an entity is inside its markers. The output is the relation."
        )


def _row(found: Found) -> dict[str, object]:
    return dict(zip(("text", "head", "tail"), found, strict=True))
