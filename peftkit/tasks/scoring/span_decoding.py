"""Chooses the answer of each row among the spans of its context, and when to give none.

score(i, j) = start logit of token i + end logit of token j      i <= j < i + max_answer_tokens
none        = the lowest start + end logit of the windows' places for "no answer"

The answer is the span with the highest score, over all windows of the row: each token is read in
one window only. Its margin, score - none, says how much more likely it is than no answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Array, Ragged
from peftkit.data.rows import Row
from peftkit.tasks.encoding.question_windows import OFFSETS, TOKEN, characters

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs

BEYOND = 1.0
"""How far a threshold is from the lowest or highest margin if it is beyond it."""


@dataclass(frozen=True)
class Span:
    """A span of characters of a context."""

    text: str
    start: int
    """Index of the first character in the context."""
    end: int
    """Index after the last character."""
    score: float
    """Its margin: start and end logit, less those of no answer."""


@dataclass(frozen=True)
class Decoded:
    """The best spans of a row."""

    spans: tuple[Span, ...]
    """The best first; at least one."""
    probability: float
    """Probability of the first one's start times that of its end."""
    num_windows: int
    num_tokens: int
    """Number of tokens of the context."""

    @property
    def margin(self) -> float:
        """Score of the best span."""
        return self.spans[0].score


@dataclass(frozen=True)
class RowOutputs:
    """The outputs of a row's windows together."""

    row: Row
    logits: Array
    """(tokens, 2), start and end logits of the context's tokens."""
    offsets: Array
    """(tokens, 2), places of the tokens in the context, in characters."""
    none: Array
    """(windows, 2), start and end logits of the places for "no answer"."""


def outputs_of_rows(kept: Outputs, examples: Examples) -> Iterator[RowOutputs]:
    """Yields the outputs of each row, its tokens in their order.

    Args:
        kept: (outputs, 2), start and end logits.
    """
    assert examples.row_of is not None
    assert examples.read_at is not None
    tokens, offsets = examples.columns[TOKEN], examples.columns[OFFSETS]
    assert not isinstance(tokens, Ragged)
    assert not isinstance(offsets, Ragged)
    rows = np.repeat(examples.row_of, examples.read_at.lengths)
    order = np.lexsort((tokens, rows))
    ends = np.cumsum(np.bincount(rows, minlength=len(examples.rows)))
    for row, places in zip(examples.rows, np.split(order, ends[:-1]), strict=True):
        none = int((tokens[places] < 0).sum())
        here = places[none:]
        yield RowOutputs(row, kept[here], offsets[here], kept[places[:none]])


def decode(outputs: RowOutputs, max_answer_tokens: int, count: int = 1) -> Decoded:
    """Finds the spans with the highest scores.

    Args:
        max_answer_tokens: most tokens of a span.
        count: how many spans to find; a context may have fewer.
    """
    logits = outputs.logits.astype(np.float64)
    width = min(max_answer_tokens, len(logits))
    ends = np.concatenate([logits[:, 1], np.full(width - 1, -np.inf)])
    scores = logits[:, :1] + np.lib.stride_tricks.sliding_window_view(ends, width)
    flat = scores.ravel()
    most = min(count, int(np.isfinite(flat).sum()))
    best = np.argpartition(-flat, most - 1)[:most] if most > 1 else [int(flat.argmax())]
    sums = outputs.none.astype(np.float64)
    none = sums[sums.sum(axis=1).argmin()]
    spans, firsts = [], []
    for at in sorted(best, key=lambda place: (-flat[place], place)):
        first, length = divmod(int(at), width)
        context = outputs.row.values["context"]
        start, end = characters(context, outputs.offsets, first, first + length)
        spans.append(Span(context[start:end], start, end, float(flat[at] - none.sum())))
        firsts.append((first, first + length))
    every = np.concatenate([none[None], logits])
    log_p = every - np.logaddexp.reduce(every, axis=0)
    first, last = firsts[0]
    probability = float(np.exp(log_p[first + 1, 0] + log_p[last + 1, 1]))
    return Decoded(tuple(spans), probability, len(outputs.none), len(logits))


def best_threshold(margins: Sequence[float], gains: Sequence[float]) -> float:
    """The threshold at which the sum of gains is highest if rows with a larger margin are answered:
    halfway between two margins.

    Args:
        margins: (rows,).
        gains: (rows,), what answering a row adds to the score, less what leaving it adds.
    """
    order = np.argsort(-np.array(margins), kind="stable")
    ordered = np.array(margins, np.float64)[order]
    totals = np.concatenate([[0.0], np.cumsum(np.array(gains)[order])])
    between = np.concatenate([[np.inf], ordered]) > np.concatenate([ordered, [-np.inf]])
    answered = int(np.where(between, totals, -np.inf).argmax())
    if answered == 0:
        return float(ordered[0]) + BEYOND
    if answered == len(ordered):
        return float(ordered[-1]) - BEYOND
    return float(ordered[answered - 1] + ordered[answered]) / 2
