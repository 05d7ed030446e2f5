"""The outputs that a task needs from a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from peftkit.parts.records import IF_SET

Output = Literal["pooled", "tokens", "spans", "vocabulary"]
"""`pooled`: one output for each example. The others have one for each token: class logits
(`tokens`), a start and an end logit (`spans`), or logits of the whole vocabulary (`vocabulary`),
which are computed in pieces."""


OF_AUTO_CLASS: dict[str, Output] = {
    "AutoModelForCausalLM": "vocabulary",
    "AutoModelForQuestionAnswering": "spans",
    "AutoModelForSeq2SeqLM": "vocabulary",
    "AutoModelForTokenClassification": "tokens",
}


PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForTokenClassification": "token-classification",
}


@dataclass(frozen=True)
class Head:
    """The outputs that a task needs from a model; loading needs nothing else of the task."""

    auto_class: str
    """Name of the transformers class that loads the model, such as `AutoModelForCausalLM`."""
    task_type: str
    """PEFT's name of the task, such as `SEQ_CLS` or `CAUSAL_LM`."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the logits; empty if the output is the vocabulary."""
    trained: bool = True
    """Whether all methods train all weights of the modules above the trunk."""
    pooling: str = ""
    """How peftkit's own classifier pools the last hidden states, `mean`, `cls` or `markers`; empty
    for the architecture's head."""
    generation: dict[str, Any] = field(default_factory=dict)
    """Settings for generating text, such as stop tokens, under the names of transformers'
    `GenerationConfig`; empty if the task generates no text."""
    markers: tuple[str, ...] = field(default=(), metadata=IF_SET)
    """Tokens whose hidden states the pooling `markers` joins; `Examples.read_at` has their
    places."""
    size: int | None = field(default=None, metadata=IF_SET)
    """Number of outputs, such as 1 for regression; None if it is the number of labels."""
    problem_type: str | None = field(default=None, metadata=IF_SET)
    """Transformers' type of outputs that are not exclusive classes: `regression` or
    `multi_label_classification`. If it is None, pipelines apply a sigmoid to a single output and a
    softmax to several."""

    @property
    def num_outputs(self) -> int:
        """Number of outputs for each example or token; 0 for logits of the vocabulary."""
        return len(self.labels) if self.size is None else self.size

    @property
    def output(self) -> Output:
        """The kind of output that is read from the model."""
        return OF_AUTO_CLASS.get(self.auto_class, "pooled")

    @property
    def goes_on(self) -> bool:
        """Whether the model continues a text, as a causal language model does."""
        return self.auto_class == LANGUAGE_MODEL.auto_class

    @property
    def pipeline_tag(self) -> str:
        """The Hub's name of the task, such as `text-classification`."""
        return PIPELINES.get(self.auto_class, "text-classification")


LANGUAGE_MODEL = Head("AutoModelForCausalLM", "CAUSAL_LM", trained=False)
"""The head of a base that continues a text."""
