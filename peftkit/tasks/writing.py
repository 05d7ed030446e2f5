"""How the texts that a task writes are scored."""

from __future__ import annotations

from dataclasses import dataclass

from peftkit.metrics.metric import Metric, TextMetric


@dataclass(frozen=True)
class Writing:
    """How many texts are written before, during and after training, and their scores."""

    scores: tuple[str, ...]
    """Names of the metrics of written texts; `Task.metric` gives each as a `TextMetric`."""
    samples: int
    """Test rows that the model answers before and after training."""
    validation_samples: int
    """Validation rows that the model answers at each validation, if the recipe's metric is one of
    `scores`."""

    def refuses(self, metric: Metric) -> str | None:
        """None, or why too few texts are written for a metric to choose the best weights."""
        if not isinstance(metric, TextMetric):
            return None
        for name in ("samples", "validation_samples"):
            if (count := getattr(self, name)) < metric.least:
                return (
                    f"`training.metric` is `{metric.name}`, and `task.{name}` is {count}; "
                    f"set it to {metric.least} or more"
                )
        return None
