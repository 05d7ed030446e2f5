"""Answers with a span of the context, and the next best ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from peftkit.metrics.answers import NO_ANSWER
from peftkit.tasks.answers import Answer
from peftkit.tasks.scoring.span_decoding import Decoded, Span


@dataclass(frozen=True)
class FoundAnswer(Answer):
    """The answer that the model finds in a context, or that there is none."""

    text: str
    """The answer, as it is in the context; empty if there is none."""
    start: int | None
    """Index of its first character in the context; None if there is no answer."""
    end: int | None
    """Index after its last character; None if there is no answer."""
    score: float
    """Start and end logit of the best span, less those of no answer; above 0, the span is more
    likely."""
    probability: float
    """Probability of the best span's start times that of its end."""
    alternatives: tuple[Span, ...] = ()
    """The next best spans; the best one too if no answer is given."""

    @property
    def has_answer(self) -> bool:
        """Whether the model gives an answer."""
        return self.start is not None

    def cells(self) -> dict[str, str]:
        """The answer as column -> value, for a file of answers."""
        places = ("" if place is None else str(place) for place in (self.start, self.end))
        others = [{**asdict(span), "score": round(span.score, 6)} for span in self.alternatives]
        return {
            "predicted": self.text,
            **dict(zip(("start", "end"), places, strict=True)),
            "score": f"{self.score:.6f}",
            "alternatives": json.dumps(others, ensure_ascii=False),
        }

    def line(self, text: str) -> str:
        """The line to print for a context and this answer."""
        if not self.has_answer:
            return f"{NO_ANSWER}  {self.score:.2f}"
        return f"{self.text}  {self.score:.2f}  characters {self.start} to {self.end}"


def found_answers(
    decoded: Iterable[tuple[Decoded, int]], threshold: float | None
) -> list[FoundAnswer]:
    """Returns the answer of each row.

    Args:
        decoded: the best spans of each row, and the number of characters that precede its context
            in the given text.
        threshold: margin above which an answer is given; None to give one always.
    """
    answers = []
    for found, shift in decoded:
        spans = [
            replace(span, start=span.start + shift, end=span.end + shift) for span in found.spans
        ]
        best = spans[0]
        if threshold is None or found.margin > threshold:
            given = (best.text, best.start, best.end)
            answers.append(FoundAnswer(*given, found.margin, found.probability, tuple(spans[1:])))
        else:
            answers.append(
                FoundAnswer("", None, None, found.margin, found.probability, tuple(spans))
            )
    return answers
