"""Token classification: a tag for each word of a text, such as those of the names in it.

Rows are words with tags, or texts with entities as spans of characters. The tag of a word is
predicted at its first token. A row that is too long for the model is split into overlapping
windows; a word in two windows is read in the one with more context around it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from peftkit.data.conll import DOCUMENT
from peftkit.data.rows import check_columns
from peftkit.data.source import Source
from peftkit.errors import DataError, RecipeError, quoted
from peftkit.metrics.entities import OUTSIDE
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Answer, Decision
from peftkit.tasks.reading.labels import alike, number_first
from peftkit.tasks.reading.tag_checks import check_tags, first_of, rare_types
from peftkit.tasks.reading.tag_schemes import Tags, all_tags, read_tags
from peftkit.tasks.reading.tagged_words import read_spans, read_text, read_words, wrong_words
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.reading.token_classification_columns import OFFER
from peftkit.tasks.score import Score
from peftkit.tasks.task import Piece, Task
from peftkit.wording import noun, plural

if TYPE_CHECKING:
    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples
    from peftkit.data.head import Head
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.task import Outputs


class TaggedWords(Source):
    """A source of words with a tag for each, or of texts with entities as spans of characters."""

    tokens: str = "tokens"
    """Column with a list of words; the first column of a CoNLL file."""
    labels: str = "labels"
    """Column with a list of tags, one for each word; the last column of a CoNLL file, whose others
    are `column_2` and so on."""
    text: str = "text"
    """Column with a text, if the rows are texts."""
    spans: str = ""
    """Column with the entities of a text, such as `{"start": 0, "end": 3, "label": "PER"}` or
    `[0, 3, "PER"]`; places count characters, and `end` is after the last one. Empty if the rows are
    lists of words."""
    label_names: dict[str, str] = {}
    """Tag, or type of a span, in the file -> its name, in the order of the classes; empty to use
    the file's own."""
    broken: Literal["repair", "refuse"] = "repair"
    """What to do with a tag that breaks the file's scheme, such as `I-PER` after `O`. `repair`
    begins an entity there, as conlleval does, and a note counts such tags; `refuse` stops, and
    names the first one of each kind."""


