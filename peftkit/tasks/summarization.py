"""Summarization of texts, scored by ROUGE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from peftkit.data.rows import Row, Table
from peftkit.data.source import Source
from peftkit.metrics.metric import Metric
from peftkit.tasks.reading.summary_columns import OFFER
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.reading.written_pairs import read_pair
from peftkit.tasks.writing_task import WRITTEN_SCORES, WritingTask


class Documents(Source):
    """A source of texts and their summaries."""

    text: str = "document"
    """Column with the text."""
    summary: str = "summary"
    """Column with the summary of the text, or with a list of right summaries."""


class Summarization(WritingTask):
    """The task of summarizing a text."""

    offer = OFFER
    default_instruction: ClassVar[str] = "Summarize the text.\n\n{source}"

    data: Documents
    """The texts and their summaries."""
    max_length: int = Field(default=768, ge=4)
    """Most tokens of a text; longer ones are cut at the end, and the record counts them. The base
    may allow less."""
    max_target_length: int | None = Field(default=128, ge=4)
    """Most tokens of a summary in training, cut likewise; `max_length` if not given."""

    @property
    def source(self) -> Documents:
        return self.data

    @property
    def columns(self) -> Mapping[str, str]:
        return {"text": self.data.text, "summary": self.data.summary}

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        return read_pair(values, self.data.text, self.data.summary)

    def group(self, row: Row) -> str:
        return text_key(row.values["text"])  # one text may have several summaries

    @property
    def text_scores(self) -> tuple[str, ...]:
        return ("rouge_l", "rouge_1", "rouge_2", *WRITTEN_SCORES)

    def metric(self, name: str) -> Metric:
        from peftkit.metrics.rouge import ROUGE

        return ROUGE.get(name) or super().metric(name)
