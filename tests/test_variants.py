"""What is special about single methods: their formulas, schedules, starts and rates."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
from torch import nn

import peftkit as pk
from peftkit.adapters.loading import load_trained_model
from peftkit.bases.footprint import footprint
from peftkit.bases.loading import load_weights
from peftkit.bases.opening import open_base
from peftkit.errors import MethodError
from peftkit.methods.eva import ROWS, training_batches
from peftkit.methods.method import trainable_parameters
from peftkit.methods.peft.layers import lora_layers
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.training.forward.collating import collate
from peftkit.training.loop import keep_few_activations
from peftkit.training.optimizers import make_optimizer
from tests.conftest import code_of_card
from tests.test_methods import CPU, IDS_TENSOR, disturb, injected


def test_lora_plus_gives_b_a_higher_rate(make_recipe):
    recipe = make_recipe(pk.LoRA(r=2, loraplus_lr_ratio=16))
    _, model, _ = injected(recipe)
    optimizer = make_optimizer(model, recipe.training, recipe.method.learning_rate_scales(model))
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, rate in rates.items():
        factor = 16 if ".lora_B." in name else 1
        assert rate == pytest.approx(factor * recipe.training.learning_rate), name
    assert any(".lora_B." in name for name in rates)


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, 16 / 4), (True, 16 / 2)])
def test_the_update_is_scaled_as_the_papers_say(make_recipe, use_rslora, scale):
    method = pk.LoRA(r=4, lora_alpha=16, use_rslora=use_rslora)
    _, model, _ = injected(make_recipe(method))
    disturb(model)
    layer = next(iter(lora_layers(model).values()))
    x = torch.randn(3, 64)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer(x) + scale * x @ a.T @ b.T
    torch.testing.assert_close(layer(x), expected)


def test_dora_normalises_rows(make_recipe):
    _, model, _ = injected(make_recipe(pk.DoRA(r=4)))
    disturb(model)
    layer = next(iter(lora_layers(model).values()))
    x = torch.randn(3, 64)
    moved = (
        layer.base_layer.weight
        + 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    magnitude = layer.lora_magnitude_vector["default"].weight
    weight = magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True)
    torch.testing.assert_close(layer(x), x @ weight.T + layer.base_layer.bias)


@pytest.mark.parametrize("base", ["bert", "llama"])
@pytest.mark.parametrize(("method", "start"), [(pk.PiSSA(r=4), "pissa"), (pk.OLoRA(r=4), "olora")])
def test_pissa_and_olora_are_peft_s_function_and_gradients(make_recipe, method, start, base):
    """PEFT takes the part out of the base's weight; here the base stays what it was."""
    prepared, ours, _ = injected(make_recipe(method, base))
    torch.manual_seed(0)
    loaded = load_weights(prepared.base, prepared.encoded.head, torch.float32, CPU, None)
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=16, target_modules="all-linear",
        exclude_modules=list(loaded.head), init_lora_weights=start,
    )  # fmt: skip
    theirs = peft.get_peft_model(loaded.model, config).eval()
    ours.eval()
    gradients = []
    for model in (ours, theirs):
        model(input_ids=IDS_TENSOR).logits.square().sum().backward()
        gradients.append([
            (getattr(layer, part)["default"].weight if model is theirs
             else getattr(layer, part)["default"].parametrizations.weight.original).grad
            for layer in lora_layers(model).values() for part in ("lora_A", "lora_B")
        ])  # fmt: skip
    found, expected = (m(input_ids=IDS_TENSOR).logits for m in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)
    for name, weight in ours.base_model.model.named_parameters():
        plain = name.replace(".base_layer", "")
        if plain in before and "modules_to_save" not in name:
            assert torch.equal(weight, before[plain]), name


