"""Probabilities of a classifier are calibrated on validation, once, and then kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.metrics.calibration import BINS, expected_calibration_error, fit_temperature
from peftkit.reports.receipt import folded
from peftkit.run import run
from peftkit.tasks.scoring.class_scores import TEMPERATURE_FAILS, calibration_tables


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_the_error_is_its_definition(rows):
    gap = 0.0
    for number in range(BINS):
        inside = [(p, right) for p, right in rows if min(int(p * BINS), BINS - 1) == number]
        if inside:
            confidence = sum(p for p, _ in inside) / len(inside)
            share = sum(right for _, right in inside) / len(inside)
            gap += abs(share - confidence) * len(inside) / len(rows)
    p, right = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    assert expected_calibration_error(p, right) == pytest.approx(gap, abs=1e-9)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_of_drawn_classes_is_found(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5)).astype(np.float32) * 2
    drawn = (softmax(logits / true, axis=1).cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    assert fit_temperature(logits, drawn) == pytest.approx(true, rel=0.05)


def test_rows_that_are_all_right_do_not_make_a_model_certain():
    rng = np.random.default_rng(0)
    expected = rng.integers(0, 3, 60)
    logits = np.eye(3)[expected] * 8 + rng.normal(size=(60, 3))
    p = softmax(logits / fit_temperature(logits, expected), axis=1)[np.arange(60), expected]
    assert p.mean() == pytest.approx(61 / 63, abs=0.02)


@pytest.mark.parametrize(("temperature", "worse"), [(0.2, True), (3.0, False)])
def test_a_receipt_says_if_the_temperature_makes_probabilities_worse(temperature, worse):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 5)).astype(np.float32) * 4  # a model that is too certain
    right = rng.random(400) < 0.3
    [table] = calibration_tables(logits, right, temperature)
    assert (table.rows[1][1] > table.rows[0][1]) == worse
    assert folded(table).selection == (TEMPERATURE_FAILS if worse else "")


def test_a_run_calibrates_and_answers_with_it(make_recipe, tmp_path):
    recipe = make_recipe(pk.LoRA(r=8, lora_alpha=16), num_epochs=8, learning_rate=1e-2)
    done = run(recipe, str(tmp_path / "run"))
    saved = json.loads((done.folder / "adapter/peftkit.json").read_text())
    [temperature] = saved["decision"]["numbers"]["temperature"]
    assert temperature != 1.0
    table = next(t for t in done.record.test.tables if t.title == "Calibration")
    assert [row[0] for row in table.rows] == ["as trained", f"temperature {temperature:.2f}"]
    assert verify(str(done.folder)).problems == []
    loaded = pk.load(str(done.folder))
    [answer] = loaded.predict(["the bright film"])
    logit = np.log(answer.probability / (1 - answer.probability)) * temperature  # of two classes
    import torch

    ids = loaded.tokenizer("the bright film", return_tensors="pt")
    with torch.no_grad():
        logits = loaded.model(**ids).logits[0]
    assert logit == pytest.approx(float(logits.max() - logits.min()), abs=1e-3)
