"""The recipe in a run's records, readable without the modules of users' own classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from peftkit.recipe import Recipe


@dataclass(frozen=True)
class RecordedRecipe:
    """A run's recipe with every default, as JSON, so that a record can be read without the modules
    of a user's own tasks and methods.
    """

    text: str
    method: str
    """Kind of the method."""
    task: str
    """Kind of the task."""
    quantization: str = "none"
    """Of the base."""
    chat_template: str = ""
    added_tokens: tuple[str, ...] = ()
    virtual_tokens: bool = False
    """Whether the method prepends virtual tokens to the text."""

    @classmethod
    def of(cls, recipe: Recipe) -> RecordedRecipe:
        """The recorded form of a recipe."""
        return cls.from_json(json.loads(recipe.model_dump_json()))

    @classmethod
    def from_json(cls, value: Any) -> RecordedRecipe:
        """Reads the content of recipe.json.

        Raises:
            KeyError: it lacks the kind of its method or task.
            TypeError: a part of it is no object.
        """
        base, method = value.get("base") or {}, value["method"]
        return cls(
            text=json.dumps(value, ensure_ascii=False),
            method=method["kind"],
            task=value["task"]["kind"],
            quantization=base.get("quantization", "none"),
            chat_template=base.get("chat_template", ""),
            added_tokens=tuple(base.get("added_tokens", ())),
            virtual_tokens="num_virtual_tokens" in method.get("config", method),
        )

    def to_json(self) -> Any:
        """The content of recipe.json."""
        return json.loads(self.text)

    def read(self) -> Recipe:
        """The recipe as a value.

        Raises:
            RecipeError: a part of it is from a module that was not imported.
        """
        return Recipe.from_json(self.text)