@pytest.mark.parametrize("method", [pk.PiSSA(r=4), pk.PiSSA(r=4, niter=16), pk.OLoRA(r=4)])
def test_pissa_and_olora_are_saved_as_a_lora_that_plain_peft_loads(make_recipe, method, tmp_path):
    prepared, model, _ = injected(make_recipe(method.with_(use_rslora=True)))
    disturb(model)
    expected = model(input_ids=IDS_TENSOR).logits
    method.save(model, tmp_path)
    torch.manual_seed(5)
    fresh = load_weights(prepared.base, prepared.encoded.head, torch.float32, CPU, None).model
    loaded = peft.PeftModel.from_pretrained(fresh, str(tmp_path)).eval()
    torch.testing.assert_close(loaded(input_ids=IDS_TENSOR).logits, expected)
    config = loaded.peft_config["default"]
    assert (config.r, config.init_lora_weights) == (8, True)


def test_eva_starts_at_the_directions_in_which_inputs_vary(make_recipe):
    method = pk.EVA(r=2, rho=1, target_modules=r".*layer\.0\.attention\.self\.query")
    recipe = make_recipe(method)
    prepared, model, before = injected(recipe)
    assert torch.equal(model(input_ids=IDS_TENSOR).logits, before)
    (layer,) = lora_layers(model).values()
    inputs = []
    handle = layer.base_layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    for batch in training_batches(prepared.encoded, CPU):
        model(**batch)
    handle.remove()
    x = torch.cat([tensor.reshape(-1, 64) for tensor in inputs])
    directions = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:2]
    a = layer.lora_A["default"].weight
    cosines = (a / a.norm(dim=1, keepdim=True) @ directions.T).abs()
    assert cosines.diagonal().min() > 0.97, cosines
    assert not layer.lora_B["default"].weight.any()


def test_eva_moves_ranks_within_the_budget(make_recipe):
    _, model, _ = injected(make_recipe(pk.EVA(r=4, rho=2)))
    ranks = [layer.r["default"] for layer in lora_layers(model).values()]
    assert sum(ranks) == 4 * 13  # six linear layers in each of two blocks, and the pooler
    assert max(ranks) <= 8
    assert len(set(ranks)) > 1


def test_eva_looks_at_rows_without_padding(make_recipe):
    prepared = prepare(make_recipe(pk.EVA(r=2)))
    batches = training_batches(prepared.encoded, CPU)
    assert sum(len(batch["input_ids"]) for batch in batches) == len(prepared.encoded.train)
    assert all(batch["attention_mask"].all() for batch in batches)
    assert all(len(batch["input_ids"]) <= ROWS for batch in batches)


def test_eva_gives_up_where_it_would_search_for_ever(make_recipe, monkeypatch):
    monkeypatch.setattr("peftkit.methods.eva.MOST_BATCHES", 20)
    recipe = make_recipe(pk.EVA(r=60, rho=1, tau=0.999999))
    with pytest.raises(MethodError, match="found no stable components"):
        injected(recipe)


def adalora(make_recipe, **training):
    method = pk.AdaLoRA(init_r=4, target_r=2, tinit=2, tfinal=3)
    return make_recipe(method, learning_rate=2e-2, num_epochs=9, **training)


def test_adalora_ends_with_its_target_rank_and_saves_no_more(make_recipe, tmp_path):
    from safetensors.torch import load_file

    recipe = adalora(make_recipe, max_steps=12, early_stopping_patience=0, evaluate_every=12)
    done = run(recipe, str(tmp_path / "run"))
    tensors = load_file(done.folder / "adapter/adapter_model.safetensors")
    ranks = [len(t) for name, t in tensors.items() if name.endswith("lora_E")]
    kept = sum(int((t != 0).sum()) for name, t in tensors.items() if name.endswith("lora_E"))
    assert kept == 2 * 13
    assert all(1 <= rank <= 4 for rank in ranks)
    assert done.record.probes.max_difference < 1e-6


def test_adalora_keeps_the_best_weights_of_the_last_phase(make_recipe, tmp_path):
    """Of those with the final ranks, that is: from the ninth of twelve steps on."""
    recipe = adalora(make_recipe, max_steps=12, evaluate_every=1, early_stopping_patience=1)
    recipe = recipe.with_(training=recipe.training.with_(schedule="constant", learning_rate=0.5))
    done = run(recipe, str(tmp_path / "run"))
    assert 9 <= done.record.training.best_step < 12
    assert len(done.record.training.validations) >= 9
    assert done.record.probes.max_difference < 1e-6


