"""peftkit: parameter-efficient fine-tuning whose results can be trusted.

Importing it loads no torch and changes nothing; the heavy parts come with the first run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    from peftkit.adapters.loading import LoadedAdapter

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


def load(path: str, base: str = "") -> LoadedAdapter:
    """Loads the adapter of a run folder, or an adapter folder itself, with everything checked.

    Args:
        base: where the base is, if not where the recipe says.

    Raises:
        AdapterError: a file was changed, the base is another one, or the probes differ.
    """
    from peftkit.adapters.loading import load as load_adapter  # it needs torch

    return load_adapter(path, base)
