"""A metric says which of two values is better."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from peftkit import Chat, Conversations, Data, TextClassification
from peftkit.metrics.metric import Metric
from peftkit.tasks.score import Parts, Score

CLASSIFICATION = TextClassification(data=Data(path="-"))
CHAT = Chat(data=Conversations(path="-"))


def test_losses_are_better_when_lower_and_a_tasks_own_scores_when_higher():
    directions = {name: CHAT.metric(name).direction for name in (*CHAT.scores, "perplexity")}
    assert directions == {"loss": "lower", "token_accuracy": "higher", "perplexity": "lower"}
    for name in CLASSIFICATION.scores:
        assert CLASSIFICATION.metric(name) == Metric(name, higher_is_better=True)
    assert not CLASSIFICATION.metric("loss").higher_is_better


@given(
    values=st.lists(st.floats(allow_nan=False), min_size=1),
    metric=st.sampled_from([Metric("accuracy"), Metric("loss", higher_is_better=False)]),
)
def test_nothing_is_better_than_the_best(values, metric):
    best = metric.best(values)
    assert best in values
    assert not any(metric.better(value, best) for value in values)
    assert best == (max(values) if metric.higher_is_better else min(values))


@pytest.mark.parametrize(("right", "low", "high"), [(30, 0.884, 1.0), (0, 0.0, 0.116)])
def test_a_share_that_no_row_differs_from_still_has_an_interval(right, low, high):
    """scipy's exact binomial interval is the reference."""
    table = np.array([(1.0, 1.0)] * right + [(0.0, 1.0)] * (30 - right))
    found = Score.of(CLASSIFICATION.metric, {"accuracy": Parts.of(table)}).intervals["accuracy"]
    exact = binomtest(right, 30).proportion_ci(0.95)
    assert found == pytest.approx((exact.low, exact.high))
    assert found == pytest.approx((low, high), abs=1e-3)
