"""Cohen's kappa with quadratic weights, the agreement of ordered levels beyond chance.

    kappa = 1 - sum of (x - y)² over the rows / the same sum if x and y were independent

(Cohen 1968, "Weighted kappa: nominal scale agreement with provision for scaled disagreement or
partial credit"). With n rows, the second sum is Σx² + Σy² - 2 Σx Σy / n.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from peftkit.metrics.metric import Metric

Floats = npt.NDArray[np.float64]


def quadratic_kappa(sums: Floats) -> Floats:
    """Computes the kappa; it is 0 if all expected and all predicted levels are one and the same.

    Args:
        sums: (..., 5), sums of `kappa_parts`; the result has the shape (...,).
    """
    rows, x, y, squares, distances = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    by_chance = squares - 2 * x * y / rows
    share = np.divide(distances, by_chance, out=np.ones_like(distances), where=by_chance > 1e-9)
    kappa: Floats = 1 - share
    return kappa


def kappa_parts(expected: Any, predicted: Any) -> Floats:
    """Returns (rows, 5), what each row adds to the sums of `quadratic_kappa`.

    Args:
        expected, predicted: (rows,), places of levels in their order, from 0.
    """
    x, y = np.asarray(expected, np.float64), np.asarray(predicted, np.float64)
    return np.stack([np.ones(len(x)), x, y, x**2 + y**2, (x - y) ** 2], axis=1)


QUADRATIC_KAPPA = Metric("quadratic_kappa", statistic=quadratic_kappa)
