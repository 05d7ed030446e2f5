"""Question answering: the answer to a question as a span of a context, or that it has none.

Each token of the context gets a logit for the answer's start and one for its end
(`encoding/question_windows.py`, `span_loss.py`). Long contexts become overlapping windows, of which
`scoring/span_decoding.py` chooses one answer; `metrics/answers.py` has the scores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftkit.data.rows import check_columns
from peftkit.data.squad import TITLE
from peftkit.errors import DataError
from peftkit.metrics.answers import NO_ANSWER, Normalization
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Answer, Decision
from peftkit.tasks.input_options import InputOption
from peftkit.tasks.reading.question_columns import OFFER
from peftkit.tasks.reading.question_remarks import question_remarks
from peftkit.tasks.reading.question_rows import (
    START,
    Questions,
    input_question,
    read_answered,
    read_question,
    with_all_answers,
)
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.score import Score
from peftkit.tasks.task import Piece, Task

if TYPE_CHECKING:
    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples
    from peftkit.data.head import Head
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.encoding.question_windows import Limits
    from peftkit.tasks.losses import Loss, LossSettings
    from peftkit.tasks.task import Outputs

THRESHOLD = "no_answer"
"""Name of the decision's number: the score above which an answer is given."""


class QuestionAnswering(Task):
    """The task of finding the answer to a question in a context."""

    task_type: ClassVar[str] = "QUESTION_ANS"
    offer = OFFER
    scores: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    renamed_scores: ClassVar[Mapping[str, str]] = {"em": "exact_match"}
    smooths_labels: ClassVar[bool] = False
    decides: ClassVar[bool] = True
    input_options: ClassVar[Mapping[str, InputOption]] = {
        "text": InputOption("context", "a text; may be repeated"),
        "question": InputOption("question", "a question about --text"),
    }

    data: Questions
    """The questions with their contexts and answers."""
    normalization: Normalization = "squad"
    """How answers are compared: `squad` (English: words, without case, punctuation and articles),
    `cmrc2018` (Chinese: characters, the longest common run counts), `drcd` (Chinese: characters in
    any order)."""
    max_length: int = Field(default=384, ge=16)
    """Most tokens of a window, which holds the question and a part of the context; the base may
    allow less."""
    overlap: int | None = Field(default=None, ge=0)
    """Number of tokens that neighbouring windows of a context share; 128 if not given, and at most
    half of a window's context."""
    max_answer_tokens: int = Field(default=30, ge=1, le=512)
    """Most tokens of an answer that is given."""
    n_best: int = Field(default=3, ge=1)
    """Number of spans that an answer lists with their scores."""
    prefix: str = ""
    """Text to put before each question, such as `query: ` for E5; recorded with the adapter."""
    has_unanswerable: bool | None = None
    """Whether some questions have no answer in their context. If so, the validation split chooses
    the score above which an answer is given. If not given, it is whether the training rows have
    such questions, which the run records here."""

    # Rows

    @property
    def source(self) -> Questions:
        return self.data

    @property
    def columns(self) -> Mapping[str, str]:
        named = {"context": self.data.context, "question": self.data.question}
        starts = {"answer_start": self.data.answer_start} if self.data.answer_start else {}
        return {**named, "answers": self.data.answers, **starts}

    @property
    def asked(self) -> tuple[str, ...]:
        return tuple(self.input_options)

    def columns_read(self, table: Table) -> Collection[str]:
        return {*self.columns.values(), self.data.is_impossible, START, TITLE, "id"}

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        return read_answered(values, self.data)

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        check_columns(table, {"context": self.data.context, "question": self.data.question})
        return read_question(values, self.data)

    def as_input(self, value: Any) -> dict[str, object]:
        return input_question(value)

    def key(self, row: Row) -> str:
        return f"{text_key(row.values['context'])}\x1f{text_key(row.values['question'])}"

    def merged(self, rows: Sequence[Row]) -> Row | None:
        return with_all_answers(rows)

    def group(self, row: Row) -> str:
        return text_key(row.values["context"])  # questions about one context tell about each other

    def stratum(self, row: Row) -> str:
        return "answer" if row.values["answers"] else NO_ANSWER

    def counted(self, rows: Sequence[Row]) -> Sequence[Sequence[str]]:
        strata = list(map(self.stratum, rows))
        return [(stratum,) if NO_ANSWER in strata else () for stratum in strata]

    @property
    def stratum_column(self) -> str:
        return self.data.answers

    def check_splits(self, splits: Splits) -> None:
        if not any(row.values["answers"] for row in splits.train):
            raise DataError(
                f"`{self.data.path}`: none of the {len(splits.train):,} training questions has an "
                "answer",
                "check that `answers` names the right column, `--task.data.answers NAME`",
            )

    def remarks(self, splits: Splits) -> Iterator[str]:
        yield from question_remarks(splits, self.has_unanswerable)

    def remembering(self, splits: Splits) -> QuestionAnswering:
        """A copy of the task that knows whether the training rows have questions without answer."""
        if self.has_unanswerable is not None:
            return self
        return self.with_(has_unanswerable=any(not r.values["answers"] for r in splits.train))

    # Examples

    @property
    def expected_head(self) -> Head:
        from peftkit.data.head import Head

        return Head("AutoModelForQuestionAnswering", self.task_type, size=2)

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        from peftkit.data.encoded import Encoded
        from peftkit.tasks.encoding.question_windows import encode_questions
        from peftkit.tasks.encoding.text_encoding import prefix_notes
        from peftkit.tasks.scoring.answer_limits import answer_limits

        limits = self._limits(base)
        train, validation, test = (
            encode_questions(rows, base.tokenizer, limits) for rows in splits.named().values()
        )
        pad = base.tokenizer.pad_token_id
        notes = (
            *prefix_notes(base.name, self.prefix),
            *answer_limits((train, validation, test), self.max_answer_tokens, self.normalization),
        )
        return Encoded(train, validation, test, self.expected_head, pad, notes)

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        from peftkit.tasks.encoding.question_windows import encode_questions

        return encode_questions(rows, base.tokenizer, self._limits(base))

    def _limits(self, base: OpenedBase) -> Limits:
        from peftkit.bases.architectures import is_decoder
        from peftkit.tasks.encoding.question_windows import USUAL_OVERLAP, Limits
        from peftkit.tasks.encoding.window_overlap import check_overlap

        check_overlap(self.overlap, self.max_length, base.tokenizer)
        overlap = USUAL_OVERLAP if self.overlap is None else self.overlap
        segments = getattr(base.config, "type_vocab_size", 0) > 1
        return Limits(
            self.max_length, overlap, self.prefix, is_decoder(base.config), segments
        )  # fmt: skip

    def loss(self, training: LossSettings | None = None) -> Loss:
        from peftkit.tasks.span_loss import SpanCrossEntropy

        return SpanCrossEntropy()

    def show(
        self, example: int, examples: Examples, head: Head, tokenizer: Any
    ) -> tuple[Piece, ...]:
        assert examples.read_at is not None
        places = examples.read_at[example][:, 0]
        targets = examples.targets[examples.outputs_of(example)]
        first, last = (places[side > 0].tolist() for side in targets.T)
        whole = bool(first and last)  # otherwise only one end is read in this window
        inside = range(first[0], last[0] + 1) if whole else (*first, *last)
        tokens = tokenizer.convert_ids_to_tokens(examples.input_ids[example].tolist())
        return tuple(
            Piece(f"{' ' * bool(place)}{token}", place in inside)
            for place, token in enumerate(tokens)
        )

    # Scores

    def metric(self, name: str) -> Metric:
        from peftkit.metrics.answers import METRICS

        return METRICS.get(name) or super().metric(name)

    def decide(self, kept: Outputs, examples: Examples, head: Head) -> Decision:
        from peftkit.tasks.scoring.span_decoding import best_threshold
        from peftkit.tasks.scoring.span_scores import gains, judged_rows

        if not self.has_unanswerable:
            return Decision()
        judged = judged_rows(kept, examples, None, self.max_answer_tokens, self.normalization)
        margins = [row.decoded.margin for row in judged]
        return Decision({THRESHOLD: (best_threshold(margins, gains(judged)),)})

    def metrics(self, kept: Outputs, examples: Examples, head: Head, decision: Decision) -> Score:
        from peftkit.tasks.scoring.span_scores import judged_rows, loss_parts, span_score

        threshold = decision.number(THRESHOLD)
        judged = judged_rows(kept, examples, threshold, self.max_answer_tokens, self.normalization)
        losses = loss_parts(kept, examples)
        return span_score(self.metric, judged, losses, threshold, bool(self.has_unanswerable))

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        answers = [bool(row.values["answers"]) for row in encoded.test.rows]
        if all(answers):
            return {}
        share = 1 - sum(answers) / len(answers)
        return {"majority": dict.fromkeys(self.scores, share)}

    def constant_answer(self, encoded: Encoded) -> str:
        return NO_ANSWER

    def answers(
        self, kept: Outputs, examples: Examples, head: Head, decision: Decision
    ) -> Sequence[Answer]:
        from peftkit.tasks.scoring.span_answers import found_answers
        from peftkit.tasks.scoring.span_decoding import decode, outputs_of_rows

        decoded = (
            (decode(of, self.max_answer_tokens, self.n_best), of.row.values.get("shift", 0))
            for of in outputs_of_rows(kept, examples)
        )
        return found_answers(decoded, decision.number(THRESHOLD))

    def meaning_of_outputs(self, head: Head) -> str:
        return (
            "Each token has a start and an end logit; the answer is the span of the context whose "
            "sum of both is highest. The first token of the input (a decoder's last one) stands "
            "for no answer."
        )