def test_adalora_penalty_is_the_mean_distance_from_orthogonal(make_recipe):
    recipe = make_recipe(pk.AdaLoRA(init_r=4, target_r=2, orth_reg_weight=0.3))
    _, model, _ = injected(recipe)
    disturb(model)
    distances = []
    for name, p in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            rows = p if ".lora_A." in name else p.T
            distances.append(((rows @ rows.T - torch.eye(4)) ** 2).sum().sqrt())
    expected = 0.3 * torch.stack(distances).mean()
    torch.testing.assert_close(recipe.method.penalty(model), expected)


def test_adalora_needs_steps_in_which_ranks_can_fall(make_recipe):
    recipe = make_recipe(pk.AdaLoRA(init_r=4, target_r=2, tinit=5, tfinal=5), max_steps=10)
    with pytest.raises(MethodError, match="leave no step of the run's 10"):
        prepare(recipe)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_adalora_runs_or_is_refused_before_loading_whatever_the_steps(make_recipe, tmp_path, steps):
    """The first step only measures; PEFT ends in a KeyError where ranks are to be final by then."""
    recipe = make_recipe(pk.AdaLoRA(init_r=4, target_r=2), max_steps=steps)
    if steps < 3:
        with pytest.raises(MethodError, match="leave no step of the run's"):
            prepare(recipe)
        return
    assert run(recipe, str(tmp_path / "run")).record.training.num_steps == steps


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adalora_trains_no_rank(make_recipe, dtype):
    """On a bfloat16 base PEFT (0.21) makes the divisor `ranknum` trainable, and saves it not."""
    recipe = make_recipe(pk.AdaLoRA())
    prepared = prepare(recipe)
    loaded = load_weights(
        prepared.base, prepared.encoded.head, getattr(torch, dtype), CPU, None
    )  # fmt: skip
    model = recipe.method.inject(loaded.model, prepared.encoded, loaded.head)
    assert not any("ranknum" in name for name in trainable_parameters(model))


def test_ia3_scales_what_the_paper_scales(make_recipe):
    _, model, _ = injected(make_recipe(pk.IA3()))
    scaled = {
        name.removeprefix("base_model.model.bert.encoder.layer.0.")
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.ia3.IA3Layer) and "layer.0" in name
    }
    assert scaled == {"attention.self.key", "attention.self.value", "output.dense"}


@pytest.mark.parametrize(
    ("length", "words"), [(2, "bright warm"), (5, "bright warm happy bright warm")]
)
def test_prompt_tuning_can_start_from_a_text(make_recipe, length, words):
    """Cut or repeated, without special tokens among it."""
    method = pk.PromptTuning(
        num_virtual_tokens=length,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text="bright warm happy",
    )
    prepared, model, _ = injected(make_recipe(method))
    ids = prepared.base.tokenizer(words, add_special_tokens=False).input_ids
    start = model.prompt_encoder["default"].embedding.weight
    assert torch.equal(start, model.get_input_embeddings().weight[ids])


def test_texts_leave_room_for_virtual_tokens(make_recipe):
    plain = prepare(make_recipe(pk.LoRA()))
    virtual = prepare(make_recipe(pk.PromptTuning(num_virtual_tokens=55)))
    assert plain.base.tokenizer.model_max_length == 64
    longest = max(len(ids) for ids in virtual.encoded.train.input_ids)
    assert longest == virtual.base.tokenizer.model_max_length == 9
    assert virtual.encoded.train.truncated > 0


