"""Scores an adapter on its base at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from peftkit.adapters.loading import OTHER_SEED, OpenedAdapter, load_proven
from peftkit.bases.loaded_model import LoadedModel
from peftkit.bases.loading import load_weights
from peftkit.data.encoded import Examples, Prompt
from peftkit.deploy.rewinding.material import Material
from peftkit.evaluation.retention import text_loss
from peftkit.evaluation.scoring import evaluate
from peftkit.evaluation.writing import with_text_scores
from peftkit.methods.rewinding import Rewinding
from peftkit.tasks.score import Score
from peftkit.training.forward.engine import Engine


@dataclass(frozen=True)
class MovedModel:
    """A loaded adapter whose scale can be set, and the data on which it is scored."""

    adapter: OpenedAdapter
    material: Material
    model: nn.Module
    rewinding: Rewinding
    accelerator: Accelerator

    def score(self, examples: Examples, prompts: Sequence[Prompt] = ()) -> Score:
        """The task's score at the current scale.

        Args:
            prompts: prompts to answer if the metric scores written texts; empty for other metrics.
        """
        recipe, encoded = self.adapter.recipe, self.material.encoded
        tokens, pad = recipe.training.micro_batch_tokens, encoded.pad_token_id
        loss = recipe.task.loss()
        engine = Engine.of(self.model, encoded.head, loss, pad, tokens, self.accelerator)
        score = evaluate(engine, examples, recipe.task, decision=self.adapter.record.decision)
        if not prompts:
            return score
        written = engine.write([p.input_ids for p in prompts], self.adapter.base.tokenizer)
        return with_text_scores(score, recipe.task, prompts, written)

    def retention(self) -> float | None:
        """The score on the retention data at the current scale; None without retention data."""
        material = self.material
        if material.retention is None:
            return None
        if material.rows is not None:
            return self.score(material.rows, material.row_prompts).metrics[material.metric.name]
        tokenizer, length = self.adapter.base.tokenizer, material.retention.max_length
        return text_loss(self.model, tokenizer, material.texts, length, self.accelerator)


def load_moved_model(
    adapter: OpenedAdapter, material: Material, accelerator: Accelerator
) -> MovedModel:
    """Loads the adapter on its base, at scale 1, and compares it with its probes."""
    recipe, head, device = adapter.recipe, adapter.record.head, accelerator.device
    model, _ = load_proven(adapter.folder, recipe, adapter.base, adapter.record, accelerator)

    def load_base() -> LoadedModel:
        set_seed(OTHER_SEED)
        return load_weights(adapter.base, head, adapter.dtype, device, dropout=None)

    starts = recipe.method.neutral_values(model, load_base)
    rewinding = Rewinding(model, starts, adapter.base.added_ids)
    return MovedModel(adapter, material, model, rewinding, accelerator)
