"""The loop trains what it should, nothing else, and stops when something is wrong."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from rich.console import Console

from peftkit import IA3, Data, DoRA, FullFineTuning, HeadOnly, LoRA, TextClassification
from peftkit.adapters.loading import load
from peftkit.bases.loading import load_weights
from peftkit.errors import MethodError, TrainingError
from peftkit.evaluation.scoring import evaluate
from peftkit.methods.method import trainable_parameters
from peftkit.recipe import Training
from peftkit.run import run
from peftkit.stages.fitting import choose_trained, engine_of, inject
from peftkit.stages.preparing import prepare
from peftkit.tasks.score import Score
from peftkit.training import guards
from peftkit.training.forward.collating import collate
from peftkit.training.forward.forward_pass import base_of
from peftkit.training.forward.frozen_below import modules_below
from peftkit.training.forward.self_check import choose_engine
from peftkit.training.loop import train
from peftkit.training.optimizers import make_optimizer, make_schedule

METHODS = [(LoRA(r=4), 1e-2), (HeadOnly(), 1e-2), (FullFineTuning(), 2e-3)]
METHOD_IDS = ["LoRA", "HeadOnly", "Full"]
SILENT = Console(quiet=True)


def start(recipe):
    """A prepared recipe, its model before injection, and the head's names."""
    prepared = prepare(recipe)
    torch.manual_seed(recipe.seed)
    dropout = recipe.training.dropout
    device = torch.device("cpu")
    loaded = load_weights(prepared.base, prepared.encoded.head, torch.float32, device, dropout)
    return prepared, loaded


def score_of(prepared):
    def score(engine):
        return evaluate(engine, prepared.encoded.validation, prepared.recipe.task)

    return score


def chosen_for(model, prepared, accelerator):
    method = prepared.recipe.method
    engine = engine_of(model, prepared, accelerator)
    return choose_engine(
        engine, prepared.encoded.train, method, method.layouts, gradients=True
    ).engine


def trained(recipe):
    prepared, loaded = start(recipe)
    model = recipe.method.inject(loaded.model, prepared.encoded, loaded.head)
    score, engine = score_of(prepared), chosen_for(model, prepared, Accelerator())
    result = train(engine, prepared.encoded.train, recipe, score, SILENT)
    return prepared, engine, result, score


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"]], ids=["most", "few"])
@pytest.mark.skipif(sys.platform != "linux", reason="tells what is mapped in its own way")
def test_the_file_of_weights_is_left_where_most_are_elsewhere(make_chat, chat_base, targets):
    recipe = make_chat(LoRA(r=2, target_modules=targets), max_steps=1)
    prepared, loaded = start(recipe)
    given = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    model, accelerator = inject(loaded, prepared), Accelerator()
    engine, mapped = choose_trained(model, prepared, accelerator).engine, []

    def score(_):
        gc.collect()  # another test's model may lie in the file too
        mapped.append(f"{chat_base}/model.safetensors" in Path("/proc/self/maps").read_text())
        return Score({recipe.metric: 1.0}, {})

    train(engine, prepared.encoded.train, recipe, score, SILENT)
    assert mapped == [targets != "all-linear"]
    kept = {name.replace("base_layer.", ""): p for name, p in base_of(model).named_parameters()}
    assert all(torch.equal(kept[name], p) for name, p in given.items())


@pytest.mark.parametrize("base", ["bert", "llama"])
@pytest.mark.parametrize(("method", "rate"), METHODS, ids=METHOD_IDS)
def test_it_learns_and_changes_only_what_is_trained(make_recipe, method, rate, base):
    recipe = make_recipe(method, base, num_epochs=8, learning_rate=rate)
    prepared, loaded = start(recipe)
    model = method.inject(loaded.model, prepared.encoded, loaded.head)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained_names = set(trainable_parameters(model))
    score, engine = score_of(prepared), chosen_for(model, prepared, Accelerator())
    result = train(engine, prepared.encoded.train, recipe, score, SILENT)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed <= trained_names
    unused = {n for n in trained_names - changed if "embeddings" not in n and "key.bias" not in n}
    assert not unused, "every trained tensor but unused embedding rows moved"
    losses = [record.loss for record in result.history]
    assert np.mean(losses[-9:]) < 0.99 * np.mean(losses[:3])


def test_losses_are_equal_whatever_the_micro_batches(make_recipe):
    curves = []
    for tokens in (20, 100, 8192):
        recipe = make_recipe(LoRA(r=4), micro_batch_tokens=tokens, dropout=0.0, num_epochs=1)
        curves.append([record.loss for record in trained(recipe)[2].history])
    np.testing.assert_allclose(curves[0], curves[2], rtol=1e-5)
    np.testing.assert_allclose(curves[1], curves[2], rtol=1e-5)