METHODS = [
    pk.LoRA(r=4, lora_dropout=0.1), pk.DoRA(r=4), pk.PiSSA(r=4), pk.AdaLoRA(), pk.IA3(),
    pk.PromptTuning(num_virtual_tokens=4), pk.PTuning(num_virtual_tokens=4),
    pk.BottleneckAdapter(), pk.BottleneckAdapter(placement="pfeiffer"),
    pk.BottleneckAdapter(placement="parallel"), pk.LayerNormTuning(), pk.BitFit(),
    pk.TopLayers(k=1), pk.HeadOnly(), pk.FullFineTuning(),
]  # fmt: skip


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("base", ["bert", "llama"])
@pytest.mark.parametrize("method", METHODS, ids=[f"{m!r:.40}" for m in METHODS])
def test_activation_checkpointing_gives_the_same_gradients(make_recipe, method, base, quantization):
    if method.refuses(
        make_recipe().task.expected_head, pk.Base(name_or_path="x", quantization=quantization)
    ):
        return  # refused; see the matrix
    if (method.kind(), base) == ("BitFit", "llama"):
        return
    recipe = make_recipe(method, base, quantization=quantization)
    gradients = []
    for checkpointing in (False, True):
        prepared, model, _ = injected(recipe)
        disturb(model)
        if checkpointing:
            keep_few_activations(model)
        model.train()
        torch.manual_seed(4)
        encoded = prepared.encoded
        batch = collate(encoded.train, range(4), encoded.pad_token_id)
        model(**batch.inputs).logits.square().sum().backward()
        gradients.append({n: p.grad for n, p in trainable_parameters(model).items()})
    checked = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    assert checked, "it was switched on"
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adamw_8bit", "paged_adamw_8bit", "lion"])
def test_every_optimizer_learns(make_recipe, optimizer, tmp_path):
    rate = {"lion": 3e-3, "sgd": 0.03}.get(optimizer, 1e-2)
    recipe = make_recipe(pk.LoRA(r=16), optimizer=optimizer, learning_rate=rate, num_epochs=6)
    done = run(recipe, str(tmp_path / "run"))
    losses = [step.loss for step in done.record.training.history]
    assert np.mean(losses[-9:]) < 0.99 * np.mean(losses[:9])


def test_8_bit_optimizers_keep_their_state_in_8_bits():
    from peftkit.recipe import Training

    model = nn.Linear(128, 64)
    optimizer = make_optimizer(model, Training(optimizer="adamw_8bit"), {})
    model(torch.randn(2, 128)).sum().backward()
    optimizer.step()
    state = optimizer.state[model.weight]
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8


def test_lion_steps_by_the_sign_of_the_gradient():
    from peftkit.recipe import Training

    model = nn.Linear(8, 8, bias=False)
    before = model.weight.detach().clone()
    optimizer = make_optimizer(
        model, Training(optimizer="lion", learning_rate=1e-2, weight_decay=0), {}
    )
    model.weight.grad = torch.randn(8, 8)
    optimizer.step()
    torch.testing.assert_close(model.weight, before - 1e-2 * model.weight.grad.sign())


@pytest.mark.parametrize(
    ("quantization", "double"),
    [("none", False), ("int8", False), ("nf4", False), ("nf4", True), ("fp4", False)],
)
def test_memory_counts_the_quantization_state(make_recipe, quantization, double):
    recipe = make_recipe(pk.LoRA(), "llama", quantization=quantization)
    recipe = recipe.with_(base=recipe.base.with_(double_quant=double))
    prepared = prepare(recipe)
    model = load_weights(prepared.base, prepared.encoded.head, torch.float32, CPU, None).model
    model(input_ids=IDS_TENSOR)  # after which bitsandbytes keeps int8's scales elsewhere
    found = footprint(model)
    linear = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)] * 2
    weights = sum(i * o for i, o in linear)
    others = prepared.total_parameters - weights
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    bits = {"none": 32, "int8": 8, "nf4": 4, "fp4": 4}[quantization]
    assert found.weights_mb * 2**20 == pytest.approx(weights * bits / 8 + 4 * others + buffers)
    state = found.quantization_state_mb * 2**20
    if quantization == "none":
        assert state == 0
    elif quantization == "int8":
        assert state == 4 * sum(o for _, o in linear)  # one scale for each output
    else:
        blocks = weights / 64
        codes = 14 * 16 * 4
        scales = blocks * (1 if double else 4)
        assert scales + codes <= state <= scales + codes + 14 * (256 + 256 * 4 + 4 + 16)


def test_a_run_reports_the_memory_of_its_base(make_recipe, tmp_path):
    done = run(make_recipe(pk.LoRA(), quantization="nf4", max_steps=1), str(tmp_path / "run"))
    assert 0.03 < done.record.base_memory_mb < 1
    assert "base's weights " in (done.folder / "receipt.html").read_text()


