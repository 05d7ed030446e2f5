"""Translation of texts, scored by BLEU and chrF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from peftkit.data.rows import Row, Table
from peftkit.data.source import Parallel, Source
from peftkit.metrics.metric import Metric
from peftkit.tasks.reading.scripts import bleu_tokenizer
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.reading.translation_columns import OFFER
from peftkit.tasks.reading.written_pairs import read_pair, with_language_columns
from peftkit.tasks.writing_task import WRITTEN_SCORES, WritingTask

if TYPE_CHECKING:
    from peftkit.data.splits import Splits


class Pairs(Source):
    """A source of texts and their translations."""

    text: str = "source"
    """Column with the text."""
    translation: str = "target"
    """Column with the translation of the text, or with a list of right translations."""
    translation_path: str = ""
    """A plain text file with the translations. `path` is then a plain text file too, and each line
    translates the same line of the other file. Empty if `path` has both."""

    @property
    def parallel(self) -> Parallel | None:
        path = self.translation_path
        return Parallel(path, (self.text, self.translation)) if path else None


class Translation(WritingTask):
    """The task of translating a text."""

    offer = OFFER
    default_instruction: ClassVar[str] = "Translate the text.\n\n{source}"

    data: Pairs
    """The texts and their translations."""
    bleu_tokenizer: Literal["auto", "13a", "zh", "char"] = "auto"
    """How sacrebleu divides texts into words: `13a`; `zh`, which also divides Chinese characters;
    `char`, characters. `auto` chooses by the training targets, and the run records the choice."""

    @property
    def source(self) -> Pairs:
        return self.data

    @property
    def columns(self) -> Mapping[str, str]:
        return {"text": self.data.text, "translation": self.data.translation}

    def adapt_tables(self, tables: Mapping[str, Table]) -> Mapping[str, Table]:
        wanted = list(self.columns.values())
        return {name: with_language_columns(table, wanted) for name, table in tables.items()}

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        return read_pair(values, self.data.text, self.data.translation)

    def group(self, row: Row) -> str:
        return text_key(row.values["text"])  # one text may have several translations

    def remembering(self, splits: Splits) -> Translation:
        if self.bleu_tokenizer != "auto":
            return self
        chosen = bleu_tokenizer([row.values["targets"][0] for row in splits.train])
        return self.with_(bleu_tokenizer=chosen)

    @property
    def text_scores(self) -> tuple[str, ...]:
        return ("chrf", "bleu", *WRITTEN_SCORES)

    def metric(self, name: str) -> Metric:
        if name == "chrf":
            from peftkit.metrics.chrf import CHRF_SCORE

            return CHRF_SCORE
        if name == "bleu":
            from peftkit.metrics.bleu import bleu_metric

            return bleu_metric("13a" if self.bleu_tokenizer == "auto" else self.bleu_tokenizer)
        return super().metric(name)
