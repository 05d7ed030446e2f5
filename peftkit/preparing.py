"""Everything about a run that needs no weights; it finds all that can be wrong without them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from peftkit.adapters.starting import Start, check_start, find_start
from peftkit.bases.opening import OpenedBase, open_base
from peftkit.data.encoded import Encoded
from peftkit.data.ledger import Ledger
from peftkit.data.splits import load_splits
from peftkit.errors import MethodError
from peftkit.packages import require
from peftkit.recipe import Recipe
from peftkit.rehearsal import rehearse
from peftkit.tasks.task import Piece
from peftkit.training.batching import number_of_steps
from peftkit.training.devices import check_tracker
from peftkit.training.optimizers import FROM_BITSANDBYTES


@dataclass(frozen=True)
class Prepared:
    """A recipe whose data and base were found to be good, before any weight is loaded."""

    recipe: Recipe
    """With the quantization that the base's files have, where they have one."""
    ledger: Ledger
    base: OpenedBase
    encoded: Encoded
    start: Start | None
    """The adapter that training goes on from."""
    trainable_parameters: int
    total_parameters: int
    trained_share: float
    """Of the base's blocks: those that gradients pass through."""

    def example(self) -> tuple[Piece, ...]:
        """The first training example as the model reads it, and what of it is supervised."""
        task, encoded = self.recipe.task, self.encoded
        return task.show(0, encoded.train, encoded.head, self.base.tokenizer)


def prepare(recipe: Recipe) -> Prepared:
    """Everything that needs no weights: rows, splits, tokens, and a rehearsal of the injection.

    Raises:
        PeftkitError: whatever is wrong with recipe, data or base, with what to do about it.
    """
    check_tracker(recipe.training.report_to)
    if recipe.base.quantization != "none":
        require("bitsandbytes", f"`base.quantization {recipe.base.quantization}` needs")
    if recipe.training.optimizer in FROM_BITSANDBYTES:
        require("bitsandbytes", f"`training.optimizer {recipe.training.optimizer}` needs")
    start = find_start(recipe)
    splits, ledger = load_splits(recipe.task, recipe.split_seed)
    base = open_base(recipe.base, recipe.method.position_offset)
    if reason := recipe.method.supports(recipe.task, base.spec):  # it may be quantized already
        raise MethodError(reason)
    recipe = recipe.with_(base=base.spec)
    encoded = recipe.task.encode(splits, base.tokenizer)
    if start:
        check_start(start, base, encoded.head)
    if reason := recipe.method.supports_steps(number_of_steps(recipe.training, len(encoded.train))):
        raise MethodError(reason)
    folder = start.folder if start else None
    counts = rehearse(base, encoded, recipe.method, recipe.training, folder)
    ledger = ledger.with_encoded(encoded)
    if start and (note := start.note(base)):
        ledger = replace(ledger, notes=(*ledger.notes, note))
    return Prepared(recipe, ledger, base, encoded, start, *counts)
