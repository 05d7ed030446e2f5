"""Encodes prompts for the model to continue, as examples without outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Ragged
from peftkit.data.rows import Row
from peftkit.errors import DataError


def prompt_examples(
    rows: Sequence[Row], prompts: Sequence[Sequence[int]], room: int, max_new_tokens: int = 0
) -> Examples:
    """Makes one example of each prompt.

    Args:
        prompts: token ids of each row's prompt.
        room: most tokens of a prompt.
        max_new_tokens: most tokens of an answer; 0 if the answer takes no room from the prompt.

    Raises:
        DataError: a prompt is longer than `room`.
    """
    long = [(row, ids) for row, ids in zip(rows, prompts, strict=True) if len(ids) > room]
    if long:
        more = f", and {len(long) - 1} more" * (len(long) > 1)
        which = f" (row {long[0][0].number}{more})" * (len(rows) > 1)
        reads, lower = f"at most {room:,} are read", ""
        if max_new_tokens:
            reads = f"the base reads {room:,} besides {max_new_tokens:,} of the answer"
            lower = ", or lower `task.generation.max_new_tokens`"
        raise DataError(
            f"a prompt has {len(long[0][1]):,} tokens, but {reads}{which}",
            f"shorten the text{lower}",
        )
    nothing = Ragged.of([[] for _ in prompts], width=1)
    inputs = {"input_ids": Ragged.of(prompts)}
    return Examples(tuple(rows), inputs, np.zeros(0, np.int64), read_at=nothing)
