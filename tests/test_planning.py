"""What a plan says is what a run takes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console

import peftkit as pk
from peftkit.bases.architectures import depth
from peftkit.bases.devices import LiveMemory
from peftkit.bases.footprint import footprint
from peftkit.bases.loading import load_weights
from peftkit.cli.main import command_line
from peftkit.errors import TrainingError
from peftkit.methods.method import trainable_parameters
from peftkit.reports.plan_record import Unplanned
from peftkit.run import plan, run
from peftkit.stages.measuring import make_trial, measure
from peftkit.stages.preparing import prepare
from peftkit.stages.small_copies import shrink_base
from peftkit.training.forward.batching import micro_batches, padded_tokens, worst_micro_batch
from peftkit.training.forward.forward_pass import HookedBatch
from peftkit.training.forward.steps import seeded_steps
from peftkit.training.loop import train
from tests.engines import engine_of

CPU = Accelerator(cpu=True)
DEEP = {
    "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 80, "intermediate_size": 48,
    "num_hidden_layers": 8, "max_position_embeddings": 64,
}  # fmt: skip


def test_live_memory_counts_what_is_alive():
    with LiveMemory() as live:
        kept = torch.ones(1000)
        view = kept.view(10, 100)[2:]
        for _ in range(3):
            kept.mul(2)
        assert live.now == 4000
        assert live.peak == 8000
        del kept
        assert live.now == 4000, "a view keeps it alive"
        del view
    assert live.now == 0


def test_live_memory_counts_what_the_backward_pass_needs():
    weight = torch.ones(100, 100, requires_grad=True)
    rows = torch.ones(50, 100)
    with LiveMemory() as live:
        out = (rows @ weight).exp()  # exp keeps its output: product and output at the peak
        assert live.now == 50 * 100 * 4
        assert live.peak == 2 * 50 * 100 * 4
        out.sum().backward()
        assert live.peak >= (50 * 100 + 100 * 100) * 4, "the gradient"


@pytest.fixture
def quick(monkeypatch):
    """Times are measured for a moment instead of seconds."""
    monkeypatch.setattr("peftkit.stages.measuring.MEASURED_SECONDS", 0.02)


@pytest.fixture(scope="module")
def deep(tmp_path_factory, bases):
    """A Llama of eight tiny blocks with the tokenizer of the tiny bases."""
    import shutil

    from transformers import AutoModel, LlamaConfig

    folder = tmp_path_factory.mktemp("deep")
    for file in bases["llama"].glob("tokenizer*"):
        shutil.copy(file, folder)
    AutoModel.from_config(LlamaConfig(**DEEP, bos_token_id=1, eos_token_id=2)).save_pretrained(
        folder
    )
    return folder


def recipe_of(deep, reviews, method, quantization="none", **training):
    return pk.Recipe(
        base=pk.Base(name_or_path=str(deep), quantization=quantization),
        task=pk.TextClassification(data=pk.Data(path=str(reviews))),
        method=method,
        training=pk.Training(**{"num_epochs": 2, "batch_size": 16, **training}),
    )


METHODS = [
    pk.LoRA(r=4), pk.FullFineTuning(), pk.TopLayers(k=2), pk.PrefixTuning(num_virtual_tokens=4),
    pk.BottleneckAdapter(), pk.PiSSA(r=4), pk.HeadOnly(), pk.AdaLoRA(),
]  # fmt: skip


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind())
def test_two_small_copies_tell_what_the_whole_one_holds(deep, reviews, method, quantization):
    base = pk.Base(name_or_path="x", quantization=quantization)
    recipe = recipe_of(deep, reviews, pk.LoRA())
    if method.refuses(recipe.task.expected_head, base):
        return
    if method.refuses_steps(18):
        return
    prepared = prepare(recipe_of(deep, reviews, method, quantization))
    recipe, encoded = prepared.recipe, prepared.encoded
    trial = make_trial(recipe, prepared.base, encoded, CPU, timed=False)
    cost = measure(trial)
    assert trial.layout == ("packed" if "packed" in method.layouts else "padded")
    loaded = load_weights(prepared.base, encoded.head, torch.float32, CPU.device, None)
    held = footprint(loaded.model)
    assert cost.weights_mb == pytest.approx(held.weights_mb, rel=1e-3)
    assert cost.quantization_state_mb == pytest.approx(held.quantization_state_mb, rel=1e-3)
    if method.cost_proxy() is not method:
        return
    model = method.inject(loaded.model, encoded, loaded.head)
    trained = sum(p.numel() for p in trainable_parameters(model).values())
    assert cost.trained_numbers == pytest.approx(trained, rel=1e-6)


def test_a_copy_differs_in_its_blocks_only(deep, reviews, tmp_path):
    prepared = prepare(recipe_of(deep, reviews, pk.LoRA()))
    assert depth(prepared.base) == 8
    small = shrink_base(prepared.base, prepared.encoded.head, 3, tmp_path)
    loaded = load_weights(small, prepared.encoded.head, torch.float32, CPU.device, None)
    assert len(loaded.model.model.layers) == 3
    assert prepared.base.config.num_hidden_layers == 8


def test_the_plan_speaks_of_every_part(deep, reviews, quick):
    prepared = prepare(recipe_of(deep, reviews, pk.LoRA(r=4)))
    planned = plan(prepared, CPU, timed=True)
    assert planned.trainable_parameters == prepared.trainable_parameters
    assert planned.num_steps == 18
    assert planned.peaks_mb["training"] == pytest.approx(sum(planned.parts_mb.values()))
    assert set(planned.peaks_mb) == {"loading", "evaluation", "training", "merging"}
    prepared = prepare(recipe_of(deep, reviews, pk.BottleneckAdapter()))
    assert "merging" not in plan(prepared, CPU, timed=False).peaks_mb
    assert planned.seconds["training"] > 0
    assert "full fine-tuning's memory" in planned.notes[-1]


def test_what_cannot_fit_is_told(deep, reviews, monkeypatch):
    monkeypatch.setattr("peftkit.stages.plan._available_mb", lambda _: 10.0)
    prepared = prepare(recipe_of(deep, reviews, pk.LoRA(r=4)))
    assert "it will not fit" in plan(prepared, CPU, timed=False).notes[0]


def test_checkpointing_is_planned_with_less(deep, reviews):
    def activations(**training):
        prepared = prepare(recipe_of(deep, reviews, pk.LoRA(r=4), **training))
        return plan(prepared, CPU, timed=False).parts_mb["activations"]

    assert activations(gradient_checkpointing=True) < 0.6 * activations()


def test_run_json_holds_what_was_planned_and_what_was_measured(deep, reviews, tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text(recipe_of(deep, reviews, pk.LoRA(r=4)).to_json())
    command = [sys.executable, "-m", "peftkit", "run", str(file), "--output-dir", "run"]
    # a process of its own, whose peak is the run's and not that of tests before
    subprocess.run(command, capture_output=True, check=True, cwd=tmp_path)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["plan"]["peak_mb"] == pytest.approx(record["peak_memory_mb"], rel=0.3)
    assert record["training"]["layout"] == "packed"
    assert record["self_check"] == {"layout": "packed", "notes": []}


def test_a_base_that_cannot_be_shrunk_is_trained_all_the_same(deep, reviews, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyError("layers")

    monkeypatch.setattr("peftkit.stages.measuring.shrink_base", fail)
    record = run(recipe_of(deep, reviews, pk.LoRA(r=4), max_steps=1), str(tmp_path / "run")).record
    assert record.plan == Unplanned("KeyError: 'layers'")


def test_the_command_prints_it_and_json(deep, reviews, in_tmp, quick, capsys):
    file = in_tmp / "recipe.json"
    file.write_text(recipe_of(deep, reviews, pk.LoRA(r=4)).to_json())
    command_line(["plan", str(file), "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["layout"] == "packed"
    assert "training holds" in said.err
    assert not (in_tmp / "runs").exists()


def test_the_largest_micro_batch_goes_first(deep, reviews, monkeypatch):
    prepared = prepare(recipe_of(deep, reviews, pk.LoRA(r=4), batch_size=1))
    encoded, recipe = prepared.encoded, prepared.recipe
    found = worst_micro_batch(encoded.train, recipe, "padded", CPU, prepared.base.config)
    worst, alone = found.indices, found.alone
    assert alone
    sizes = [
        padded_tokens(encoded.train, indices, "padded")
        for step in seeded_steps(len(encoded.train), 1, 2 * len(encoded.train), 0)
        for indices in micro_batches(
            encoded.train,
            step,
            recipe.training.micro_batch_tokens,
            "padded",
            CPU,
            prepared.base.config,
        )
    ]
    assert padded_tokens(encoded.train, worst, "padded") >= max(sizes)
    loaded = load_weights(prepared.base, encoded.head, torch.float32, CPU.device, None)
    model = recipe.method.inject(loaded.model, encoded, loaded.head)

    def no_memory(run, loss):
        sizes = len(run.batch.indices)
        raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory for {sizes}")

    monkeypatch.setattr(HookedBatch, "loss", no_memory)
    engine, quiet = engine_of(model, encoded.head), Console(quiet=True)
    with pytest.raises(TrainingError, match=r"the largest micro-batch, .* does not fit"):
        train(engine, encoded.train, recipe, lambda _: {}, quiet)
