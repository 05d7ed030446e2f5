"""The recipe: one frozen value that says everything about a run."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, SerializeAsAny, model_validator
from pydantic.json_schema import models_json_schema

from peftkit.bases.base import Base
from peftkit.errors import did_you_mean, quoted
from peftkit.methods.method import Method
from peftkit.parts.part import OpenPart, Part
from peftkit.parts.problems import parse
from peftkit.tasks.task import Task

OF_NEW_HEADS = 0.01
"""Learning rate of a head with random weights, unless the recipe sets one (docs/log.md,
2026-11-30)."""


class Training(Part):
    """How the injected parameters are trained."""

    learning_rate: float = Field(default=1e-3, gt=0, le=1e6)
    """Highest learning rate of the schedule. LoRA needs about ten times the rate of full
    fine-tuning."""
    head_learning_rate: float | None = Field(default=None, gt=0, le=1e6)
    """Highest learning rate of the task's head, which starts from random weights and so needs a
    higher one than pretrained weights; if not given, 0.01, or `learning_rate` if that is higher."""
    num_epochs: int = Field(default=3, ge=1)
    """Passes over the training rows; `max_steps` or early stopping may end the run earlier."""
    max_steps: int | None = Field(default=None, ge=1)
    """Maximum number of optimizer steps, at which the schedule ends; no limit if not given."""
    batch_size: int = Field(default=32, ge=1)
    """Examples per optimizer step, over all devices."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Maximum number of tokens per forward pass and device, padding included; sets the gradient
    accumulation. On a CPU, packed batches hold at most 512 to 1,024 tokens (fewer in deeper
    models), because larger ones are no faster. The limit changes memory and speed; it changes
    results only through dropout masks."""
    layout: Literal["auto", "padded"] = "auto"
    """`padded` pads the examples of a batch to one length. `auto` packs them one after another if
    method and architecture allow it and the self-check finds equal results; if not, it pads. First
    tokens that all packed examples share, such as a system prompt, are computed once."""
    gradient_checkpointing: bool = False
    """Whether to recompute activations in the backward pass instead of storing them. This needs far
    less memory and about a third more time (arXiv:1604.06174)."""
    optimizer: Literal["adamw", "sgd", "adamw_8bit", "paged_adamw_8bit", "lion"] = "adamw"
    """`adamw` (arXiv:1711.05101). `adamw_8bit` stores its state in 8 bits (arXiv:2110.02861);
    `paged_adamw_8bit` also moves it to CPU memory when the GPU is full. `sgd` has momentum 0.9.
    `lion` (arXiv:2302.06675) needs a third to a tenth of AdamW's learning rate."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of matrices, decoupled except in SGD. Vectors (biases, norms, IA3) get none."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """After warm-up, the learning rate falls to zero linearly or along a cosine, or is constant."""
    warmup_ratio: float = Field(default=0.06, ge=0, lt=1)
    """Share of the optimizer steps used for warm-up, in which the learning rate rises from zero."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Maximum L2 norm of all gradients together; larger gradients are scaled down. 0 for no
    limit."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target's probability that is spread over all classes (arXiv:1512.00567)."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout probability in the base model; if not given, the one in the model's configuration."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Number of optimizer steps between two validations; if not given, one validation per epoch."""
    metric: str = ""
    """Validation metric that chooses the best weights: `loss` or a metric of the task; if empty,
    the task's default metric."""
    early_stopping_patience: int = Field(default=3, ge=0)
    """Number of validations without a better score after which training stops; 0 to never
    stop early."""
    threads: int | None = Field(default=None, ge=1)
    """Number of CPU threads; if not given, as many as the process may use. The number changes the
    last bits of results, so every run records it."""
    report_to: Literal["none", "tensorboard", "wandb"] = "none"
    """Experiment tracker to which a run sends losses and scores."""

    @property
    def head_rate(self) -> float:
        """Highest learning rate of the head."""
        return self.head_learning_rate or max(self.learning_rate, OF_NEW_HEADS)


