"""Examples from lists, one entry each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftkit.bases.base import Base
from peftkit.bases.opened import OpenedBase
from peftkit.data.encoded import IGNORE_INDEX, Examples
from peftkit.data.ragged import Ragged
from peftkit.data.rows import Row


def examples_from(
    ids: Sequence[Any],
    targets: Sequence[Any],
    weights: Sequence[Any] | None = None,
    segments: Sequence[Any] | None = None,
    rows: tuple[Row, ...] = (),
) -> Examples:
    """Of one target for each example, or of one for each of its tokens, `IGNORE_INDEX` where
    nothing is read.
    """
    rows = rows or tuple(Row(number, {}) for number in range(len(ids)))
    inputs = {"input_ids": Ragged.of(ids)}
    if segments is not None:
        inputs["token_type_ids"] = Ragged.of(segments)
    targets = [np.atleast_1d(target) for target in targets]
    per_token = [len(t) for t in targets] == [len(i) for i in ids] and max(map(len, ids)) > 1
    kept = [t != IGNORE_INDEX if per_token else np.ones(len(t), bool) for t in targets]
    return Examples(
        rows=rows,
        inputs=inputs,
        targets=np.concatenate([t[k] for t, k in zip(targets, kept, strict=True)]).astype(np.int64),
        read_at=Ragged.of([np.flatnonzero(k) for k in kept], width=1) if per_token else None,
        weights=None
        if weights is None
        else np.concatenate(
            [np.atleast_1d(w)[k] for w, k in zip(weights, kept, strict=True)]
        ).astype(np.float32),
    )


def base_with(tokenizer: Any) -> OpenedBase:
    """A base of which nothing but the tokenizer is there."""
    return OpenedBase(Base(name_or_path="./nowhere"), Path("nowhere"), None, tokenizer)
