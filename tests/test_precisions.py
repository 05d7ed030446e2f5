"""Adapters of several precisions in one process, beside an Accelerator of the user's own."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin
from torch import nn

import peftkit as pk
from peftkit.bases.devices import open_accelerator
from peftkit.run import run

TEXTS = ["the film was great and bright", "an awful dark story", "warm"]


@pytest.fixture(autouse=True)
def untouched():
    """Accelerate's state as of a new process, and that of other tests afterwards."""
    kept = [(kind, dict(kind._shared_state)) for kind in (AcceleratorState, GradientState)]
    for kind, _ in kept:
        kind._shared_state.clear()
    yield
    for kind, state in kept:
        kind._shared_state.clear()
        kind._shared_state.update(state)


def base_of(dtype: str) -> pk.Base:
    return pk.Base(name_or_path="x", dtype=dtype)


def computed_in(accelerator: Accelerator) -> torch.dtype:
    with accelerator.autocast():
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.fixture(scope="module")
def runs(make_recipe, tmp_path_factory):
    """A run in float32 and one in bfloat16, one after the other."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for dtype in ("float32", "bfloat16"):
        recipe = make_recipe(pk.LoRA(r=2), max_steps=2)
        recipe = recipe.with_(base=recipe.base.with_(dtype=dtype))
        found[dtype] = run(recipe, str(folder / dtype)).folder
    return found


def test_adapters_of_two_precisions_answer_in_turns(runs):
    """Each in its own, whichever was loaded last."""
    alone = {dtype: pk.load(str(folder)).predict(TEXTS) for dtype, folder in runs.items()}
    for order in (("float32", "bfloat16"), ("bfloat16", "float32")):
        loaded = {dtype: pk.load(str(runs[dtype])) for dtype in order}
        for dtype in (*order, *order):
            assert loaded[dtype].predict(TEXTS) == alone[dtype]
            assert computed_in(loaded[dtype].accelerator) == getattr(torch, dtype)
            expected = "bf16" if dtype == "bfloat16" else "no"
            assert loaded[dtype].accelerator.mixed_precision == expected


@pytest.mark.parametrize("mine", ["bf16", "no"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_accelerator_of_the_user_goes_on_as_it_was(mine, dtype):
    steps = GradientAccumulationPlugin(num_steps=4, sync_each_batch=True)
    theirs = Accelerator(cpu=True, mixed_precision=mine, gradient_accumulation_plugin=steps)
    layer = theirs.prepare(nn.Linear(4, 4))
    before = layer(torch.full((1, 4), 1.01))
    ours = open_accelerator(base_of(dtype))
    assert computed_in(ours) == getattr(torch, dtype)
    assert ours.prepare(layer_of := nn.Linear(4, 4)) is layer_of
    assert (theirs.mixed_precision, theirs.gradient_accumulation_steps) == (mine, 4)
    assert GradientState().plugin_kwargs == {"num_steps": 4, "sync_each_batch": True}
    assert computed_in(theirs) == (torch.bfloat16 if mine == "bf16" else torch.float32)
    assert torch.equal(layer(torch.full((1, 4), 1.01)), before)
    assert torch.equal(theirs.prepare(layer)(torch.full((1, 4), 1.01)), before)
    assert Accelerator(cpu=True).mixed_precision == mine


def test_an_accelerator_can_be_made_afterwards_in_any_precision():
    ours = open_accelerator(base_of("bfloat16"))
    theirs = Accelerator(cpu=True, mixed_precision="no", gradient_accumulation_steps=3)
    assert (theirs.mixed_precision, theirs.gradient_accumulation_steps) == ("no", 3)
    assert computed_in(theirs) == torch.float32
    assert computed_in(ours) == torch.bfloat16
    assert ours.mixed_precision == "bf16"


def test_no_launcher_decides_for_a_recipe(monkeypatch):
    """`accelerate launch` hands its settings over in the environment."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "5")
    ours = open_accelerator(base_of("float32"))
    assert computed_in(ours) == torch.float32
    weight = nn.Parameter(torch.ones(1))
    ours.backward((2 * weight).sum())
    assert weight.grad == 2


def test_gradients_are_not_divided_by_the_steps_of_others():
    Accelerator(cpu=True, gradient_accumulation_steps=4)
    weight = nn.Parameter(torch.ones(1))
    open_accelerator(base_of("float32")).backward((2 * weight).sum())
    assert weight.grad == 2
