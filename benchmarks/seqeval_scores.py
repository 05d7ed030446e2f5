"""Scores finished runs of entities by seqeval too: in its strict mode for IOB2, as
benchmarks/hf_tasks.py does, which leaves out broken sequences, and in its default mode.

    python benchmarks/seqeval_scores.py RUN...
"""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate import Accelerator
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from peftkit.adapters.loading import load_trained_model
from peftkit.adapters.saved_recipe import recipe_of
from peftkit.evaluation.scoring import keep_outputs
from peftkit.stages.preparing import prepare
from peftkit.tasks.encoding.token_windows import split_by_row
from peftkit.training.forward.engine import Engine


def main(runs: list[Path]) -> None:
    """Prints the F1 of each run on its validation and test splits."""
    accelerator = Accelerator(cpu=True)
    for run in runs:
        recipe = recipe_of(run, "")
        prepared = prepare(recipe)
        encoded, device = prepared.encoded, accelerator.device
        model = load_trained_model(run / "adapter", recipe, prepared.base, encoded.head, device)
        engine = Engine.of(
            model.eval(), encoded.head, recipe.task.loss(), encoded.pad_token_id,
            recipe.training.micro_batch_tokens, accelerator,
        )  # fmt: skip
        for name in ("validation", "test"):
            examples = encoded.splits()[name]
            outputs = keep_outputs(engine, examples, lambda raw, _: raw)
            predicted, expected = (
                [[encoded.head.labels[tag] for tag in row] for row in split_by_row(tags, examples)]
                for tags in (outputs.argmax(axis=-1), examples.targets)
            )
            strict = f1_score(expected, predicted, mode="strict", scheme=IOB2)
            plain = f1_score(expected, predicted)
            print(f"{run.name} {name}: strict IOB2 {strict:.4f}, default {plain:.4f}", flush=True)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
