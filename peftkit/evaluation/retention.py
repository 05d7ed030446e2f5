"""Retention: how much general ability a language model keeps, measured by its loss on other text.

    loss = - 1/N sum log p(token | all before it)      nats per token, of N tokens

The texts are unrelated to the task. If the loss rises above the base's loss, training has cost
general ability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from peftkit.data.packaged import PREFIX
from peftkit.data.reading import read_source
from peftkit.data.rows import Row
from peftkit.errors import DataError, did_you_mean, quoted
from peftkit.parts.part import Part
from peftkit.tasks.chat import Chat
from peftkit.tasks.reading.conversations import Conversations

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from peftkit.data.encoded import Examples

REVIEWS = f"{PREFIX}movie-reviews"
MICRO_BATCH_TOKENS = 4096
"""Largest number of tokens in a forward pass, padding included."""
DRAWN_FROM = ("test", "validation", "all", "train")
"""Names of splits, best first; the first that the source has is read."""


class Retention(Part):
    """General text on which the loss of a causal language model is measured."""

    path: str = Field(default=REVIEWS, min_length=1)
    """The texts: a .csv, .tsv, .json, .jsonl or .parquet file, a folder or a Hub data set (its test
    split, if it has one), or `packaged:NAME`."""
    text: str = Field(default="text", min_length=1)
    """Column with the text."""
    subset: str = ""
    """Subset of the data set, as in a recipe's data. For `packaged:movie-reviews`, empty means
    `imdb` (long reviews)."""
    max_rows: int = Field(default=64, ge=1)
    """Largest number of texts to use, drawn by a hash of their content, whatever their order in the
    file."""
    max_length: int = Field(default=256, ge=2)
    """Number of tokens to use from the beginning of each text; the base may allow fewer."""


def load_texts(retention: Retention) -> list[str]:
    """Reads the texts of a source without duplicates; skips rows without a text.

    Raises:
        DataError: the source is missing or cannot be read, or no row has a text.
        MissingPackageError: the package of a `packaged:` data set is not installed.
    """
    from peftkit.data.splits import clean_rows  # imports numpy

    subset = retention.subset or ("imdb" if retention.path == REVIEWS else "")
    data = Conversations(
        path=retention.path,
        subset=subset,
        text=retention.text,
        max_rows=retention.max_rows,
        malformed="skip",  # general corpora contain empty lines
    )
    tables = read_source(data)
    table = next(tables[name] for name in DRAWN_FROM if name in tables)
    if retention.text not in table.columns and (table.rows or not table.malformed):
        raise DataError(
            f"`{table.name}` has no column `{retention.text}` with texts for retention; it has "
            f"{quoted(table.columns)}",
            did_you_mean(retention.text, table.columns) or "rename the column to `text`",
        )
    rows, _ = clean_rows(Chat(data=data), table, split_seed=0)
    return [row.values["text"] for row in rows]


def text_loss(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int,
    accelerator: Accelerator,
) -> float:
    """Mean negative log-likelihood of texts, in nats per token. Uses the first `max_length` tokens
    of each text, including the end token. The first token of a text is not predicted.

    Args:
        model: a causal language model, with or without an adapter.
        tokenizer: from `open_base`; its `model_max_length` is the number of tokens that the base
            can read.

    Raises:
        DataError: no text has two tokens.
        TrainingError: the model outputs NaN or infinity.
    """
    from peftkit.data.head import LANGUAGE_MODEL
    from peftkit.evaluation.scoring import run_model
    from peftkit.tasks.encoding.chat_encoding import encode_texts
    from peftkit.tasks.losses import CrossEntropy
    from peftkit.training.forward.engine import Engine

    rows = [Row(number, {"text": text}) for number, text in enumerate(texts, start=1)]
    limit = min(max_length, tokenizer.model_max_length)
    pieces, _ = encode_texts("retention", rows, tokenizer, limit)
    first = [place for place in range(len(pieces)) if place == 0 or _is_first(pieces, place)]
    beginnings = pieces.chosen(first)
    engine = Engine.of(
        model,
        LANGUAGE_MODEL,
        CrossEntropy(),
        tokenizer.pad_token_id or 0,  # any id: outputs at padding are not read
        MICRO_BATCH_TOKENS,
        accelerator,
    )
    _, loss = run_model(engine, beginnings, lambda outputs, _: outputs[:, :0])
    return loss["loss"]


def _is_first(pieces: Examples, place: int) -> bool:
    """Whether the piece at index `place` is the first of its text."""
    return pieces.row(place) is not pieces.row(place - 1)