class Recipe(Part):
    """Everything that decides the outcome of a run; recipe.json holds this value."""

    base: Base
    """The pretrained model."""
    task: SerializeAsAny[Task]
    """What the model learns, and from which rows."""
    method: SerializeAsAny[Method]
    """Which parameters are trained."""
    training: Training = Training()
    """How the run trains: optimizer, schedule, batches and validations."""
    start_from: str = ""
    """Adapter of the same method and base from which training continues: a run folder, an adapter
    folder or a Hub id (`org/name`, `org/name@revision`); empty to train a new adapter."""
    name: str = Field(default="", max_length=100)
    """Name of the run, whose folder is `runs/<name>`; empty for the recipe's file name."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Random seed for initial weights, order of the training rows and dropout."""
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    """Random seed that decides which rows are in which split."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.name and not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(
                f"`name` is {self.name!r}, which is not a valid folder name; "
                "use letters, digits, `-`, `_` and `.`"
            )
        metric, known = self.training.metric, self.task.known_scores
        if metric not in ("", *known, *self.task.renamed_scores):
            raise ValueError(
                f"`training.metric` is `{metric}`, which is none of {quoted(known)}; "
                f"{did_you_mean(metric, known)}".rstrip("; ")
            )
        if self.training.label_smoothing and not self.task.smooths_labels:
            raise ValueError(
                f"`training.label_smoothing` is {self.training.label_smoothing:g}, and "
                f"{self.task.kind()} has no classes to smooth; leave it out"
            )
        if (writing := self.task.writing) and (
            reason := writing.refuses(self.task.metric(self.metric))
        ):
            raise ValueError(reason)
        if reason := self.method.refuses(self.task.expected_head, self.base):
            raise ValueError(reason)
        if self.start_from and (reason := self.method.refuses_start()):
            raise ValueError(f"`start_from`: {reason}")
        checkpointing = self.training.gradient_checkpointing
        if checkpointing and (reason := self.method.refuses_checkpointing()):
            raise ValueError(f"`training.gradient_checkpointing`: {reason}")
        return self

    @property
    def metric(self) -> str:
        """The validation metric that chooses the best weights."""
        name = self.training.metric or self.task.known_scores[0]
        return self.task.renamed_scores.get(name, name)

    def to_json(self) -> str:
        """Returns the text of recipe.json, from which `Recipe.from_json` makes an equal recipe."""
        return self.model_dump_json(indent=2) + "\n"

    @staticmethod
    def from_json(text: str, what: str = "recipe.json") -> Recipe:
        """Makes a recipe from the text of a recipe.json.

        Raises:
            RecipeError: the text is not a valid recipe; the message lists every problem with its
                field, such as `training.metric`.
        """
        recipe: Recipe = parse(Recipe, text, what)
        return recipe


def recipe_schema() -> dict[str, object]:
    """The JSON Schema of recipe.json, including every registered task and method."""
    families: tuple[type[OpenPart], ...] = (Task, Method)
    models: list[type[Part]] = [Recipe]
    models += [part for family in families for part in family.kinds.values()]
    found, schema = models_json_schema([(model, "validation") for model in models])
    references = {model: str(reference["$ref"]) for (model, _), reference in found.items()}
    definitions = schema["$defs"]
    for family in families:
        for kind, part in family.kinds.items():
            definition = definitions[references[part].removeprefix("#/$defs/")]
            definition["properties"] = {"kind": {"const": kind}, **definition.get("properties", {})}
            definition["required"] = ["kind", *definition.get("required", [])]
        definitions[family.__name__] = {
            "description": family.__doc__,
            "oneOf": [{"$ref": references[part]} for part in family.kinds.values()],
        }
    recipe = definitions.pop("Recipe")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **recipe,
        "$defs": definitions,
    }
