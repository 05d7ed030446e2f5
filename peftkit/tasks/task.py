"""The contract of a task.

A task turns rows into ragged examples, says which of the model's outputs are read, and scores
them. It never pads, batches, moves tensors to a device or touches a model's weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from peftkit.errors import RecipeError
from peftkit.metrics.metric import Metric
from peftkit.parts.part import OpenPart
from peftkit.tasks.answers import Answer, Decision
from peftkit.tasks.input_options import PAIR, InputOption
from peftkit.tasks.offers import Offer
from peftkit.tasks.row_hooks import RowHooks
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
"""Names of scores for which lower is better."""


@dataclass(frozen=True)
class Piece:
    """A part of an example as readable text."""

    text: str
    supervised: bool = False


class Task(RowHooks, OpenPart):
    """The base class of tasks. A subclass may be in any module; records name it `module:Class`."""

    renamed_hooks: ClassVar[Mapping[str, str]] = {
        "reads": "`Examples.read_at`, which `encode` sets (`one_output` for one of each example)",
        "keep": "`reduce_outputs`",
        "count": "`Loss.count`, of what `loss` returns",
        "predict": "`answers(kept, examples, head, decision)`",
        "score_answers": "`writing`, whose scores `metric` gives as values",
        "comparable": "`Score.parts`, which `metrics` gives",
    }
    task_type: ClassVar[str]
    """PEFT's name for the kind of head, such as `SEQ_CLS`; each method lists those it supports."""
    one_output: ClassVar[bool] = False
    """Whether each example has one output. Classifiers on decoders read it at the last token that
    is not the padding token."""
    goes_on: ClassVar[bool] = False
    """Whether the trained model continues texts, so that its loss on general text can be
    measured."""
    scores: ClassVar[tuple[str, ...]]
    """Names of the metrics; `metric` returns each as a value. The first one chooses the best
    weights, unless the recipe names another one or `loss`. It may be a property."""
    renamed_scores: ClassVar[Mapping[str, str]] = {}
    """Former name of a score, which older recipes have as `training.metric` -> its name now."""
    offer: ClassVar[Offer | None] = None
    """How `peftkit new` recognizes the task's rows; None if it does not offer the task."""
    smooths_labels: ClassVar[bool] = True
    """Whether `loss` uses `training.label_smoothing`. If not, a recipe may not set it."""
    decides: ClassVar[bool] = False
    """Whether answers depend on numbers that `decide` fits on the validation split."""
    input_options: ClassVar[Mapping[str, InputOption]] = PAIR
    """The options of `peftkit predict` that give an input, by their names with underscores."""

    @property
    def expected_head(self) -> Head:
        """The head, as far as it is known before rows are read."""
        from peftkit.data.head import Head

        return Head("", self.task_type)

    def metric(self, name: str) -> Metric:
        """The metric with this name, or another score such as `loss`."""
        return Metric(name, higher_is_better=name not in LOWER_IS_BETTER)

    @property
    def writing(self) -> Writing | None:
        """How written texts are scored; None for tasks that do not write."""
        return None

    @property
    def known_scores(self) -> tuple[str, ...]:
        """All values that `training.metric` may have; the first one is the default."""
        written = self.writing.scores if self.writing else ()
        return tuple(dict.fromkeys((*self.scores, *written, "loss")))

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the `input_options` that each input needs."""
        return ("text",)

    @property
    def command(self) -> Literal["predict", "chat"]:
        """The `peftkit` command that gets answers from the trained model."""
        return "predict"

    @classmethod
    def of_published(cls, task_type: str, path: str) -> Task | None:  # noqa: ARG003
        """Makes the task for an adapter that another program saved; None if this class cannot.

        Args:
            task_type: PEFT's name of the adapter's head.
            path: text to record as the path of the training data, which is unknown.
        """
        return None

    def elsewhere(self, path: str, subset: str, max_rows: int | None) -> Self:
        """A copy of the task that reads another file with the same column names.

        Raises:
            RecipeError: the task does not keep its source as `data`.
        """
        if "data" not in type(self).model_fields:
            raise RecipeError(f"{self.kind()} has no `data`, so it cannot read another file")
        data = self.source.with_(path=path, subset=subset, revision="", max_rows=max_rows)
        return self.with_(data=data)

    def tokens(self) -> tuple[str, ...]:
        """Tokens to add to the base's vocabulary, such as markers; their embeddings are trained."""
        return ()

    def adapt_tables(self, tables: Mapping[str, Table]) -> Mapping[str, Table]:
        """Returns all tables of the source with values that `read_row` reads, if it needs to know
        more than one row, such as which separator all cells of a column have.
        """
        return tables

    def remembering(self, splits: Splits) -> Self:
        """A copy of the task for answering, which keeps what all training rows have in common, such
        as a system prompt.
        """
        return self

    def meaning_of_outputs(self, head: Head) -> str:
        """Markdown for the model card: how the model's outputs become answers. Empty if the head's
        labels say it.
        """
        return ""

    @property
    def system_prompt(self) -> str:
        """The system prompt that precedes each question to the trained model; empty if none."""
        return ""

    def asked_with(self, system: str) -> Self:
        """A copy of the task with another system prompt.

        Raises:
            RecipeError: the task has no system prompt.
        """
        raise RecipeError(f"{self.kind()} has no system prompt", "leave `--system` out")

    def encode(self, splits: Splits, base: OpenedBase) -> Encoded:
        """Encodes all splits. Raises DataError if nothing is supervised."""
        raise NotImplementedError

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        """Encodes rows without answers, for prediction; class targets are `IGNORE_INDEX`."""
        raise NotImplementedError

    def show(
        self, example: int, examples: Examples, head: Head, tokenizer: Any
    ) -> tuple[Piece, ...]:
        """One encoded example as readable pieces; each piece says whether it is supervised."""
        raise NotImplementedError

    def loss(self, training: LossSettings | None = None) -> Loss:
        """The loss that training minimizes, by the recipe's settings; without settings, the plain
        loss.
        """
        from peftkit.tasks.losses import CrossEntropy

        return CrossEntropy(training.label_smoothing if training else 0.0)

    def reduce_outputs(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Reduces a batch's outputs to what `metrics`, `decide` and `answers` need: (outputs, ...).
        By default it returns them unchanged; override it if a whole split's outputs do not fit into
        memory.

        Args:
            outputs: (outputs, classes or vocabulary), float32.
            targets: (outputs, ...).
        """
        return outputs

    def decide(self, kept: Outputs, examples: Examples, head: Head) -> Decision:
        """Fits the numbers, such as thresholds, that answers depend on besides the outputs. Called
        at each validation; the test split and later answers use the result of the best weights.
        """
        return Decision()

    def metrics(self, kept: Outputs, examples: Examples, head: Head, decision: Decision) -> Score:
        """The score of a split.

        Args:
            kept: what `reduce_outputs` returned, (outputs, ...) in the examples' order.
        """
        raise NotImplementedError

    def baselines(self, encoded: Encoded) -> dict[str, dict[str, float]]:
        """Name of a guess that needs no training -> its scores on the test split."""
        return {}

    def constant_answer(self, encoded: Encoded) -> str:
        """The answer that the baseline `majority` always gives, as text; here the label that most
        training targets have.
        """
        ((index, _),) = Counter(encoded.train.targets.tolist()).most_common(1)
        return encoded.head.labels[index]

    def prompt_code(self, head: Head) -> str:
        """Python lines for the model card that use `tokenizer` to make `prompt`, the model's input;
        called only for tasks that write.
        """
        raise NotImplementedError

    def answers(
        self, kept: Outputs, examples: Examples, head: Head, decision: Decision
    ) -> Sequence[Answer]:
        """One answer for each row of the examples; not called for tasks that write."""
        raise NotImplementedError
