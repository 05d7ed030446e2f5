"""The contract of a task.

A task turns rows into ragged examples, says which outputs of the model are read, and judges
them. It never pads, batches, moves tensors to a device or touches a model's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from peftkit.data.source import Source
from peftkit.parts import OpenPart

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from peftkit.data.encoded import Encoded, Examples, Head
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits

    Outputs = npt.NDArray[np.float32]


Reads = Literal["first", "last", "labelled", "all"]


@dataclass(frozen=True)
class Prediction:
    """What the model says of one example."""

    label: str
    probability: float


@dataclass(frozen=True)
class Mistake:
    """A wrong answer, worst first when the model was sure of it."""

    row: int
    text: str
    expected: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Matrix:
    """Counts of expected (rows) against predicted (columns), drawn by the receipt."""

    title: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ScoreTable:
    """A table the receipt prints as it is; numbers are formatted there."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]


@dataclass(frozen=True)
class Score:
    """A model judged on one split."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap interval over rows, of the metrics that have one."""
    tables: tuple[ScoreTable, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    mistakes: tuple[Mistake, ...] = ()


class Task(OpenPart):
    """A task of a recipe. Subclass it anywhere; its class is recorded as `module:Class`."""

    task_type: ClassVar[str]
    """PEFT's name of the kind of head, such as `SEQ_CLS`; by it methods say what they support."""
    reads: ClassVar[Reads]
    """Positions whose outputs the loss and the metrics need."""
    scores: ClassVar[tuple[str, ...]]
    """Names of the metrics, higher is better. The first one chooses the best weights unless the
    recipe names another, or `loss`."""

    @property
    def source(self) -> Source:
        """Where the rows come from."""
        raise NotImplementedError

    @property
    def columns(self) -> Mapping[str, str]:
        """The task's name of a column -> the file's."""
        raise NotImplementedError

    def read_row(self, values: Mapping[str, Any], table: Table) -> dict[str, Any] | str:
        """A row's values by the task's names; or, as a string, what is malformed in it."""
        raise NotImplementedError

    def key(self, row: Row) -> str:
        """Equal for rows that ask the same thing: for duplicates, conflicts and leaks."""
        raise NotImplementedError

    def stratum(self, row: Row) -> str:
        """What is spread evenly over the splits, and what rows of one key must agree on."""
        raise NotImplementedError

    def check_splits(self, splits: Splits) -> None:
        """Raises DataError if the task cannot be learned or scored on these splits."""

    def encode(self, splits: Splits, tokenizer: Any) -> Encoded:
        """All splits as token ids and targets. Raises DataError if nothing is supervised."""
        raise NotImplementedError

    def encode_inputs(self, rows: Sequence[Row], tokenizer: Any) -> Examples:
        """Rows without answers, for prediction; targets are `IGNORE_INDEX`."""
        raise NotImplementedError

    def show(self, example: int, examples: Examples, head: Head, tokenizer: Any) -> str:
        """One encoded example for a person: its tokens, and what of it is supervised."""
        raise NotImplementedError

    def loss(
        self,
        outputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        label_smoothing: float,
    ) -> torch.Tensor:
        """Weighted sum of the losses; divided by `count` over the whole optimizer step.

        Args:
            outputs: (targets, classes or vocabulary), logits at the positions that are read.
            targets: (targets,), `IGNORE_INDEX` where nothing is supervised.
            weights: (targets,).
            label_smoothing: share of the target's mass that is spread over all classes.
        """
        from peftkit.losses import cross_entropy_sum

        return cross_entropy_sum(outputs, targets, weights, label_smoothing)

    def count(self, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """What the sum of losses is divided by: the weight of the supervised targets."""
        from peftkit.losses import supervised_weight

        return supervised_weight(targets, weights)

    def metrics(self, outputs: Outputs, examples: Examples, head: Head) -> Score:
        """Judges the outputs, (targets, classes) in the order of the examples."""
        raise NotImplementedError

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        """Scores on the test split of guesses that need no training, by name."""
        return {}

    def predict(self, outputs: Outputs, head: Head) -> list[Prediction]:
        """An answer for each example."""
        raise NotImplementedError
