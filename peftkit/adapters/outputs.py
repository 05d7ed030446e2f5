"""What the outputs of a classifier that another program trained are: classes, one number, or
something that peftkit gives no answers of.

A classifier with one output (a reward model, a reranker, a regression) answers with that number as
it is, which is what its trainers' libraries compare, unless the base's config.json says more:

    sentence-transformers' `activation_fn` (or its older `sbert_ce_default_activation_function`):
        that, Identity or Sigmoid, as its CrossEncoder does
    `problem_type` is `multi_label_classification`: a sigmoid, as transformers' pipeline does

Without such a word, the pipeline and CrossEncoder put a sigmoid over a single output, which keeps
the order of texts and loses the number that was trained; peftkit does not.

With several outputs, `problem_type` says whether they are classes of which one holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from peftkit.adapters.foreign import _NoTask
from peftkit.data.encoded import Examples, Head
from peftkit.data.rows import Row, Table
from peftkit.errors import RecipeError
from peftkit.tasks.task import Prediction, Scored, Task
from peftkit.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs

PAIR = "text_pair"
"""The second text's name, and its column's, of which another program's adapter says nothing."""
Activation = Literal["identity", "sigmoid"]
ACTIVATIONS: dict[str, Activation] = {"Identity": "identity", "Sigmoid": "sigmoid"}
"""Classes of torch -> what they compute."""
NO_CLASSES = {
    "multi_label_classification": "several of its {count} classes may hold for one text",
    "regression": "its {count} outputs are numbers, not classes",
}
"""Values of `problem_type` -> what several outputs are then."""


class _SingleOutput(TextClassification):
    """A number for each text, or pair of texts, such as a question and a passage."""

    activation: Activation = "identity"
    """What the model's output goes through."""

    def as_input(self, value: Any) -> dict[str, Any]:
        paired = isinstance(value, Mapping) and bool(value.get(PAIR))
        return TextClassification.as_input(self._paired() if paired else self, value)

    def read_input(self, values: Mapping[str, Any], table: Table) -> dict[str, Any] | str:
        task = self._paired() if PAIR in table.columns else self
        return TextClassification.read_input(task, values, table)

    def encode_inputs(self, rows: Sequence[Row], tokenizer: Any) -> Examples:
        """Raises RecipeError if some of the texts have a second one, and some have not."""
        pairs = sum(PAIR in row.values for row in rows)
        if 0 < pairs < len(rows):
            raise RecipeError(
                f"{pairs} of {len(rows)} inputs have a `{PAIR}`", "give all of them one, or none"
            )
        task = self._paired() if pairs else self
        return TextClassification.encode_inputs(task, rows, tokenizer)

    def _paired(self) -> Self:
        return self.with_(data=self.data.with_(text_pair=PAIR))

    def predict(self, outputs: Outputs, head: Head) -> Sequence[Prediction | Scored]:
        import numpy as np

        numbers = outputs[:, 0].astype(np.float64)
        if self.activation == "sigmoid":
            numbers = 0.5 * (1 + np.tanh(0.5 * numbers))  # which does not overflow
        return [Scored(float(number)) for number in numbers]


def task_of_outputs(task: Task, head: Head, config: Any) -> Task:
    """The task by which a classifier answers.

    Args:
        task: of a head with several classes of which one holds.
        config: of the base.
    """
    if head.task_type != "SEQ_CLS" or not isinstance(task, TextClassification):
        return task
    problem, count = getattr(config, "problem_type", None), len(head.labels)
    if count > 1:
        if problem not in NO_CLASSES:
            return task
        what = NO_CLASSES[problem].format(count=count)
        return _NoTask(
            reason=f"its base's config.json says `problem_type: {problem}`, so that {what}"
        )
    if named := _activation_named(config):
        last = named.rpartition(".")[2]
        if last not in ACTIVATIONS:
            return _NoTask(
                reason=f"its base's config.json says that its output goes through `{named[:80]}`, "
                "and peftkit computes Identity and Sigmoid"
            )
        return _SingleOutput(data=task.data, activation=ACTIVATIONS[last])
    sigmoid = problem == "multi_label_classification"
    return _SingleOutput(data=task.data, activation="sigmoid" if sigmoid else "identity")


def told(task: Task) -> tuple[bool, str]:
    """Whether there are answers, and what they are, where they are no classes; empty where they
    are.
    """
    if isinstance(task, _SingleOutput):
        through = " through a sigmoid, as its base's config.json says"
        through = through if task.activation == "sigmoid" else ", as it is"
        return True, f"it has one output: it answers with that number (`score`){through}"
    if isinstance(task, _NoTask):
        return False, f"no answers to texts: {task.reason}"
    return True, ""


def _activation_named(config: Any) -> str:
    """What sentence-transformers has written into a config.json; empty if it has not."""
    written = getattr(config, "sentence_transformers", None)
    named = written.get("activation_fn") if isinstance(written, dict) else None
    return str(named or getattr(config, "sbert_ce_default_activation_function", None) or "")