@pytest.mark.parametrize("weights", ["none", {"good": 3.0, "bad": 0.5}])
def test_the_first_loss_is_what_torch_computes_by_hand(make_recipe, reviews, weights):
    task = TextClassification(data=Data(path=str(reviews)), class_weights=weights)
    recipe = make_recipe(HeadOnly(), task=task, max_steps=1, batch_size=500, label_smoothing=0.1)
    prepared, loaded = start(recipe)
    model = loaded.model.eval()
    examples = prepared.encoded.train
    logits = torch.cat([
        model(input_ids=torch.from_numpy(ids).long()[None]).logits for ids in examples.input_ids
    ])  # fmt: skip
    targets = torch.from_numpy(examples.targets)
    losses = torch.nn.functional.cross_entropy(
        logits, targets, label_smoothing=0.1, reduction="none"
    )
    of_label = {"bad": 1.0, "good": 1.0} if weights == "none" else weights
    of_row = torch.tensor([of_label[prepared.encoded.head.labels[t]] for t in targets])
    by_hand = (losses * of_row).sum() / of_row.sum()
    result = trained(recipe)[2]
    assert result.history[0].loss == pytest.approx(by_hand.item(), rel=1e-5)


def test_best_weights_are_restored(make_recipe):
    recipe = make_recipe(
        LoRA(r=4), num_epochs=6, learning_rate=0.3, schedule="constant", metric="loss"
    )
    _, engine, result, score = trained(recipe)
    losses = {record.step: record.metrics["loss"] for record in result.validations}
    assert result.best_value == min(losses.values()) == losses[result.best_step]
    assert score(engine).metrics["loss"] == pytest.approx(result.best_value, rel=1e-6)


def test_early_stopping_waits_for_its_patience(make_recipe):
    recipe = make_recipe(
        HeadOnly(), num_epochs=50, evaluate_every=1, early_stopping_patience=2, learning_rate=1e-9
    )
    result = trained(recipe)[2]
    assert result.stopped == "early stopping"
    assert result.num_steps == result.best_step + 2


def test_validation_every_n_steps_and_at_the_end(make_recipe):
    recipe = make_recipe(HeadOnly(), max_steps=8, evaluate_every=3)
    assert [record.step for record in trained(recipe)[2].validations] == [3, 6, 8]


def test_same_seed_same_losses_other_seed_other_losses(make_recipe):
    def losses(seed):
        recipe = make_recipe(LoRA(r=4, lora_dropout=0.1), max_steps=4).with_(seed=seed)
        return [record.loss for record in trained(recipe)[2].history]

    first = losses(0)
    assert losses(0) == first
    assert losses(1) != first


def test_decay_spares_the_factors_of_ia3_and_dora(make_recipe):
    """They begin at one and at the norm of a row; decay would pull them to zero."""
    for method, name in ((IA3(), "ia3_l"), (DoRA(r=2), "magnitude")):
        prepared, loaded = start(make_recipe(method))
        model = method.inject(loaded.model, prepared.encoded, loaded.head)
        made = make_optimizer(model, Training(weight_decay=0.5), {}, method.undecayed(model))
        names = {id(p): n for n, p in model.named_parameters()}
        groups = {names[id(p)]: group for group in made.param_groups for p in group["params"]}
        factors = {n: group["weight_decay"] for n, group in groups.items() if name in n}
        assert factors
        assert set(factors.values()) == {0.0}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_decay_spares_biases_and_norms(make_recipe, optimizer):
    _, loaded = start(make_recipe(FullFineTuning()))
    training = Training(optimizer=optimizer, weight_decay=0.5)
    made = make_optimizer(loaded.model, training, {"classifier.weight": 16.0})
    names = {id(p): name for name, p in loaded.model.named_parameters()}
    groups = {names[id(p)]: group for group in made.param_groups for p in group["params"]}
    assert len(groups) == len(names)
    for name, group in groups.items():
        spared = name.endswith("bias") or "LayerNorm" in name
        assert group["weight_decay"] == (0.0 if spared else 0.5), name
    assert groups["classifier.weight"]["lr"] == 16 * training.learning_rate


@pytest.mark.parametrize(
    ("rates", "of_head"),
    [({}, 0.01), ({"learning_rate": 0.05}, 0.05), ({"head_learning_rate": 0.002}, 0.002)],
    ids=["default", "high", "given"],
)
@pytest.mark.parametrize(
    "method", [LoRA(r=2), FullFineTuning(), HeadOnly()], ids=lambda m: m.kind()
)
def test_a_new_head_has_a_rate_of_its_own(make_recipe, method, rates, of_head):
    training = Training(**rates)
    prepared, loaded = start(make_recipe(method))
    model = method.inject(loaded.model, prepared.encoded, loaded.head)
    made = make_optimizer(model, training, {}, head=loaded.head)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: group["lr"] for group in made.param_groups for p in group["params"]}
    assert {rate for name, rate in found.items() if "classifier" in name} == {of_head}
    others = {
        rate for name, rate in found.items() if not {"classifier", "pooler"} & {*name.split(".")}
    }
    assert others <= {training.learning_rate}


