"""The contract of a task.

A task turns rows into ragged examples, says which outputs of the model are read, and judges
them. It never pads, batches, moves tensors to a device or touches a model's weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from peftkit.data.source import Source
from peftkit.errors import RecipeError
from peftkit.metrics.metric import Metric
from peftkit.parts.part import OpenPart
from peftkit.tasks.answers import Answer, Decision
from peftkit.tasks.offers import Offer
from peftkit.tasks.score import Score
from peftkit.tasks.writing import Writing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from peftkit.bases.opened import OpenedBase
    from peftkit.data.encoded import Encoded, Examples
    from peftkit.data.head import Head
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits
    from peftkit.tasks.losses import Loss, LossSettings

    Outputs = npt.NDArray[np.float32]

LOWER_IS_BETTER = ("loss", "perplexity")
"""Names of scores that are better where they are lower."""


@dataclass(frozen=True)
class Piece:
    """A part of an example as a person reads it."""

    text: str
    supervised: bool = False


class Task(OpenPart):
    """A task of a recipe. Subclass it anywhere; its class is recorded as `module:Class`."""

    renamed_hooks: ClassVar[Mapping[str, str]] = {
        "reads": "`Examples.read_at`, which `encode` sets (`one_output` for one of each example)",
        "keep": "`reduce_outputs`",
        "count": "`Loss.count`, of what `loss` returns",
        "predict": "`answers(kept, examples, head, decision)`",
        "score_answers": "`writing`, whose scores `metric` gives as values",
        "comparable": "`Score.parts`, which `metrics` gives",
    }
    task_type: ClassVar[str]
    """PEFT's name of the kind of head, such as `SEQ_CLS`; by it methods say what they support."""
    one_output: ClassVar[bool] = False
    """Whether each example has one output, which classifiers on decoders find by the id of the
    padding token."""
    goes_on: ClassVar[bool] = False
    """Whether the trained model goes on with a text, so that its loss on general text can be
    taken."""
    scores: ClassVar[tuple[str, ...]]
    """Names of the metrics; `metric` says which way each is better. The first one chooses the best
    weights unless the recipe names another, or `loss`."""
    offer: ClassVar[Offer | None] = None
    """By what columns `peftkit new` recognizes the task's rows; None not to be offered."""
    decides: ClassVar[bool] = False
    """Whether answers depend on what `decide` finds on the validation split."""

    @property
    def expected_head(self) -> Head:
        """The head as far as it is known before rows are read."""
        from peftkit.data.head import Head

        return Head("", self.task_type)

    def metric(self, name: str) -> Metric:
        """One of the metrics, or of the scores beside them, by its name."""
        return Metric(name, higher_is_better=name not in LOWER_IS_BETTER)

    @property
    def writing(self) -> Writing | None:
        """How written texts are judged; None for tasks that do not write."""
        return None

    @property
    def known_scores(self) -> tuple[str, ...]:
        """Names of everything that `training.metric` can choose the best weights by."""
        written = self.writing.scores if self.writing else ()
        return tuple(dict.fromkeys((*self.scores, *written, "loss")))

    @property
    def command(self) -> Literal["predict", "chat"]:
        """The command of `peftkit` by which a person asks the trained model."""
        return "predict"

    @property
    def source(self) -> Source:
        """Where the rows come from."""
        raise NotImplementedError

    @property
    def columns(self) -> Mapping[str, str]:
        """The task's name of a column -> the file's."""
        raise NotImplementedError

    def elsewhere(self, path: str, subset: str, max_rows: int | None) -> Self:
        """The same task on the rows of another file, whose columns have the same names.

        Raises:
            RecipeError: the task does not keep its source as `data`.
        """
        if "data" not in type(self).model_fields:
            raise RecipeError(f"{self.kind()} has no `data`, so that it reads no other file")
        data = self.source.with_(path=path, subset=subset, revision="", max_rows=max_rows)
        return self.with_(data=data)

    def tokens(self) -> tuple[str, ...]:
        """Tokens that the task wants in the vocabulary, such as markers; they are added to the
        base's, and trained.
        """
        return ()

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        """A row's values by the task's names; or, as a string, what is malformed in it."""
        raise NotImplementedError

    def as_input(self, value: Any) -> dict[str, object]:
        """What a person gave to be answered, a text or more, as the values of a row.

        Raises:
            RecipeError: it is nothing that the task can answer.
        """
        raise NotImplementedError

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        """As `read_row`, of a row that is to be answered, whether it has an answer or not.

        Raises:
            DataError: the table lacks a column.
        """
        raise NotImplementedError

    def key(self, row: Row) -> str:
        """Equal for rows that say the same thing: for duplicates, conflicts and leaks."""
        raise NotImplementedError

    def group(self, row: Row) -> str:
        """Equal for rows that must not be in different splits, although they are not the same;
        empty for none. The column that the recipe names as `group` goes first.
        """
        return ""

    def stratum(self, row: Row) -> str:
        """What is spread evenly over the splits, and what rows of one key must agree on."""
        raise NotImplementedError

    @property
    def stratum_column(self) -> str:
        """The column that `stratum` is the value of; empty if there is none."""
        return ""

    def columns_read(self, table: Table) -> Collection[str]:
        """The table's columns that the task reads; a note names others that hold text."""
        return set(self.columns.values())

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Raises DataError if the task cannot be learned from these rows, whatever the splits."""

    def check_splits(self, splits: Splits) -> None:
        """Raises DataError if the task cannot be learned or scored on these splits."""

    def remarks(self, splits: Splits) -> Iterable[str]:
        """What a person should know about these rows."""
        return ()

    def remembering(self, splits: Splits) -> Self:
        """The task as the trained model answers by it: with what all training rows have in common
        and a question does not bring along, such as a system prompt.
        """
        return self

    @property
    def system_prompt(self) -> str:
        """What stands before each question to the trained model; empty if there is none."""
        return ""

    def asked_with(self, system: str) -> Self:
        """The task with another system prompt.

        Raises:
            RecipeError: it has none.
        """
        raise RecipeError(f"{self.kind()} has no system prompt", "leave `--system` out")

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        """All splits as token ids and targets. Raises DataError if nothing is supervised."""
        raise NotImplementedError

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        """Rows without answers, for prediction; classes are `IGNORE_INDEX`."""
        raise NotImplementedError

    def show(
        self, example: int, examples: Examples, head: Head, tokenizer: Any
    ) -> tuple[Piece, ...]:
        """One encoded example for a person: its tokens, and what of it is supervised."""
        raise NotImplementedError

    def loss(self, training: LossSettings | None = None) -> Loss:
        """What training minimizes, with what the recipe says of it; without, as it is for
        scoring.
        """
        from peftkit.tasks.losses import CrossEntropy

        return CrossEntropy(training.label_smoothing if training else 0.0)

    def reduce_outputs(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What `metrics`, `decide` and `answers` need of a batch's outputs, (outputs, ...): all of
        it, unless that is too much to hold for a whole split.

        Args:
            outputs: (outputs, classes or vocabulary), float32.
            targets: (outputs, ...).
        """
        return outputs

    def decide(self, kept: Outputs, examples: Examples, head: Head) -> Decision:
        """What answers depend on besides the outputs, such as thresholds: fitted once, on the
        validation split with the best weights, and used for the test split and for answers.
        """
        return Decision()

    def metrics(self, kept: Outputs, examples: Examples, head: Head, decision: Decision) -> Score:
        """Judges what was kept of the outputs, (outputs, ...) in the order of the examples."""
        raise NotImplementedError

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        """Scores on the test split of guesses that need no training, by name."""
        return {}

    def prompt_code(self) -> str:
        """For the model card: Python lines that make `prompt`, what the model is given for one
        input, with a `tokenizer`; not asked of tasks that do not write.
        """
        raise NotImplementedError

    def answers(
        self, kept: Outputs, examples: Examples, head: Head, decision: Decision
    ) -> Sequence[Answer]:
        """One for each row of the examples; not asked of tasks that write."""
        raise NotImplementedError
