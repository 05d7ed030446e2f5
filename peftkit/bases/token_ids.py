"""Finds tokens without a row in the base's embedding. They occur if somebody added tokens to the
tokenizer but did not resize the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.errors import BaseModelError, quoted
from peftkit.wording import plural

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from peftkit.bases.opened import OpenedBase

MOST_NAMES = 5


def embedding_rows(config: Any) -> int | None:
    """Number of rows in the embedding, from the model's configuration; None if unknown."""
    rows = getattr(config.get_text_config(), "vocab_size", None)
    return rows if isinstance(rows, int) and rows > 0 else None


def beyond_embedding(base: OpenedBase) -> dict[int, str]:
    """Id -> token, for tokens without a row in the embedding. Excludes `base.added_tokens`, which
    get rows when the base is loaded.
    """
    rows = embedding_rows(base.config)
    if rows is None or len(base.tokenizer) <= rows:  # an embedding may have spare rows
        return {}
    vocabulary = base.tokenizer.get_vocab().items()
    missing = {index: token for token, index in vocabulary if index >= rows}
    return {index: missing[index] for index in sorted(missing.keys() - {*base.added_ids})}


def check_ids(base: OpenedBase, texts: Iterable[Sequence[int] | npt.NDArray[np.int64]]) -> str:
    """Raises BaseModelError if a text has a token without a row in the embedding.

    Returns:
        A note if the tokenizer has tokens without a row but no text uses them; empty if all have
        rows.
    """
    beyond = beyond_embedding(base)
    if not beyond:
        return ""
    rows, least = embedding_rows(base.config), min(beyond)
    counts: Counter[int] = Counter()
    for ids in texts:
        counts.update({index for index in map(int, ids) if index >= least and index in beyond})
    sizes = f"the tokenizer of `{base.name}` has {len(base.tokenizer):,} tokens, and the embedding "
    sizes += f"{rows:,} rows"
    if not counts:
        return f"{sizes}; no text has a token without a row, {quoted(beyond.values(), MOST_NAMES)}"
    used = [
        f"`{beyond[index]}` in {plural(count, 'text')}"
        for index, count in counts.most_common(MOST_NAMES)
    ]
    raise BaseModelError(
        f"{sizes}; there is no row for {', '.join(used)}",
        "take it out of the texts, or name it in `base.added_tokens`, which trains a row for it",
    )