@pytest.mark.parametrize(
    ("schedule", "last"), [("linear", 0.0), ("cosine", 0.0), ("constant", 1.0)]
)
def test_schedules_rise_and_end_where_they_should(schedule, last):
    parameter = torch.nn.Parameter(torch.zeros(1))
    training = Training(schedule=schedule, warmup_ratio=0.2, learning_rate=1.0)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = make_schedule(optimizer, training, 20)
    rates = []
    for _ in range(21):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.2)
    assert rates[:5] == sorted(rates[:5])
    assert max(rates) == rates[4] == 1.0
    assert rates[20] == pytest.approx(last)


def test_modules_below_the_first_trained_tensor_stay_in_eval_mode(make_recipe):
    prepared, loaded = start(
        make_recipe(LoRA(r=2, target_modules=r".*layer\.1\..*query", lora_dropout=0.1))
    )
    model = prepared.recipe.method.inject(loaded.model, prepared.encoded, loaded.head)
    batch = collate(prepared.encoded.train, [0], 0)
    quiet = set(modules_below(model, batch))
    names = {
        name.removeprefix("base_model.model.") for name, m in model.named_modules() if m in quiet
    }
    assert "bert.embeddings.dropout" in names
    assert "bert.encoder.layer.0.attention.self" in names
    assert "bert.encoder.layer.0" in names
    assert not any(name.startswith(("bert.encoder.layer.1", "classifier")) for name in names)


@pytest.mark.parametrize("change", [torch.neg, lambda t: t.flip(0), lambda t: t + 1e-3])
def test_the_frozen_digest_sees_every_kind_of_change(make_recipe, change):
    _, loaded = start(make_recipe())
    model = loaded.model.requires_grad_(False)
    before = guards.frozen_digest(model)
    weight = model.bert.encoder.layer[0].output.dense.weight
    weight.data = change(weight.data)
    assert guards.frozen_digest(model) != before


@pytest.mark.parametrize("method", [LoRA(r=4), HeadOnly(), FullFineTuning()], ids=METHOD_IDS)
def test_bfloat16_trains_and_reloads(make_recipe, method, tmp_path):
    """What a GPU does by default, here asked for on the CPU."""
    recipe = make_recipe(method, max_steps=3)
    recipe = recipe.with_(base=recipe.base.with_(dtype="bfloat16"))
    folder = run(recipe, str(tmp_path / "run")).folder
    assert load(str(folder)).predict(["a warm film"])[0].label in ("good", "bad")


def test_dropout_is_set_in_every_module(make_recipe):
    _, loaded = start(make_recipe(dropout=0.37))
    found = {m.p for m in loaded.model.modules() if isinstance(m, torch.nn.Dropout)}
    assert found == {0.37}


def test_nan_stops_before_the_weights_are_touched(make_recipe):
    recipe = make_recipe(FullFineTuning(), learning_rate=1e6, max_grad_norm=0, num_epochs=9)
    prepared, loaded = start(recipe)
    model = recipe.method.inject(loaded.model, prepared.encoded, loaded.head)
    accelerator = Accelerator()
    with pytest.raises(TrainingError, match=r"step \d+: the loss is .*rows \d+") as caught:
        train(
            engine_of(model, prepared, accelerator), prepared.encoded.train, recipe,
            lambda _: {"accuracy": 0.0}, SILENT,
        )  # fmt: skip
    assert caught.value.exit_code == 1
    assert all(parameter.isfinite().all() for parameter in model.parameters())


class ForgetsToTrain(HeadOnly):
    """Makes a parameter trainable that the forward pass never uses."""

    def inject(self, model, encoded, head):
        super().inject(model, encoded, head)
        model.register_parameter("unused", torch.nn.Parameter(torch.zeros(2)))
        return model


class WritesToTheBase(HeadOnly):
    """Changes a frozen weight after each step."""

    def after_step(self, model, step, num_steps):
        next(model.parameters()).data.add_(1e-3)


class TrainsNothing(HeadOnly):
    def inject(self, model, encoded, head):
        return model.requires_grad_(False)


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (ForgetsToTrain(), TrainingError, "1 of 3 trained tensors got no gradient .* `unused`"),
        (TrainsNothing(), MethodError, "left nothing to train"),
        (WritesToTheBase(), TrainingError, "frozen weights were changed"),
    ],
)
def test_guards_catch_broken_methods(make_recipe, method, error, message):
    recipe = make_recipe(max_steps=2).with_(method=method)
    with pytest.raises(error, match=message):
        trained(recipe)


class Penalised(HeadOnly):
    """Adds the squared norm of the head, as AdaLoRA or EWC would add theirs."""

    def penalty(self, model):
        return 100 * sum(p.square().sum() for p in trainable_parameters(model).values())


def test_penalty_pulls_on_the_weights(make_recipe):
    norms = []
    for method in (HeadOnly(), Penalised()):
        recipe = make_recipe(max_steps=40, num_epochs=9).with_(method=method)
        head = trained(recipe)[1].model.classifier
        norms.append(sum(p.square().sum().item() for p in head.parameters()))
    assert norms[1] < norms[0]
