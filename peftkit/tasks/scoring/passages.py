"""Marks the expected and the predicted answer in a passage; leaves out what is far from both."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from peftkit.tasks.score import PassagePart
from peftkit.tasks.scoring.span_decoding import Span

AROUND = 90
"""Number of characters to show before and after each answer."""
UNMARKED = 240
"""Number of characters to show of a passage in which nothing is marked."""
LEFT_OUT = " … "


def marked_passage(
    context: str, expected: tuple[str, int] | None, predicted: Span | None
) -> tuple[PassagePart, ...]:
    """Returns the pieces of a passage around two answers.

    Args:
        expected: the right answer and its place; None if there is none.
        predicted: the answer of the model; None if it gives none.
    """
    spans: dict[str, range] = {}
    if expected:
        spans["expected"] = range(expected[1], expected[1] + len(expected[0]))
    if predicted:
        spans["predicted"] = range(predicted.start, predicted.end)
    if not spans:
        rest = LEFT_OUT if len(context) > UNMARKED else ""
        return (PassagePart(context[:UNMARKED] + rest),)
    shown = sorted((max(0, s.start - AROUND), min(len(context), s.stop + AROUND))
                   for s in spans.values())  # fmt: skip
    return tuple(_pieces(context, _merged(shown), spans))


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Joins spans that touch each other; they are in order."""
    joined = [spans[0]]
    for start, end in spans[1:]:
        if start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _pieces(
    context: str, shown: list[tuple[int, int]], spans: dict[str, range]
) -> Iterator[PassagePart]:
    done = 0
    for start, end in shown:
        if start > done:
            yield PassagePart(LEFT_OUT)
        borders = {start, end, *(at for s in spans.values() for at in (s.start, s.stop))}
        cuts = sorted(at for at in borders if start <= at <= end)
        for begin, stop in pairwise(cuts):
            inside = [kind for kind, span in spans.items() if begin in span]
            kind = "both" if len(inside) == 2 else inside[0] if inside else "neither"
            yield PassagePart(context[begin:stop], kind)  # type: ignore[arg-type]
        done = end
    if done < len(context):
        yield PassagePart(LEFT_OUT)