TOKENS = ("<order>", "<refund>", "<warm>")


ANY = [
    *METHODS, pk.PrefixTuning(num_virtual_tokens=4), pk.EVA(r=2),
    pk.PeftMethod(config={"peft_type": "VERA", "r": 8, "target_modules": ".*(query|q_proj)"}),
]  # fmt: skip
QUICK_ON_LLAMA = ("LoRA", "PrefixTuning", "FullFineTuning")
"""The others run on Llama in `make slow`."""


@pytest.mark.parametrize(
    ("method", "base"),
    [
        *((method, "bert") for method in ANY),
        *(
            pytest.param(m, "llama", marks=[] if m.kind() in QUICK_ON_LLAMA else pytest.mark.slow)
            for m in ANY
            if m.kind() != "BitFit"  # Llama has no biases
        ),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_added_tokens_are_trained_and_saved_with_any_method(
    make_recipe, tmp_path, method, base, reviews_with_tokens
):
    recipe = make_recipe(method, base, data=reviews_with_tokens, max_steps=4)
    recipe = recipe.with_(base=recipe.base.with_(added_tokens=TOKENS))
    done = run(recipe, str(tmp_path / "run"))
    assert done.record.probes.max_difference < 1e-5
    adapter = pk.load(str(done.folder))
    ids = adapter.tokenizer.convert_tokens_to_ids(list(TOKENS))
    assert adapter.tokenizer("a <order> film").input_ids.count(ids[0]) == 1
    torch.manual_seed(0)
    prepared = prepare(recipe)
    fresh = load_weights(prepared.base, prepared.encoded.head, torch.float32, CPU, None).model
    start = fresh.get_input_embeddings().weight[ids]
    rows = adapter.model.get_input_embeddings()
    trained = rows.rows if hasattr(rows, "rows") else rows.weight[ids]
    assert (trained != start).any(dim=1).all(), "every added token's embedding moved"
    assert "<order>" in (done.folder / "adapter/README.md").read_text() or method.kind() == (
        "FullFineTuning"
    )


@pytest.fixture(scope="module")
def reviews_with_tokens(tmp_path_factory):
    from tests.conftest import sentences, write_csv

    rows = [
        (f"{text} {TOKENS[n % 2]} {TOKENS[2]}", label)
        for n, (text, label) in enumerate(sentences(120))
    ]
    return write_csv(tmp_path_factory.mktemp("tokens") / "reviews.csv", rows)


@pytest.mark.parametrize("architecture", ["Llama", "Qwen", "Gemma", "GPT-2", "BERT", "T5", "BART"])
def test_added_tokens_get_rows_where_there_are_none_to_spare(
    architecture, tmp_path, reviews_with_tokens
):
    """The vocabulary is as large as the tokenizer; encoder and decoder share one embedding."""
    from transformers import AutoTokenizer

    from tests.matrix import save_architecture

    folder = save_architecture(tmp_path / "base", architecture)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"spare{n}" for n in range(96 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) == 96
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(folder), added_tokens=TOKENS),
        task=pk.TextClassification(data=pk.Data(path=str(reviews_with_tokens))),
        method=pk.LoRA(r=2),
        training=pk.Training(max_steps=2, learning_rate=1e-2),
    )
    done = run(recipe, str(tmp_path / "run"))
    assert done.record.probes.max_difference < 1e-5
    adapter = pk.load(str(done.folder))
    assert len(adapter.model.get_input_embeddings().weight) == 99
    first, second = adapter.predict(["a <order> film", "a <refund> film"])
    assert first != second


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (pk.LoRA(r=2, target_modules=("word_embeddings", "query")), "is adapted by the method"),
        (
            pk.PeftMethod(config={
                "peft_type": "LORA", "target_modules": ["query"],
                "modules_to_save": ["word_embeddings"],
            }),
            None,
        ),
    ],
)  # fmt: skip
def test_added_tokens_where_the_method_trains_the_embedding_too(
    make_recipe, method, reason, reviews_with_tokens, tmp_path
):
    recipe = make_recipe(method, data=reviews_with_tokens, max_steps=2)
    recipe = recipe.with_(base=recipe.base.with_(added_tokens=TOKENS))
    if reason:
        with pytest.raises(MethodError, match=reason):
            prepare(recipe)
    else:
        assert run(recipe, str(tmp_path / "run")).record.probes.max_difference < 1e-5


