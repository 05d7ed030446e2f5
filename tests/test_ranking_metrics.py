"""Rankings and correlations equal scikit-learn's, scipy's and trec_eval's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import ndcg_score, roc_auc_score

from peftkit.metrics.correlation import METRICS, auc_parts, pearson_parts, spearman_parts
from peftkit.metrics.metric import mean
from peftkit.metrics.ranking import metrics, ndcg, reciprocal_rank
from peftkit.tasks.score import Parts, Score

CORRELATIONS = {"pearson": pearson_parts, "spearman": spearman_parts, "auc": auc_parts}


def value(name: str, predicted, expected) -> float:
    sums = CORRELATIONS[name](np.asarray(predicted), np.asarray(expected)).sum(axis=0)
    return float(METRICS[name].statistic(sums))


def drawn(seed: int, rows: int, levels: int | None = None):
    """Predictions, with ties if there are few levels, and relevances from 0 to 3."""
    rng = np.random.default_rng(seed)
    predicted = rng.normal(size=rows) if levels is None else rng.integers(0, levels, rows) / 2
    return predicted.astype(np.float32), rng.integers(0, 4, rows).astype(np.float64)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 30), st.sampled_from([1, 2, 4, None]),
       st.integers(1, 12))  # fmt: skip
def test_ndcg_with_ties_is_that_of_scikit_learn(seed, rows, levels, k):
    predicted, relevance = drawn(seed, rows, levels)
    relevance[0] = 3
    right = ndcg_score([relevance], [predicted], k=k)
    assert ndcg(predicted, relevance, k) == pytest.approx(right, abs=1e-9)


def test_without_ties_rankings_are_those_of_trec_eval():
    for seed in range(20):
        predicted, relevance = drawn(seed, 25)
        best = (relevance == relevance.max()).astype(int)
        run = {"q": {f"d{i}": float(score) for i, score in enumerate(predicted)}}

        def evaluated(judged, measure, run=run):
            judged = {"q": {f"d{i}": int(r) for i, r in enumerate(judged)}}
            found = pytrec_eval.RelevanceEvaluator(judged, {measure}).evaluate(run)["q"]
            return found[measure.replace(".", "_")]

        right = evaluated(relevance, "ndcg_cut.10")
        assert ndcg(predicted, relevance, 10) == pytest.approx(right, abs=1e-6)
        right = evaluated(best, "recip_rank")
        assert reciprocal_rank(predicted, relevance) == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ties_are_the_mean_over_all_orders(levels):
    predicted, relevance = drawn(levels, 7, levels)
    found = {"ndcg": [], "rr": []}
    for order in itertools.permutations(range(7)):
        broken = predicted - 1e-3 * np.array(order)
        found["ndcg"].append(ndcg(broken, relevance, 3))
        found["rr"].append(reciprocal_rank(broken, relevance))
    assert ndcg(predicted, relevance, 3) == pytest.approx(np.mean(found["ndcg"]), abs=1e-6)
    assert reciprocal_rank(predicted, relevance) == pytest.approx(np.mean(found["rr"]), abs=1e-6)


def test_a_constant_score_gets_what_chance_gets():
    nothing, one_of_20 = np.zeros(20, np.float32), np.eye(20)[0]
    chance = (1 / np.arange(1, 21)).mean()
    assert reciprocal_rank(nothing, one_of_20) == pytest.approx(chance)
    assert ndcg(nothing, one_of_20, 20) == pytest.approx((1 / np.log2(np.arange(2, 22))).mean())
    assert {name: m.bounded for name, m in metrics(5).items()} == {"ndcg@5": True, "mrr": True}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(5, 60), st.sampled_from([2, 5, None]))
def test_correlations_are_those_of_scipy_and_scikit_learn(seed, rows, levels):
    predicted, expected = drawn(seed, rows, levels)
    predicted[:2], expected[:2] = (0, 1), (0, 1)
    assert value("pearson", predicted, expected) == pytest.approx(
        pearsonr(predicted.astype(float), expected).statistic, abs=1e-6
    )
    assert value("spearman", predicted, expected) == pytest.approx(
        spearmanr(predicted, expected).statistic, abs=1e-9
    )
    classes = (expected > 0).astype(float)
    right = roc_auc_score(classes, predicted)
    assert value("auc", predicted, classes) == pytest.approx(right, abs=1e-9)


@pytest.mark.parametrize("name", CORRELATIONS)
def test_a_rows_part_is_how_fast_the_score_changes_with_its_weight(name):
    """Doubling a row of 400 moves the score by about its part less the score, over 401."""
    predicted, expected = drawn(3, 400, None)
    predicted = (predicted + expected / 2).round(1)
    expected = (expected > 1).astype(float) if name == "auc" else expected
    parts = CORRELATIONS[name](predicted, expected)
    score = parts[:, 0].mean()
    for row in range(0, 400, 40):
        twice = np.append(np.arange(400), row)
        moved = 401 * (value(name, predicted[twice], expected[twice]) - score)
        assert moved == pytest.approx(parts[row, 0] - score, abs=0.03)


def test_the_interval_of_an_area_is_that_of_delong():
    predicted, expected = drawn(5, 300)
    classes = (expected > 1).astype(float)
    predicted = predicted + classes
    low, high = Score.of(METRICS.get, {"auc": Parts.of(auc_parts(predicted, classes))}).intervals[
        "auc"
    ]
    above = predicted[classes == 1][:, None] > predicted[classes == 0]
    variance = above.mean(axis=1).var() / (classes == 1).sum()
    variance += above.mean(axis=0).var() / (classes == 0).sum()
    assert (high - low) / 2 == pytest.approx(1.96 * variance**0.5, rel=0.05)


@pytest.mark.parametrize("name", CORRELATIONS)
def test_a_constant_prediction_says_nothing(name):
    expected = np.array([0.0, 1.0, 1.0])
    assert value(name, np.zeros(3), expected) == (0.5 if name == "auc" else 0)
    assert value(name, expected, expected) == 1
    assert mean(CORRELATIONS[name](expected, np.ones(3)).sum(axis=0)) in (0, 0.5)
