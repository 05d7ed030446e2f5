"""Prepares a run without loading weights, and finds every error that can be found this early."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from peftkit.adapters.starting import Start, check_start, find_start
from peftkit.bases.architectures import check_continues
from peftkit.bases.devices import check_tracker
from peftkit.bases.opened import OpenedBase
from peftkit.bases.opening import open_base
from peftkit.bases.packages import require
from peftkit.bases.token_ids import check_ids
from peftkit.data.encoded import Encoded
from peftkit.data.ledger import Ledger
from peftkit.data.ragged import Array
from peftkit.errors import MethodError, RecipeError
from peftkit.evaluation.writing import check_prompts
from peftkit.recipe import Recipe
from peftkit.stages.early import Rows, check_early
from peftkit.stages.rehearsal import rehearse
from peftkit.stages.unknown_tokens import unknown_token_notes
from peftkit.tasks.task import Piece
from peftkit.training.budget import budget_notes
from peftkit.training.forward.batching import check_units
from peftkit.training.forward.steps import number_of_steps
from peftkit.training.optimizers import FROM_BITSANDBYTES
from peftkit.training.threads import resolved_threads


@dataclass(frozen=True)
class Prepared:
    """A recipe with its data and base, after all checks that need no weights."""

    recipe: Recipe
    """The recipe after these settings were resolved: quantization of the base's files, number of
    threads, and the system prompt if all conversations share one."""
    ledger: Ledger
    base: OpenedBase
    encoded: Encoded
    start: Start | None
    """The adapter from which training continues; None to train a new adapter."""
    trainable_parameters: int
    total_parameters: int
    trained_share: float
    """Share of the base's blocks through which gradients pass."""

    def example(self) -> tuple[Piece, ...]:
        """The first training example, as text pieces that say which parts are supervised."""
        task, encoded = self.recipe.task, self.encoded
        return task.show(0, encoded.train, encoded.head, self.base.tokenizer)


def prepare(recipe: Recipe, rows: Rows | None = None) -> Prepared:
    """Reads and encodes the rows, opens the base, and rehearses the injection; loads no weights.

    Args:
        rows: the recipe's rows, if `check_early` has already read them.

    Raises:
        PeftkitError: the recipe, the data or the base is wrong.
    """
    _check_settings(recipe)
    splits, ledger = rows or check_early(recipe)
    start = find_start(recipe)
    wanted_tokens = (*recipe.base.added_tokens, *recipe.task.tokens())
    spec = recipe.base.with_(added_tokens=tuple(dict.fromkeys(wanted_tokens)))
    base = open_base(spec, recipe.method.position_offset, recipe.task.one_output)
    if recipe.task.goes_on:
        check_continues(base)
    if reason := recipe.method.refuses(
        recipe.task.expected_head, base.spec
    ):  # its files may be quantized already
        raise MethodError(reason)
    training = recipe.training.with_(threads=resolved_threads(recipe.training.threads))
    task = recipe.task.remembering(splits)
    recipe = recipe.with_(base=base.spec, task=task, training=training)
    encoded = recipe.task.encode(splits, base)
    notes = _check_encoded(encoded, base, recipe)
    if start:
        check_start(start, base, encoded.head)
    if reason := recipe.method.refuses_steps(
        number_of_steps(recipe.training, encoded.train.num_units)
    ):
        raise MethodError(reason)
    folder = start.folder if start else None
    rehearsal = rehearse(base, encoded, recipe.method, recipe.training, folder)
    ledger = ledger.with_encoded(encoded)
    notes += [
        *rehearsal.notes,
        *budget_notes(training, encoded.train.num_units),
        start.note(base) if start else "",
    ]
    ledger = replace(ledger, notes=(*ledger.notes, *filter(None, notes)))
    counts = rehearsal.trainable_parameters, rehearsal.total_parameters, rehearsal.trained_share
    return Prepared(recipe, ledger, base, encoded, start, *counts)


def _check_encoded(encoded: Encoded, base: OpenedBase, recipe: Recipe) -> list[str]:
    """Checks the examples against the base and the recipe; returns notes, some of them empty.

    Raises:
        PeftkitError: the base does not know the tokens, a metric needs more rows, the recipe sets a
            learning rate for a head that is not trained, or a unit exceeds the budget.
    """
    training = recipe.training
    notes = [
        check_ids(base, _token_ids(encoded)),
        *unknown_token_notes(encoded, base),
        check_prompts(encoded, recipe.task, recipe.metric),
    ]
    if training.head_learning_rate and not encoded.head.trained:
        raise RecipeError(
            f"`training.head_learning_rate` is {training.head_learning_rate:g}, but "
            f"{recipe.task.kind()} trains no head: it uses the base's own output layer",
            "leave it out",
        )
    for examples in encoded.splits().values():
        check_units(examples, training.micro_batch_tokens)
    return notes


def _check_settings(recipe: Recipe) -> None:
    """Raises MissingPackageError if the recipe needs an optional package that is missing, and
    RecipeError if the task's loss cannot use a setting.
    """
    recipe.task.loss(recipe.training)
    check_tracker(recipe.training.report_to)
    if recipe.base.quantization != "none":
        require("bitsandbytes", f"`base.quantization {recipe.base.quantization}` needs")
    if recipe.training.optimizer in FROM_BITSANDBYTES:
        require("bitsandbytes", f"`training.optimizer {recipe.training.optimizer}` needs")


def _token_ids(encoded: Encoded) -> Iterator[Array]:
    """Yields each example's token ids, from every input column that holds token ids."""
    for examples in encoded.splits().values():
        for name, column in examples.inputs.items():
            if name.endswith("input_ids"):
                yield from column
