"""peftkit: parameter-efficient fine-tuning whose results can be trusted.

Importing peftkit loads no torch and changes nothing; torch is imported by the first run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftkit.bases.base import Base
from peftkit.bases.packages import check_needed
from peftkit.cli.main import main
from peftkit.data.source import Data, Source
from peftkit.errors import PeftkitError
from peftkit.experiments.comparing.grid import Budget
from peftkit.methods.adalora import AdaLoRA
from peftkit.methods.bit_fit import BitFit
from peftkit.methods.bottleneck_adapter import BottleneckAdapter
from peftkit.methods.dora import DoRA
from peftkit.methods.eva import EVA
from peftkit.methods.full_fine_tuning import FullFineTuning
from peftkit.methods.head_only import HeadOnly
from peftkit.methods.ia3 import IA3
from peftkit.methods.layer_norm_tuning import LayerNormTuning
from peftkit.methods.lora import LoRA
from peftkit.methods.method import Method
from peftkit.methods.olora import OLoRA
from peftkit.methods.p_tuning import PTuning
from peftkit.methods.peft_method import PeftMethod
from peftkit.methods.pissa import PiSSA
from peftkit.methods.prefix_tuning import PrefixTuning
from peftkit.methods.prompt_tuning import PromptTuning
from peftkit.methods.top_layers import TopLayers
from peftkit.recipe import Recipe, Training
from peftkit.tasks.chat import Chat
from peftkit.tasks.generation import Generation
from peftkit.tasks.generative_answering import Answered, GenerativeAnswering
from peftkit.tasks.multi_label_classification import LabelSets, MultiLabelClassification
from peftkit.tasks.question_answering import QuestionAnswering
from peftkit.tasks.reading.conversations import Conversations
from peftkit.tasks.reading.marked_texts import MarkedTexts
from peftkit.tasks.reading.question_rows import Questions
from peftkit.tasks.relation_extraction import RelationExtraction
from peftkit.tasks.summarization import Documents, Summarization
from peftkit.tasks.task import Task
from peftkit.tasks.text_classification import TextClassification
from peftkit.tasks.text_pair_scoring import ScoredPairs, TextPairScoring
from peftkit.tasks.text_regression import Numbers, TextRegression
from peftkit.tasks.token_classification import TaggedWords, TokenClassification
from peftkit.tasks.translation import Pairs, Translation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from peftkit.adapters.loading import LoadedAdapter
    from peftkit.experiments.comparing.compare import Compared
    from peftkit.experiments.folding.cross_validate import CrossValidated

__version__ = "0.1.0"

__all__ = [
    "EVA",
    "IA3",
    "AdaLoRA",
    "Answered",
    "Base",
    "BitFit",
    "BottleneckAdapter",
    "Budget",
    "Chat",
    "Conversations",
    "Data",
    "DoRA",
    "Documents",
    "FullFineTuning",
    "Generation",
    "GenerativeAnswering",
    "HeadOnly",
    "LabelSets",
    "LayerNormTuning",
    "LoRA",
    "MarkedTexts",
    "Method",
    "MultiLabelClassification",
    "Numbers",
    "OLoRA",
    "PTuning",
    "Pairs",
    "PeftMethod",
    "PeftkitError",
    "PiSSA",
    "PrefixTuning",
    "PromptTuning",
    "QuestionAnswering",
    "Questions",
    "Recipe",
    "RelationExtraction",
    "ScoredPairs",
    "Source",
    "Summarization",
    "TaggedWords",
    "Task",
    "TextClassification",
    "TextPairScoring",
    "TextRegression",
    "TokenClassification",
    "TopLayers",
    "Training",
    "Translation",
    "compare",
    "cross_validate",
    "load",
    "main",
]


def compare(
    recipes: Sequence[Recipe], output_dir: str = "", budget: Budget | None = None
) -> Compared:
    """Compares the recipes' methods and full fine-tuning, or resumes an interrupted comparison.

    Each method runs with several seeds at its best learning rate.

    Args:
        recipes: recipes that differ only in the method.
        output_dir: a new folder, or the folder of a comparison to resume; `runs/compare` if empty.
        budget: how many learning rates are tried and how many seeds are run.

    Raises:
        PeftkitError: a recipe, its data or its base is wrong.
    """
    check_needed()
    from peftkit.experiments.comparing.compare import compare as compare_recipes  # it needs torch

    return compare_recipes(recipes, output_dir, budget)


def cross_validate(recipe: Recipe, output_dir: str = "") -> CrossValidated:
    """Makes a run for each fold of the recipe's rows, or resumes an interrupted cross-validation.

    Args:
        recipe: a recipe whose data has `folds`, such as `Data(folds=5)`.
        output_dir: a new folder, or the folder of the same cross-validation; `runs/<name>` if
            empty.

    Raises:
        PeftkitError: the recipe, its data or its base is wrong, or a run failed.
    """
    check_needed()
    from peftkit.experiments.folding.cross_validate import (  # it needs torch
        cross_validate as cross_validate_recipe,
    )

    return cross_validate_recipe(recipe, output_dir)


def load(
    path: str, base: str = "", adapter_settings: Mapping[str, object] | None = None
) -> LoadedAdapter:
    """Loads and checks the adapter in a run folder or an adapter folder.

    Args:
        base: path of the base; empty for the path in the recipe.
        adapter_settings: values of fields, such as `lora_alpha`, that are missing in another
            program's adapter_config.json.

    Raises:
        AdapterError: a file was changed, the base is not the one used in training, or the adapter
            answers the saved probes differently.
        RecipeError: the adapter's type has no such setting, or its file has another value.
    """
    check_needed()
    from peftkit.bases.quiet_libraries import quietly

    with quietly():
        from peftkit.adapters.loading import load as load_adapter  # it needs torch

        return load_adapter(path, base, settings=adapter_settings)