@pytest.mark.parametrize(
    ("architecture", "head", "expected"),
    [
        ("BERT", "classification", ["bert.encoder.layer.1", "bert.pooler.dense", "classifier"]),
        ("Llama", "classification", ["model.layers.1", "model.norm", "score"]),
        ("Llama", "language model", ["model.layers.1", "model.norm"]),
        ("GPT-2", "token labels", ["transformer.h.1", "transformer.ln_f", "classifier"]),
        ("T5", "token labels",
         ["transformer.encoder.block.1", "transformer.encoder.final_layer_norm", "classifier"]),
        ("T5", "sequence to sequence", ["decoder.block.1", "decoder.final_layer_norm"]),
        ("BART", "classification", ["model.decoder.layers.1", "classification_head"]),
        ("OPT", "classification", ["model.decoder.layers.1", "model.decoder.final_layer_norm",
                                   "score"]),
        ("DeBERTa-v2", "classification",
         ["deberta.encoder.layer.1", "pooler.dense", "classifier"]),
    ],
)  # fmt: skip
def test_top_layers_are_the_last_block_and_what_comes_after_it(
    architecture, head, expected, tmp_path
):
    from tests.matrix import HEADS, base_of, encoded_of, save_architecture

    folder = save_architecture(tmp_path, architecture)
    opened = open_base(base_of(folder, "float32"))
    encoded = encoded_of(HEADS[head][0])
    loaded = load_weights(opened, encoded.head, torch.float32, CPU, None)
    model = pk.TopLayers(k=1).inject(loaded.model, encoded, loaded.head)
    trained = set(trainable_parameters(model))
    below = {
        name for name, _ in model.named_parameters()
        if name.startswith(tuple(f"{module}." for module in expected))
    }  # fmt: skip
    assert trained == below


