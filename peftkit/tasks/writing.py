"""How the texts that a task writes are scored."""

from __future__ import annotations

from dataclasses import dataclass

from peftkit.metrics.metric import Metric, TextMetric


@dataclass(frozen=True)
class Writing:
    """How many texts the model writes around and during training, and how they are scored."""

    scores: tuple[str, ...]
    """Names of the metrics of written texts; `Task.metric` returns a `TextMetric` for each."""
    samples: int
    """Number of test rows that the model answers before and after training."""
    validation_samples: int
    """Number of validation rows that the model answers at each validation, if the recipe's metric
    is one of `scores`."""

    def refuses(self, metric: Metric) -> str | None:
        """Says that a metric has too few written texts to choose the best weights, else None."""
        if not isinstance(metric, TextMetric):
            return None
        for name in ("samples", "validation_samples"):
            if (count := getattr(self, name)) < metric.least:
                return (
                    f"`training.metric` is `{metric.name}`, and `task.{name}` is {count}; "
                    f"set it to {metric.least} or more"
                )
        return None
