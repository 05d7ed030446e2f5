"""The answers of tasks for rows, and the numbers, such as thresholds, that answers depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peftkit.errors import TrainingError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """The answer for one row. Each kind of answer is a subclass with its own fields."""

    def cells(self) -> dict[str, str]:
        """The answer as column -> value, for a file of answers."""
        raise NotImplementedError

    def line(self, text: str) -> str:
        """The line to print for a text and this answer."""
        return f"{'  '.join(self.cells().values())}  {text}"


@dataclass(frozen=True)
class Decision:
    """Numbers by name, such as thresholds, that turn outputs into answers; most tasks have none."""

    numbers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain = {name: tuple(map(float, values)) for name, values in self.numbers.items()}
        object.__setattr__(self, "numbers", plain)  # JSON takes no numpy numbers
        for name, values in plain.items():
            if not all(map(math.isfinite, values)):
                raise TrainingError(
                    f"`decide` returned {values} for `{name}`", "return finite numbers from it"
                )

    def number(self, name: str) -> float | None:
        """The first number of this name; None if there is none."""
        return next(iter(self.numbers.get(name, ())), None)

    @property
    def described(self) -> str:
        """The numbers as Markdown, each name in backticks before its values; empty without any."""
        numbers = (
            f"`{name}` {', '.join(f'{value:.4g}' for value in values)}"
            for name, values in self.numbers.items()
        )
        return "; ".join(numbers)


@dataclass(frozen=True)
class Prediction(Answer):
    """The class that the model chooses for one example."""

    label: str
    probability: float

    def cells(self) -> dict[str, str]:
        """The answer as column -> value, for a file of answers."""
        return {"predicted": self.label, "probability": f"{self.probability:.6f}"}

    def line(self, text: str) -> str:
        """The line to print for a text and this answer."""
        return f"{self.label}  {self.probability:.4f}  {text}"


@dataclass(frozen=True)
class Scored(Answer):
    """The number that a model with one output gives for one example."""

    score: float

    def cells(self) -> dict[str, str]:
        """The answer as column -> value, for a file of answers."""
        return {"score": f"{self.score:.6f}"}

    def line(self, text: str) -> str:
        """The line to print for a text and this answer."""
        return f"{self.score:.4f}  {text}"


@dataclass(frozen=True)
class Ranked(Scored):
    """The number for one candidate of a group, and the candidate's rank in its group."""

    rank: int
    """1 for the highest score; equal scores have the same rank."""

    def cells(self) -> dict[str, str]:
        """The answer as column -> value, for a file of answers."""
        return {**super().cells(), "rank": str(self.rank)}

    def line(self, text: str) -> str:
        """The line to print for a text and this answer."""
        return f"{self.rank}  {super().line(text)}"


@dataclass(frozen=True)
class Reply(Answer):
    """The text that the model writes for one example."""

    reply: str

    def cells(self) -> dict[str, str]:
        """The answer as column -> value, for a file of answers."""
        return {"reply": self.reply}

    def line(self, text: str) -> str:
        """The line to print for a text and this answer."""
        return self.reply