@pytest.mark.parametrize(
    ("architecture", "quantization"), [("ModernBERT", "nf4"), ("T5", "int8"), ("Llama", "nf4")]
)
def test_the_card_loads_quantized_bases_as_they_were_trained(
    architecture, quantization, reviews, tmp_path
):
    from tests.matrix import save_architecture

    folder = save_architecture(tmp_path / "base", architecture)
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(folder), quantization=quantization),
        task=pk.TextClassification(data=pk.Data(path=str(reviews))),
        method=pk.LoRA(r=2),
        training=pk.Training(max_steps=2, learning_rate=1e-2),
    )
    adapter = run(recipe, str(tmp_path / "run")).folder / "adapter"
    found = {}
    exec(code_of_card(adapter, folder)[0], found)
    ids = torch.tensor([[5, 9, 11, 2]])
    with torch.no_grad():
        found["model"](input_ids=ids)  # bitsandbytes would repack at the first
    expected = pk.load(str(adapter.parent)).model(input_ids=ids).logits
    torch.testing.assert_close(found["model"](input_ids=ids).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("base", ["bert", "llama"])
def test_added_tokens_work_in_plain_peft_by_the_cards_own_code(
    make_recipe, tmp_path, base, reviews_with_tokens, bases
):
    recipe = make_recipe(pk.LoRA(r=4), base, data=reviews_with_tokens, max_steps=4)
    recipe = recipe.with_(base=recipe.base.with_(added_tokens=TOKENS))
    adapter = run(recipe, str(tmp_path / "run")).folder / "adapter"
    loading, tokens = code_of_card(adapter, bases[base])
    head, apply = loading.rsplit("model = PeftModel", 1)
    found = {}
    torch.manual_seed(9)
    exec(f"{head}\n{tokens}\nmodel = PeftModel{apply}", found)
    ids = torch.tensor([[2, 9, *found["ids"], 3]])
    expected = pk.load(str(adapter.parent)).model(input_ids=ids).logits
    torch.testing.assert_close(found["model"](input_ids=ids).logits, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_added_tokens_of_a_language_model_are_answered_too(bases, tmp_path, tied):
    """The output layer has rows for them: the same as the embedding's where they are tied."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from peftkit.bases.added_tokens import (
        fold_added_tokens,
        load_added_tokens,
        save_added_tokens,
        train_added_tokens,
    )

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(bases["llama"])
    config.tie_word_embeddings = tied
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    model.resize_token_embeddings(83)
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.tensor([[5, 80, 82, 7]])
    before = model(ids).logits
    train_added_tokens(model, (80, 81, 82))
    torch.testing.assert_close(model(ids).logits, before)
    assert sum(p.numel() for p in trainable_parameters(model).values()) == 3 * 64 * (2 - tied)
    model(ids).logits.square().sum().backward()
    disturb(model)
    after = model(ids).logits
    assert not torch.equal(after, before)
    save_added_tokens(model, tmp_path)
    fresh = AutoModelForCausalLM.from_config(config).eval()
    fresh.resize_token_embeddings(83)
    fresh.load_state_dict(original)
    load_added_tokens(fresh, tmp_path, (80, 81, 82))
    torch.testing.assert_close(fresh(ids).logits, after)
    fold_added_tokens(fresh)
    torch.testing.assert_close(fresh(ids).logits, after)
    assert not any("rows" in name for name, _ in fresh.named_parameters())


def test_merging_folds_added_tokens_in(make_recipe, tmp_path, reviews_with_tokens):
    from peftkit.deploy.merging.folding import merge

    recipe = make_recipe(pk.LoRA(r=4), "llama", data=reviews_with_tokens, quantization="nf4",
                         max_steps=4)  # fmt: skip
    recipe = recipe.with_(base=recipe.base.with_(added_tokens=TOKENS))
    done = run(recipe, str(tmp_path / "run"))
    merged = merge(str(done.folder))
    adapter = pk.load(str(done.folder))
    added = adapter.tokenizer.convert_tokens_to_ids(list(TOKENS))
    ids = torch.tensor([[5, *added, 9, 3]])
    expected = adapter.model(input_ids=ids).logits
    torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
    assert {type(m).__name__ for m in merged.modules()}.isdisjoint(
        {"Linear4bit", "AddedEmbeddings"}
    )


def test_a_changed_file_of_added_tokens_is_refused(make_recipe, tmp_path, reviews_with_tokens):
    from safetensors.torch import load_file, save_file

    recipe = make_recipe(pk.HeadOnly(), data=reviews_with_tokens, max_steps=1)
    recipe = recipe.with_(base=recipe.base.with_(added_tokens=TOKENS))
    folder = run(recipe, str(tmp_path / "run")).folder
    file = folder / "adapter/added_tokens.safetensors"
    save_file({"input": load_file(file)["input"][:2].clone()}, file)
    with pytest.raises(pk.PeftkitError, match="and was F32 of shape"):
        pk.load(str(folder))
    prepared = prepare(recipe)
    with pytest.raises(pk.PeftkitError, match=r"added_tokens\.safetensors` does not fit the model"):
        load_trained_model(folder / "adapter", recipe, prepared.base, prepared.encoded.head, CPU)


@pytest.mark.parametrize("base", ["bert", "llama"])
@pytest.mark.parametrize(
    "method",
    [pk.PrefixTuning(num_virtual_tokens=4), pk.PromptTuning(num_virtual_tokens=4),
     pk.PTuning(num_virtual_tokens=4)],
    ids=["prefix", "prompt", "p-tuning"],
)  # fmt: skip
def test_virtual_tokens_in_padded_batches_are_unpadded_texts(make_recipe, method, base):
    """Outputs and gradients; PEFT alone reads padding in a decoder with a classification head."""
    prepared, model, _ = injected(make_recipe(method, base))
    disturb(model)
    examples, pad = prepared.encoded.train, prepared.encoded.pad_token_id
    found = []
    for groups in ([range(6)], [[index] for index in range(6)]):
        model.zero_grad()
        logits = [model(**collate(examples, g, pad).inputs).logits for g in groups]
        torch.cat(logits).square().sum().backward()
        gradients = {n: p.grad.clone() for n, p in trainable_parameters(model).items()}
        found.append((torch.cat(logits), gradients))
    torch.testing.assert_close(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-5)
