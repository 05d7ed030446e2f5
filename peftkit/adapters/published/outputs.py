"""Decides what the outputs of another program's classifier mean: classes, one number, or neither.

A classifier with one output (a reward model, a reranker, a regression) answers with this number.
peftkit applies an activation to it only if the base's config.json has one of these fields:

    `activation_fn` (older: `sbert_ce_default_activation_function`): Identity or Sigmoid, as in
        sentence-transformers' CrossEncoder
    `problem_type` is `multi_label_classification`: a sigmoid, as in transformers' pipeline

Without such a field, CrossEncoder and the pipeline apply a sigmoid, and peftkit does not. A sigmoid
keeps the order of texts, but changes the number that training compared.

For several outputs, `problem_type` says whether they are classes that exclude each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from peftkit.adapters.published.unsupported import _NoTask
from peftkit.data.encoded import Examples
from peftkit.data.head import Head
from peftkit.data.rows import Row, Table
from peftkit.data.source import Data
from peftkit.errors import RecipeError
from peftkit.tasks.answers import Answer, Decision, Scored
from peftkit.tasks.task import Task
from peftkit.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from peftkit.bases.opened import OpenedBase
    from peftkit.tasks.task import Outputs

PAIR = "text_pair"
"""Key of the second text in an input, and name of the text's column in a file. Adapters of other
programs record no column names."""
Activation = Literal["identity", "sigmoid"]
ACTIVATIONS: dict[str, Activation] = {"Identity": "identity", "Sigmoid": "sigmoid"}
"""Name of a torch class -> peftkit's name of the activation."""
NO_CLASSES = {
    "multi_label_classification": "several of its {count} classes may hold for one text",
    "regression": "its {count} outputs are numbers, not classes",
}
"""Value of `problem_type` -> why several outputs are not exclusive classes."""


class _SingleOutput(TextClassification):
    """Task that answers a text, or a pair such as question and passage, with one number."""

    activation: Activation = "identity"
    """Function applied to the model's output."""

    def as_input(self, value: Any) -> dict[str, object]:
        paired = isinstance(value, Mapping) and bool(value.get(PAIR))
        return TextClassification.as_input(self._paired() if paired else self, value)

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        task = self._paired() if PAIR in table.columns else self
        return TextClassification.read_input(task, values, table)

    def encode_inputs(self, rows: Sequence[Row], base: OpenedBase, head: Head) -> Examples:
        """Encodes the inputs; raises RecipeError if only some of them have a second text."""
        pairs = sum(PAIR in row.values for row in rows)
        if 0 < pairs < len(rows):
            raise RecipeError(
                f"{pairs} of {len(rows)} inputs have a `{PAIR}`",
                f"give a `{PAIR}` to every input, or to none",
            )
        task = self._paired() if pairs else self
        return TextClassification.encode_inputs(task, rows, base, head)

    def _paired(self) -> Self:
        return self.with_(data=self.data.with_(text_pair=PAIR))

    def answers(
        self, kept: Outputs, examples: Examples, head: Head, decision: Decision
    ) -> Sequence[Answer]:
        import numpy as np

        numbers = kept[:, 0].astype(np.float64)
        if self.activation == "sigmoid":
            numbers = 0.5 * (1 + np.tanh(0.5 * numbers))  # a sigmoid that does not overflow
        return [Scored(float(number)) for number in numbers]


def task_of_outputs(task: Task, head: Head, config: Any) -> Task:
    """The task that fits the meaning of a classifier's outputs.

    Args:
        task: the task to return if the outputs are exclusive classes.
        config: the base's configuration.
    """
    if head.output != "pooled" or not task.one_output:
        return task
    problem, count = getattr(config, "problem_type", None), len(head.labels)
    data = Data(path=task.source.path)
    if count > 1:
        if problem not in NO_CLASSES:
            return task
        why = NO_CLASSES[problem].format(count=count)
        return _NoTask(reason=f"its base's config.json says `problem_type: {problem}`, so {why}")
    if activation := _named_activation(config):
        last = activation.rpartition(".")[2]
        if last not in ACTIVATIONS:
            return _NoTask(
                reason=f"its base's config.json asks for `{activation[:80]}`, and peftkit has the "
                "activations Identity and Sigmoid"
            )
        return _SingleOutput(data=data, activation=ACTIVATIONS[last])
    sigmoid = problem == "multi_label_classification"
    return _SingleOutput(data=data, activation="sigmoid" if sigmoid else "identity")


def answers_note(task: Task) -> tuple[bool, str]:
    """Whether a task can answer, and a note on its answers (empty if they are classes)."""
    if isinstance(task, _SingleOutput):
        how = " through a sigmoid, as its base's config.json says"
        how = how if task.activation == "sigmoid" else ", unchanged"
        return True, f"it has one output: it answers with that number (`score`){how}"
    if isinstance(task, _NoTask):
        return False, f"no answers to texts: {task.reason}"
    return True, ""


def _named_activation(config: Any) -> str:
    """The activation that sentence-transformers wrote into a config.json; empty if none."""
    settings = getattr(config, "sentence_transformers", None)
    name = settings.get("activation_fn") if isinstance(settings, dict) else None
    return str(name or getattr(config, "sbert_ce_default_activation_function", None) or "")
