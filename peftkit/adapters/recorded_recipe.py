"""The recipe in a run's records, readable without importing the user's own classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from peftkit.recipe import Recipe


@dataclass(frozen=True)
class RecordedRecipe:
    """A run's recipe with all defaults, as JSON; reading it imports none of the user's classes."""

    text: str
    method: str
    """Name of the method; `module:Class` for a method that the user wrote."""
    task: str
    """Name of the task; `module:Class` for a task that the user wrote."""
    quantization: str = "none"
    """Quantization of the base."""
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
            KeyError: the kind of the method or the task is missing.
            TypeError: a part is no JSON object.
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
        """The recipe as a JSON object, the content of recipe.json."""
        return json.loads(self.text)

    def read(self) -> Recipe:
        """Makes a `Recipe` from the recorded JSON.

        Raises:
            RecipeError: the recipe's method or task is a user's class that is not imported.
        """
        return Recipe.from_json(self.text)
