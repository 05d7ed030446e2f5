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


class Training(Part):
    """How the injected parameters are trained."""

    learning_rate: float = Field(default=1e-3, gt=0, le=1e6)
    """Highest learning rate of the schedule. For LoRA about ten times that of full fine-tuning."""
    head_learning_rate: float | None = Field(default=None, gt=0, le=1e6)
    """Highest learning rate of the task's head, which starts from random weights; if not given,
    `learning_rate`."""
    num_epochs: int = Field(default=3, ge=1)
    """Passes over the training rows; `max_steps` or early stopping may end the run earlier."""
    max_steps: int | None = Field(default=None, ge=1)
    """Maximum number of optimizer steps, if given; the schedule is fitted to it."""
    batch_size: int = Field(default=32, ge=1)
    """Examples per optimizer step, over all devices."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Most tokens, padding included, per forward pass and device; accumulation is derived from it.
    Packed batches on a CPU hold at most 1,024 (512 or 768 for deep models), as more is no faster.
    Changes memory and speed; changes results only through other dropout masks."""
    layout: Literal["auto", "padded"] = "auto"
    """`padded` pads the examples of a batch. `auto` packs them one after another if method and
    architecture allow it and the self-check finds no difference, else pads. A beginning that all
    examples of a packed row share, such as a system prompt, is computed once."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them. Needs far less memory and
    about a third more time (arXiv:1604.06174)."""
    optimizer: Literal["adamw", "sgd", "adamw_8bit", "paged_adamw_8bit", "lion"] = "adamw"
    """AdamW (arXiv:1711.05101); AdamW with 8-bit state (arXiv:2110.02861), which `paged_` moves to
    CPU memory when the GPU is full; SGD with momentum 0.9; Lion (arXiv:2302.06675), which needs a
    third to a tenth of AdamW's learning rate."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decay of matrices, decoupled except for SGD; vectors (biases, norms, IA3) do not decay."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """The learning rate after warm-up: linear to zero, along a cosine to zero, or constant."""
    warmup_ratio: float = Field(default=0.06, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from zero."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients with a larger L2 norm are scaled down to this norm; 0 for no limit."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target's probability that is spread over all classes (arXiv:1512.00567)."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout in the base model; if not given, as in its configuration."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Optimizer steps between scores on the validation split; once per epoch if not given."""
    metric: str = ""
    """Validation metric that chooses the best weights: one of the task's or `loss`; empty for the
    task's default."""
    early_stopping_patience: int = Field(default=3, ge=0)
    """Stop after this many validations without a better score; 0 to never stop early."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; if not given, as many as the process may use. The last bits of results depend on
    the number, so a run records it."""
    report_to: Literal["none", "tensorboard", "wandb"] = "none"
    """Experiment tracker that also receives losses and scores."""

    @property
    def head_rate(self) -> float:
        """Highest learning rate of the head."""
        return self.head_learning_rate or self.learning_rate


class Recipe(Part):
    """Everything that decides the outcome of a run; recipe.json holds this value."""

    base: Base
    """The pretrained model."""
    task: SerializeAsAny[Task]
    """What the model learns, and from which rows."""
    method: SerializeAsAny[Method]
    """Which parameters are trained."""
    training: Training = Training()
    """How these parameters are trained."""
    start_from: str = ""
    """Adapter from which training continues, of the same method and base: a run folder, an adapter
    folder or a Hub id (`org/name`, `org/name@revision`); empty to start anew."""
    name: str = Field(default="", max_length=100)
    """Name of the run, written to `runs/<name>`; empty for the name of the recipe's file."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Fixes initial weights, order of the rows and dropout."""
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    """Fixes which rows are in which split."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.name and not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(
                f"`name` is {self.name!r}, which is not a valid folder name; "
                "use letters, digits, `-`, `_` and `.`"
            )
        metric, known = self.training.metric, self.task.known_scores
        if metric not in ("", *known):
            raise ValueError(
                f"`training.metric` is `{metric}`, which is none of {quoted(known)}; "
                f"{did_you_mean(metric, known)}".rstrip("; ")
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
        return self.training.metric or self.task.scores[0]

    def to_json(self) -> str:
        """The text of recipe.json, from which `Recipe.from_json` makes an equal recipe."""
        return self.model_dump_json(indent=2) + "\n"

    @staticmethod
    def from_json(text: str, what: str = "recipe.json") -> Recipe:
        """A recipe from the text of a recipe.json.

        Raises:
            RecipeError: lists every problem in the text, each with its dotted field.
        """
        recipe: Recipe = parse(Recipe, text, what)
        return recipe


def recipe_schema() -> dict[str, object]:
    """The JSON Schema of recipe.json, including every registered task and method."""
    families: tuple[type[OpenPart], ...] = (Task, Method)
    models: list[type[Part]] = [Recipe]
    models += [part for family in families for part in family.kinds.values()]
    _, schema = models_json_schema([(model, "validation") for model in models])
    definitions = schema["$defs"]
    for family in families:
        for kind, part in family.kinds.items():
            definition = definitions[part.__name__]
            definition["properties"] = {"kind": {"const": kind}, **definition.get("properties", {})}
            definition["required"] = ["kind", *definition.get("required", [])]
        definitions[family.__name__] = {
            "description": family.__doc__,
            "oneOf": [{"$ref": f"#/$defs/{part.__name__}"} for part in family.kinds.values()],
        }
    recipe = definitions.pop("Recipe")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **recipe,
        "$defs": definitions,
    }
