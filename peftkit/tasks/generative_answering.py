"""Answers to questions, written by the model; with or without a text that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from peftkit.data.rows import Row, Table
from peftkit.data.source import Source
from peftkit.metrics.metric import Metric
from peftkit.tasks.input_options import InputOption
from peftkit.tasks.reading.answer_columns import OFFER
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.reading.written_answers import merged_answers, read_written_answer
from peftkit.tasks.writing_task import WRITTEN_SCORES, WritingTask


class Answered(Source):
    """A source of questions and their answers."""

    question: str = "question"
    """Column with the question."""
    context: str = ""
    """Column with the text that the question is about; empty if there is none."""
    answers: str = "answers"
    """Column with the answer, or with a list of right answers, as in Hugging Face data sets and
    SQuAD files; the first one is learned."""
    no_answer: str = ""
    """What to write if a row has no answer; empty if such rows are malformed."""


class GenerativeAnswering(WritingTask):
    """The task of writing the answer to a question."""

    offer = OFFER
    input_options: ClassVar[Mapping[str, InputOption]] = {
        "text": InputOption("context", "the text that a question is about"),
        "question": InputOption("question", "a question; may be repeated"),
    }

    data: Answered
    """The questions with their answers."""
    normalization: Literal["squad", "cmrc2018", "drcd", "number"] = "squad"
    """How answers are compared: `squad` (English: words, without case, punctuation and articles),
    `cmrc2018` and `drcd` (Chinese: characters), or `number`: only the number after `####`."""
    max_length: int = Field(default=768, ge=4)
    """Most tokens of the context, or of the question if there is none; longer ones are cut at the
    end, and the record counts them. The base may allow less."""
    max_target_length: int | None = Field(default=256, ge=4)
    """Most tokens of an answer in training, cut likewise; `max_length` if not given."""

    @property
    def read(self) -> Mapping[str, str]:
        names = ("context", "question") if self.data.context else ("question",)
        return {name: name for name in names}

    @property
    def wording(self) -> str:
        about = "Answer the question from the text.\n\nText: {context}\n\nQuestion: {question}"
        return self.instruction or (about if self.data.context else "{question}")

    @property
    def encoder_wording(self) -> str:
        return "question: {question}" + " context: {context}" * bool(self.data.context)

    @property
    def asked(self) -> tuple[str, ...]:
        return ("text", "question") if self.data.context else ("question",)

    @property
    def source(self) -> Answered:
        return self.data

    @property
    def columns(self) -> Mapping[str, str]:
        texts = {name: getattr(self.data, name) for name in self.read}
        return {**texts, "answers": self.data.answers}

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        return read_written_answer(values, self.columns, self.data.no_answer)

    def key(self, row: Row) -> str:
        return "\x1f".join(text_key(row.values[name]) for name in self.read)

    def merged(self, rows: Sequence[Row]) -> Row:
        return merged_answers(rows)

    @property
    def text_scores(self) -> tuple[str, ...]:
        chosen = ("exact_number",) if self.normalization == "number" else ("f1", "exact_match")
        return (*chosen, *(name for name in WRITTEN_SCORES if name != "copied"))

    def metric(self, name: str) -> Metric:
        if name == "exact_number":
            from peftkit.metrics.exact_number import EXACT_NUMBER

            return EXACT_NUMBER
        if name in ("f1", "exact_match") and self.normalization != "number":
            from peftkit.metrics.answers import written_metric

            return written_metric(name, self.normalization)
        return super().metric(name)