class TokenClassification(Task):
    """The task of choosing a tag for each word."""

    task_type: ClassVar[str] = "TOKEN_CLS"
    offer = OFFER
    scores: ClassVar[tuple[str, ...]] = (
        "strict_f1", "strict_precision", "strict_recall", "accuracy"
    )  # fmt: skip
    renamed_scores: ClassVar[Mapping[str, str]] = {"entity_f1": "strict_f1"}

    data: TaggedWords
    """The labelled words, or texts."""
    max_length: int = Field(default=512, ge=8)
    """Most tokens of a window; the base may allow less."""
    overlap: int | None = Field(default=None, ge=0)
    """Number of tokens that neighbouring windows of a row share, at most half a window. None for
    64, or half a window if that is less."""

    @property
    def source(self) -> TaggedWords:
        return self.data

    @property
    def columns(self) -> Mapping[str, str]:
        if self.data.spans:
            return {"text": self.data.text, "spans": self.data.spans}
        return {"tokens": self.data.tokens, "labels": self.data.labels}

    def columns_read(self, table: Table) -> Collection[str]:
        return {*self.columns.values(), DOCUMENT}

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        (one, column), (_, answer) = self.columns.items()
        names = self.data.label_names or (table.label_names or {}).get(answer, {})
        read = read_spans if one == "text" else read_words
        found = read(values.get(column), values.get(answer), (column, answer), names)
        if isinstance(found, dict) and DOCUMENT in values:
            found[DOCUMENT] = values[DOCUMENT]
        return found

    def as_input(self, value: Any) -> dict[str, object]:
        words = value.get("tokens", value.get("text")) if isinstance(value, Mapping) else value
        if isinstance(words, str):
            read = read_text(words, "the input", whole_words=not self.data.spans)
            if isinstance(read, str):
                raise RecipeError(read, "give a text with a word in it")
            return read
        if wrong := wrong_words(words, "the input"):
            raise RecipeError(wrong, "give a text, or a list of words")
        return {"tokens": words}

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        if self.data.text in table.columns and (
            self.data.spans or self.data.tokens not in table.columns
        ):
            text = values.get(self.data.text)
            read = read_text(text, self.data.text)
            return read if isinstance(read, str) else {"text": text}
        check_columns(table, {"tokens": self.data.tokens})
        words = values.get(self.data.tokens)
        return wrong_words(words, self.data.tokens) or {"tokens": words}

    def key(self, row: Row) -> str:
        return json.dumps([row.values["tokens"], row.values["labels"]])

    def group(self, row: Row) -> str:
        if document := row.values.get(DOCUMENT):
            return str(document)
        return text_key(" ".join(row.values["tokens"]))  # one text may be labelled in several ways

    def stratum(self, row: Row) -> str:
        return ""

    def counted(self, rows: Sequence[Row]) -> Sequence[Sequence[str]]:
        return [[kind for _, kind in found] for found in read_tags(rows).counted()]

    def counted_unit(self, rows: Sequence[Row]) -> str:
        return read_tags(rows).unit

    @property
    def stratum_column(self) -> str:
        return self.data.spans or self.data.labels

    def check_rows(self, rows: Sequence[Row]) -> None:
        if not self.data.label_names:
            check_tags(rows)
        if self.data.broken == "refuse":
            read_tags(rows).refuse_faults()

    def remarks(self, splits: Splits) -> Iterator[str]:
        rows = [row for part in splits.named().values() for row in part]
        tags = read_tags(rows)
        yield from tags.notes()
        yield from rare_types(splits.train, tags)
        if moved := sum(row.values.get("snapped", 0) for row in rows):
            most = 2 * moved > sum(map(len, tags.counted()))
            yield (
                f"{plural(moved, 'span')} began or ended inside a word, and became whole words"
                + "; check that `start` and `end` count characters, not bytes" * most
            )
        counts = Counter(label for row in rows for label in row.values["labels"])
        for group in alike(counts, lambda _: None):
            labels = quoted(f"{label}: {plural(counts[label], 'word')}" for label in group)
            yield f"labels that look alike count as separate classes ({labels}); correct one"
        if OUTSIDE not in counts:
            yield (
                f"no label is `{OUTSIDE}`, so every word counts as part of an entity; if a label "
                f"means none, name it `{OUTSIDE}` (`--task.data.label-names`), else choose by "
                "`--training.metric accuracy`"
            )

    def check_splits(self, splits: Splits) -> None:
        tags, parts = self._tags(splits)
        labels = {name: {tag for words in part for tag in words} for name, part in parts.items()}
        if len(labels["train"]) == 1:
            raise DataError(
                f"`{self.data.path}`: all words of the training rows have the label "
                f"{quoted(labels['train'])}",
                "training needs two labels or more",
            )
        known = self._labels(labels["train"], tags)
        for name in ("validation", "test"):
            if other := sorted(labels[name] - set(known)):
                place = first_of(other, splits.named()[name], parts[name])
                raise DataError(
                    f"`{self.data.path}`: the {name} split has the {noun(len(other), 'label')} "
                    f"{quoted(other)}, which no training row has (first in {place}); training has "
                    f"{quoted(sorted(labels['train']))}",
                    "correct the label, or add training rows for it",
                )

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        from peftkit.data.encoded import Encoded
        from peftkit.data.head import Head
        from peftkit.tasks.encoding.token_windows import encode_windows
        from peftkit.tasks.encoding.window_overlap import check_overlap, window_overlap

        tokenizer = base.tokenizer
        check_overlap(self.overlap, self.max_length, tokenizer)
        overlap = window_overlap(self.overlap, self.max_length, tokenizer)
        tags, parts = self._tags(splits)
        labels = self._labels({tag for words in parts["train"] for tag in words}, tags)
        index = {label: place for place, label in enumerate(labels)}
        train, validation, test = (
            encode_windows(
                rows, [[index[tag] for tag in words] for words in parts[name]],
                tokenizer, self.max_length, overlap,
            )
            for name, rows in splits.named().items()
        )  # fmt: skip
        head = Head("AutoModelForTokenClassification", self.task_type, labels)
        return Encoded(train, validation, test, head, tokenizer.pad_token_id)

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        from peftkit.data.encoded import IGNORE_INDEX
        from peftkit.tasks.encoding.token_windows import encode_windows
        from peftkit.tasks.encoding.window_overlap import window_overlap

        targets = [[IGNORE_INDEX] * len(row.values["tokens"]) for row in rows]
        overlap = window_overlap(self.overlap, self.max_length, base.tokenizer)
        return encode_windows(rows, targets, base.tokenizer, self.max_length, overlap)

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
        from peftkit.metrics.classification import METRICS as OF_WORDS
        from peftkit.metrics.strict_entities import METRICS

        return {**OF_WORDS, **METRICS}.get(name) or super().metric(name)

    def metrics(self, kept: Outputs, examples: Examples, head: Head, decision: Decision) -> Score:
        from peftkit.tasks.scoring.entity_scores import entity_score

        return entity_score(self.metric, kept, examples, head)

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        from peftkit.tasks.scoring.majority import majority_scores

        return {"majority": majority_scores(self, encoded)}

    def answers(
        self, kept: Outputs, examples: Examples, head: Head, decision: Decision
    ) -> Sequence[Answer]:
        from peftkit.tasks.scoring.entity_answers import entity_answers

        return entity_answers(kept, examples, head)

    def _tags(self, splits: Splits) -> tuple[Tags, dict[str, list[list[str]]]]:
        """Returns the tags of all rows in one scheme, and those of each split."""
        tags = read_tags([row for rows in splits.named().values() for row in rows])
        left = iter(tags.rows)
        return tags, {name: [next(left) for _ in rows] for name, rows in splits.named().items()}

    def _labels(self, used: Iterable[str], tags: Tags) -> tuple[str, ...]:
        """Returns the classes: the names in their order, then the other tags that the types of the
        training rows may have.
        """
        named = [] if self.data.spans else list(dict.fromkeys(self.data.label_names.values()))
        rest = all_tags({*used, *named}, tags.scheme) - set(named)
        return (*named, *sorted(rest, key=number_first))
