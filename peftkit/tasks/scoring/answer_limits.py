"""How many of the right answers the tokens of a base, and the longest allowed span, can give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.metrics.answers import Normalization, exact_match
from peftkit.tasks.encoding.question_windows import characters, covering
from peftkit.tasks.scoring.span_decoding import RowOutputs, outputs_of_rows
from peftkit.wording import has, plural


@dataclass(frozen=True)
class _Reach:
    """What the tokens allow for the answers of a row."""

    snapped: bool
    """Whether no answer begins and ends where tokens do."""
    lost: bool
    """Whether no token has a part of any answer."""
    long: bool
    """Whether all answers have more tokens than a span may have."""
    exact: bool
    """Whether a span of tokens matches an answer exactly."""


def answer_limits(
    splits: Sequence[Examples], max_answer_tokens: int, normalization: Normalization
) -> Iterator[str]:
    """Yields notes: how many answers were widened to whole tokens, which ones are too long, and
    the exact match that remains on the test split if each answer is given where it stands.

    Args:
        splits: examples of training, validation and test.
    """
    reached = [
        [
            _reach(row, max_answer_tokens, normalization)
            for row in outputs_of_rows(np.zeros((len(split.targets), 2), np.float32), split)
            if row.row.values["answers"]
        ]
        for split in splits
    ]
    every = [one for of_split in reached for one in of_split]
    if snapped := sum(one.snapped for one in every):
        yield (
            f"{plural(snapped, 'answer')} of {len(every):,} began or ended inside a token, and "
            "became whole tokens"
        )
    if lost := sum(one.lost for one in every):
        yield f"{plural(lost, 'answer')} {has(lost)} no token, so the model cannot learn from it"
    if long := sum(one.long for one in every):
        yield (
            f"{plural(long, 'answer')} {has(long)} more than {max_answer_tokens} tokens, too many "
            "to be given; raise `task.max_answer_tokens` to give them"
        )
    rows, answered = len(splits[-1].rows), len(reached[-1])
    missed = sum(not one.exact for one in reached[-1])
    if missed:
        yield (
            f"the tokens allow EM {1 - missed / rows:.2f} or little more on the test split: "
            f"{missed:,} of {plural(answered, 'answer')} cannot be given as a span of tokens"
        )


def _reach(row: RowOutputs, max_answer_tokens: int, normalization: Normalization) -> _Reach:
    golds: Sequence[tuple[str, int]] = row.row.values["answers"]
    context, texts = row.row.values["context"], [text for text, _ in golds]
    on_borders, exact, long, found = [], [], [], []
    for text, start in golds:
        end = start + len(text)
        tokens = covering(row.offsets, start, end)
        if tokens is None:
            continue
        found.append(tokens)
        begin, stop = characters(context, row.offsets, *tokens)
        on_borders.append(context[begin:stop] == text.strip())
        fits = tokens[1] - tokens[0] < max_answer_tokens
        long.append(not fits)
        exact.append(fits and exact_match(context[begin:stop], texts, normalization) > 0)
    return _Reach(
        bool(found) and not any(on_borders), not found, bool(found) and all(long), any(exact)
    )
