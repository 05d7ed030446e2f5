"""Recipes are values: checked when made, recorded as JSON, with every problem told at once."""

from __future__ import annotations

import json

import jsonschema
import pytest
from pydantic import ValidationError

from peftkit import Base, Data, FullFineTuning, HeadOnly, LoRA, Recipe, TextClassification, Training
from peftkit.errors import RecipeError
from peftkit.parts.problems import all_problems
from peftkit.recipe import recipe_schema


def recipe(method=None, **fields) -> Recipe:
    return Recipe(
        base=Base(name_or_path="org/model"),
        task=TextClassification(data=Data(path="rows.csv")),
        method=method or LoRA(),
        **fields,
    )


@pytest.mark.parametrize(
    "method", [LoRA(r=2, target_modules=("q", "v")), FullFineTuning(), HeadOnly()]
)
def test_json_round_trip_keeps_the_recipe(method):
    original = recipe(method, training=Training(max_steps=3), name="x", seed=4)
    assert Recipe.from_json(original.to_json()) == original
    assert json.loads(original.to_json())["method"]["kind"] == type(method).__name__


def test_json_schema_accepts_recipes_and_refuses_unknown_fields():
    schema = recipe_schema()
    value = json.loads(recipe().to_json())
    jsonschema.validate(value, schema)
    value["method"]["lora_alfa"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema)


def test_recipes_are_frozen_and_changed_by_copying():
    original = LoRA()
    with pytest.raises(ValidationError):
        original.r = 3
    assert original.with_(r=3).r == 3
    with pytest.raises(ValidationError):
        original.with_(r=0)


def test_all_problems_of_a_json_are_told_at_once():
    value = json.loads(recipe().to_json())
    value["method"]["lora_alfa"] = 16
    value["task"]["data"]["pth"] = "x"
    value["training"]["batch_size"] = "many"
    value["training"]["learning_rte"] = 1.0
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(json.dumps(value))
    text = str(caught.value)
    assert "4 problems" in text
    assert "method.lora_alfa: no such field (found `16`); did you mean `lora_alpha`?" in text
    assert "task.data.pth: no such field (found `'x'`); did you mean `path`?" in text
    assert "training.batch_size: should be a valid integer" in text
    assert "`'many'`" in text
    assert "did you mean `learning_rate`?" in text


def test_all_problems_of_a_script_are_told_at_once_with_their_place():
    with pytest.raises(RecipeError) as caught, all_problems("x.py"):
        Recipe(
            base=Base(name="org/model"),
            task=TextClassification(data=Data(pat="rows.csv")),
            method=LoRA(rr=8),
            training=Training(learning_rate=-1),
        )
    text = str(caught.value)
    for expected in (
        "base.name: no such field", "base.name_or_path: required", "task.data.pat: no such field",
        "method.rr: no such field", "training.learning_rate: should be greater than 0",
    ):  # fmt: skip
        assert expected in text


def test_a_field_given_twice_is_refused():
    with pytest.raises(RecipeError, match="`seed` is given more than once"):
        Recipe.from_json(recipe().to_json().replace('"seed": 0,', '"seed": 0, "seed": 1,'))


def test_unknown_kind_is_refused_with_the_known_ones():
    value = json.loads(recipe().to_json())
    value["method"] = {"kind": "Lora"}
    with pytest.raises(RecipeError, match=r"not one of `AdaLoRA`, .*did you mean `LoRA`"):
        Recipe.from_json(json.dumps(value))
    del value["method"]["kind"]
    with pytest.raises(RecipeError, match="needs a `kind`"):
        Recipe.from_json(json.dumps(value))


def test_method_that_cannot_serve_the_base_is_refused_when_the_recipe_is_made():
    with pytest.raises(ValidationError, match="nf4 weights cannot be trained; use LoRA"):
        Recipe(
            base=Base(name_or_path="org/model", quantization="nf4"),
            task=TextClassification(data=Data(path="rows.csv")),
            method=FullFineTuning(),
        )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LoRA(target_modules="("), "not a regular expression"),
        (lambda: LoRA(target_modules=()), "names no layer"),
        (lambda: Data(path=""), "`path` is empty"),
        (lambda: Data(path="x", test_fraction=0.6, validation_fraction=0.5), "leave no rows"),
        (lambda: Base(name_or_path="packaged:x", revision="main"), "is for Hub ids"),
        (lambda: recipe(name="a/b"), "not a valid folder name"),
        (lambda: LoRA(lora_alpha=float("inf")), "finite"),
    ],
)
def test_nonsense_is_refused(build, message):
    with pytest.raises(ValidationError, match=message):
        build()


def test_a_single_target_name_is_a_list_of_one():
    assert LoRA(target_modules="query").target_modules == ("query",)
    assert LoRA(target_modules="all-linear").target_modules == "all-linear"
    assert LoRA(target_modules=r".*\.query").target_modules == r".*\.query"


def test_another_file_than_a_recipe_is_told_in_a_line():
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(json.dumps({**dict.fromkeys("abcde", 1), "base": {}}), "other.json")
    assert str(caught.value).splitlines()[0] == (
        "error: other.json is not a Recipe: it has `a`, `b`, `c`, `d` and more"
    )
