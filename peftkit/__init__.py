"""peftkit: parameter-efficient fine-tuning whose results can be trusted.

Importing it loads no torch and changes nothing; the heavy parts come with the first run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftkit.bases.base import Base
from peftkit.cli import main
from peftkit.data.source import Data, Source
from peftkit.errors import PeftkitError
from peftkit.methods.full_fine_tuning import FullFineTuning
from peftkit.methods.head_only import HeadOnly
from peftkit.methods.lora import LoRA
from peftkit.methods.method import Method
from peftkit.recipe import Recipe, Training
from peftkit.tasks.task import Task
from peftkit.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from peftkit.adapters.loading import load

__version__ = "0.1.0"

__all__ = [
    "Base",
    "Data",
    "FullFineTuning",
    "HeadOnly",
    "LoRA",
    "Method",
    "PeftkitError",
    "Recipe",
    "Source",
    "Task",
    "TextClassification",
    "Training",
    "load",
    "main",
]


def __getattr__(name: str) -> Any:
    if name == "load":  # it needs torch
        from peftkit.adapters.loading import load

        return load
    raise AttributeError(f"module `peftkit` has no attribute `{name}`")
