"""The base class of tasks with one answer for each text, or for each pair of texts.

A subclass defines which columns it reads besides the texts, which targets and which head it learns
from them, and how outputs become scores and answers. A text that is too long is cut, or split into
windows whose outputs are averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from peftkit.data.rows import check_columns
from peftkit.data.source import Texts
from peftkit.errors import RecipeError, quoted
from peftkit.tasks.answers import Answer, Decision
from peftkit.tasks.reading.labels import is_empty
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.reading.text_remarks import text_remarks
from peftkit.tasks.score import Score
from peftkit.tasks.task import Piece, Task

if TYPE_CHECKING:
    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples
    from peftkit.data.head import Head
    from peftkit.data.ragged import Array
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.task import Outputs


class TextTask(Task):
    """A task with one answer for each text, or for each pair of texts."""

    abstract: ClassVar[bool] = True
    task_type: ClassVar[str] = "SEQ_CLS"
    one_output: ClassVar[bool] = True

    data: Texts
    """The texts with their answers."""
    max_length: int = Field(default=512, ge=4)
    """Most tokens of an example; the base may allow less."""
    over_long: Literal["cut_end", "windows"] = "cut_end"
    """What to do with texts of more than `max_length` tokens. `cut_end` cuts them; the record
    counts them. `windows` splits them into overlapping windows: each window is trained on, and a
    row's output is the mean of its windows' outputs."""
    overlap: int | None = Field(default=None, ge=0)
    """Number of tokens that neighbouring windows of a text share, at most half a window. None for
    64, or half a window if that is less."""
    pooling: Literal["head", "mean", "cls"] = "head"
    """The layers on top of the base. `head`: the classification head of the base's architecture;
    `mean`: dropout and a linear layer on the mean of a text's last hidden states, for which
    sentence-transformers were trained; `cls`: dropout and a linear layer on the first token's last
    hidden state."""
    prefix: str = ""
    """Text to put before each text, such as `query: ` for E5; recorded with the adapter."""

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        if self.over_long == "windows" and self.data.text_pair:
            raise ValueError(
                "`over_long` is `windows`, which split single texts, but `data.text_pair` names a "
                "second text; leave one of them out"
            )
        return self

    # Hooks that a subclass must write

    @property
    def answer_columns(self) -> Mapping[str, str]:
        """The task's name of each column besides the texts -> the column's name in the file."""
        raise NotImplementedError

    def read_answer(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        """Returns the values of `answer_columns` by the task's names, or a string that says what
        is malformed.
        """
        raise NotImplementedError

    def head_for(self, splits: Splits) -> Head:
        """Returns the head that learns these rows; `pooled_head` makes one."""
        raise NotImplementedError

    def targets_for(self, rows: Sequence[Row], head: Head) -> Array:
        """Returns (rows, ...), what the head learns for each row."""
        raise NotImplementedError

    def score_rows(
        self, outputs: Outputs, targets: Array, rows: Sequence[Row], head: Head, decision: Decision
    ) -> Score:
        """Returns the score of a split.

        Args:
            outputs: (rows, outputs of the head).
            targets: (rows, ...), from `targets_for`.
        """
        raise NotImplementedError

    def answer_rows(self, outputs: Outputs, head: Head, decision: Decision) -> Sequence[Answer]:
        """Returns one answer for each row.

        Args:
            outputs: (rows, outputs of the head).
        """
        raise NotImplementedError

    def show_answer(self, row: Row) -> str:
        """Returns the answer in a row as readable text."""
        raise NotImplementedError

    # Hooks that a subclass may write

    def weights_for(self, rows: Sequence[Row], head: Head) -> Sequence[float] | None:
        """Returns (rows,), the weight of each training row in the loss; None if all are 1."""
        return None

    # The contract of `Task`

    def pooled_head(self, labels: tuple[str, ...] = (), **settings: Any) -> Head:
        """Returns a head with the task's pooling.

        Args:
            settings: values for further fields of `Head`.
        """
        from peftkit.data.head import Head

        if self.pooling == "head":
            return Head("AutoModelForSequenceClassification", self.task_type, labels, **settings)
        return Head("AutoModel", self.task_type, labels, pooling=self.pooling, **settings)

    @property
    def source(self) -> Texts:
        return self.data

    @property
    def text_columns(self) -> Mapping[str, str]:
        """`text`, and `text_pair` if there is one -> the column's name in the file."""
        pair = {"text_pair": self.data.text_pair} if self.data.text_pair else {}
        return {"text": self.data.text, **pair}

    @property
    def asked(self) -> tuple[str, ...]:
        return tuple(self.text_columns)

    @property
    def columns(self) -> Mapping[str, str]:
        return {**self.text_columns, **self.answer_columns}

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        texts: dict[str, object] = {}
        for role, column in self.text_columns.items():
            value = values.get(column)
            if value is None or (isinstance(value, str) and is_empty(value)):
                return f"empty {column}"
            if not isinstance(value, str):
                return f"{column} is {type(value).__name__}, not text"
            texts[role] = value
        answer = self.read_answer(values, table)
        return answer if isinstance(answer, str) else {**texts, **answer}

    def as_input(self, value: Any) -> dict[str, object]:
        values = {"text": value} if isinstance(value, str) else value
        wanted = list(self.text_columns)
        items = values.items() if isinstance(values, Mapping) else ()
        filled = [role for role, text in items if text]
        if sorted(filled) != sorted(wanted):
            leave = "leave `--text-pair` out" if "text_pair" in filled else "give `text`"
            raise RecipeError(
                f"the task reads {quoted(wanted)}, and the input has {quoted(filled) or 'neither'}",
                "give `--text-pair` too" if len(wanted) > 1 else leave,
            )
        return dict(values)

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        check_columns(table, self.text_columns)
        texts = {role: values.get(column) for role, column in self.text_columns.items()}
        if all(isinstance(text, str) and not is_empty(text) for text in texts.values()):
            return texts
        return "empty text"

    def key(self, row: Row) -> str:
        texts = (row.values["text"], row.values.get("text_pair", ""))
        return "\x1f".join(map(text_key, texts))

    def remarks(self, splits: Splits) -> Iterator[str]:
        texts = [str(row.values["text"]) for row in splits.train]
        yield from text_remarks(texts, self.data.text)

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        from peftkit.data.encoded import Encoded
        from peftkit.tasks.encoding.text_encoding import prefix_notes, single_token_notes
        from peftkit.tasks.encoding.window_overlap import check_overlap

        tokenizer, head = base.tokenizer, self.head_for(splits)
        if self.over_long == "windows":
            check_overlap(self.overlap, self.max_length, tokenizer)
        train, validation, test = (
            self._encode(rows, tokenizer, self.targets_for(rows, head), weights)
            for rows, weights in (
                (splits.train, self.weights_for(splits.train, head)),
                (splits.validation, None),
                (splits.test, None),
            )
        )
        special = tokenizer.num_special_tokens_to_add(pair=bool(self.data.text_pair))
        notes = (*prefix_notes(base.name, self.prefix), *single_token_notes(train, special))
        return Encoded(train, validation, test, head, tokenizer.pad_token_id, notes)

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        import numpy as np

        from peftkit.data.encoded import IGNORE_INDEX

        return self._encode(rows, base.tokenizer, np.full(len(rows), IGNORE_INDEX), None)

    def _encode(
        self, rows: Sequence[Row], tokenizer: Any, targets: Array, weights: Sequence[float] | None
    ) -> Examples:
        from peftkit.tasks.encoding.text_encoding import encode_rows
        from peftkit.tasks.encoding.window_overlap import window_overlap

        overlap = None
        if self.over_long == "windows":
            overlap = window_overlap(self.overlap, self.max_length, tokenizer)
        return encode_rows(
            rows, targets, weights, tokenizer, self.prefix, self.max_length, overlap
        )  # fmt: skip

    def show(
        self, example: int, examples: Examples, head: Head, tokenizer: Any
    ) -> tuple[Piece, ...]:
        tokens = tokenizer.convert_ids_to_tokens(examples.input_ids[example].tolist())
        named = " and ".join(self.answer_columns)
        answer = self.show_answer(examples.row(example))
        return Piece(" ".join(tokens) + f"\n{named}: "), Piece(answer, supervised=True)

    def metrics(self, kept: Outputs, examples: Examples, head: Head, decision: Decision) -> Score:
        from peftkit.tasks.scoring.row_outputs import row_means, row_targets

        outputs, targets = row_means(kept, examples), row_targets(examples)
        return self.score_rows(outputs, targets, examples.rows, head, decision)

    def answers(
        self, kept: Outputs, examples: Examples, head: Head, decision: Decision
    ) -> Sequence[Answer]:
        from peftkit.tasks.scoring.row_outputs import row_means

        return self.answer_rows(row_means(kept, examples), head, decision)
