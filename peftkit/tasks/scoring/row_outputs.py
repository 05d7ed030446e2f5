"""What a row's examples have in common: outputs, target and text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Array
from peftkit.data.rows import Row

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs


def row_means(outputs: Outputs, examples: Examples) -> Outputs:
    """Returns (rows, ...), the mean of the outputs of each row's windows.

    Args:
        outputs: (examples, ...), one output for each example.
    """
    if examples.row_of is None:
        return outputs
    sums = np.zeros((len(examples.rows), *outputs.shape[1:]), np.float64)
    np.add.at(sums, examples.row_of, outputs)
    counts = np.bincount(examples.row_of, minlength=len(examples.rows))
    means: Outputs = (sums.T / counts).T.astype(np.float32)
    return means


def row_targets(examples: Examples) -> Array:
    """Returns (rows, ...), the target of each row, which all its windows have."""
    if examples.row_of is None:
        return examples.targets
    first = np.unique(examples.row_of, return_index=True)[1]
    targets: Array = examples.targets[first]
    return targets


def text_of(row: Row) -> str:
    """Returns a row's text; of a pair, both texts, one a line."""
    return "\n".join(filter(None, (row.values["text"], row.values.get("text_pair"))))
