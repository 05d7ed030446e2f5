"""Translation with an encoder-decoder: the encoder reads a text, the decoder writes another.

    loss = - sum log p(token | the source, all tokens before it)     over the target's tokens

(Sutskever et al. 2014, arXiv:1409.3215; Raffel et al. 2020, arXiv:1910.10683 for the prefix.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftkit.data.rows import check_columns
from peftkit.data.source import Source
from peftkit.errors import RecipeError
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Decision
from peftkit.tasks.generation import Generation
from peftkit.tasks.reading.text_keys import text_key
from peftkit.tasks.reading.translation_columns import OFFER
from peftkit.tasks.score import Score
from peftkit.tasks.task import Piece, Task
from peftkit.tasks.writing import Writing

if TYPE_CHECKING:
    import torch

    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples, Prompt
    from peftkit.data.head import Head
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.task import Outputs


class Pairs(Source):
    """A source of texts and their translations."""

    text: str = "source"
    """Column with the text."""
    translation: str = "target"
    """Column with the translation of the text."""


class Translation(Task):
    """The task of translating a text."""

    task_type: ClassVar[str] = "SEQ_2_SEQ_LM"
    offer = OFFER
    scores: ClassVar[tuple[str, ...]] = ("loss", "token_accuracy")

    data: Pairs
    """The texts and their translations."""
    prefix: str = ""
    """Instruction to put before each text, if the base was trained with one (`translate English to
    German: `)."""
    max_length: int = Field(default=256, ge=4)
    """Most tokens of a text, and of its translation; longer ones are cut at the end, and the record
    counts them. The base may allow less."""
    samples: int = Field(default=20, ge=0)
    """Number of test texts translated before and after training, and scored by chrF."""
    validation_samples: int = Field(default=50, ge=1)
    """Number of validation texts translated at each validation, if `training.metric` is `chrf`;
    `split_seed` selects them."""
    generation: Generation = Generation()
    """How the model writes translations."""

    @property
    def source(self) -> Pairs:
        return self.data

    @property
    def columns(self) -> Mapping[str, str]:
        return {"text": self.data.text, "translation": self.data.translation}

    @property
    def writing(self) -> Writing:
        return Writing(("chrf",), self.samples, self.validation_samples)

    def metric(self, name: str) -> Metric:
        if name == "chrf":
            from peftkit.metrics.chrf import CHRF_SCORE

            return CHRF_SCORE
        from peftkit.metrics.language import METRICS

        return METRICS.get(name) or super().metric(name)

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        for column in self.columns.values():
            if wrong := _wrong_text(values.get(column), column):
                return wrong
        return {role: values[column] for role, column in self.columns.items()}

    def as_input(self, value: Any) -> dict[str, object]:
        text = value.get("text") if isinstance(value, Mapping) else value
        if wrong := _wrong_text(text, "the input"):
            raise RecipeError(wrong, "give a text")
        return {"text": text}

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        check_columns(table, {"text": self.data.text})
        text = values.get(self.data.text)
        return _wrong_text(text, self.data.text) or {"text": text}

    def key(self, row: Row) -> str:
        return "\x1f".join(text_key(row.values[role]) for role in self.columns)

    def group(self, row: Row) -> str:
        return text_key(row.values["text"])  # one text may have several translations

    def stratum(self, row: Row) -> str:
        return ""

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        from peftkit.data.encoded import Encoded
        from peftkit.data.head import Head
        from peftkit.tasks.encoding.two_streams import decoder_ends, encode_pairs

        start, ends = decoder_ends(base)
        train, validation, test = (
            encode_pairs(
                rows,
                [self.prefix + row.values["text"] for row in rows],
                [row.values["translation"] for row in rows],
                base.tokenizer,
                self.max_length,
                start,
                ends[0],
            )
            for rows in splits.named().values()
        )
        tokens = {"eos_token_id": ends, "decoder_start_token_id": start}
        written = {**self.generation.options(), **tokens}
        head = Head("AutoModelForSeq2SeqLM", self.task_type, trained=False, generation=written)
        pad = base.tokenizer.pad_token_id
        return Encoded(
            train,
            validation,
            test,
            head,
            pad,
            prompts=_prompts(test, self.samples),
            validation_prompts=_prompts(validation, self.validation_samples),
        )

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        from peftkit.tasks.encoding.prompts import prompt_examples

        texts = [self.prefix + row.values["text"] for row in rows]
        prompts = base.tokenizer(texts, verbose=False)["input_ids"]
        return prompt_examples(rows, prompts, min(self.max_length, base.tokenizer.model_max_length))

    def show(
        self, example: int, examples: Examples, head: Head, tokenizer: Any
    ) -> tuple[Piece, ...]:
        read = tokenizer.decode(examples.input_ids[example])
        written = tokenizer.decode(examples.targets[examples.outputs_of(example)])
        return Piece(f"{read}\n-> "), Piece(written, supervised=True)

    def reduce_outputs(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Reduces logits to (outputs, 2): the loss of each expected token, and 1 if the token was
        the most likely one, else 0.
        """
        from peftkit.tasks.losses import loss_and_hit

        return loss_and_hit(outputs, targets)

    def metrics(self, kept: Outputs, examples: Examples, head: Head, decision: Decision) -> Score:
        from peftkit.tasks.scoring.token_scores import token_score

        return token_score(self.metric, kept, examples)

    def prompt_code(self) -> str:
        text = json.dumps(f"{self.prefix}...", ensure_ascii=False)
        return f'prompt = tokenizer({text}, return_tensors="pt")\n'


def _prompts(examples: Examples, count: int) -> tuple[Prompt, ...]:
    """Prompts from the first `count` texts of a split."""
    from peftkit.data.encoded import Prompt

    rows = zip(examples.rows[:count], examples.input_ids, strict=False)
    return tuple(
        Prompt(row.number, row.values["text"], row.values["translation"], ids) for row, ids in rows
    )


def _wrong_text(value: Any, column: str) -> str:
    """Says why a value is not a text; empty if it is one."""
    if not isinstance(value, str):
        return f"{column} is {type(value).__name__}, not text"
    return "" if value.strip() else f"empty {column}"
