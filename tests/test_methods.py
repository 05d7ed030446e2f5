"""Every method passes the same matrix, on real tiny models."""

from __future__ import annotations

import re

import pytest
import torch

from peftkit import FullFineTuning, HeadOnly, LoRA, PrefixTuning
from peftkit.adapters.loading import load_trained_model
from peftkit.bases.loading import empty_model, load_weights
from peftkit.errors import AdapterError, MethodError
from peftkit.methods.method import trainable_parameters
from peftkit.stages.preparing import prepare

CPU = torch.device("cpu")
METHODS = [LoRA(r=4), LoRA(r=2, target_modules=("q_proj", "query")), HeadOnly(), FullFineTuning()]
IDS = ["LoRA", "LoRA-q", "HeadOnly", "FullFineTuning"]
IDS_TENSOR = torch.tensor([[2, 9, 11, 14, 3]])


def adapted(method, base):
    """The method without target names that this base does not have."""
    if method.kind() == "LoRA" and isinstance(method.target_modules, tuple):
        return method.with_(target_modules=("query",) if base == "bert" else ("q_proj",))
    return method


def injected(recipe):
    prepared = prepare(recipe)
    torch.manual_seed(0)
    loaded = load_weights(prepared.base, prepared.encoded.head, torch.float32, CPU, None)
    before = loaded.model.eval()(input_ids=IDS_TENSOR).logits
    model = recipe.method.inject(loaded.model, prepared.encoded, loaded.head).eval()
    return prepared, model, before


def disturb(model):
    """Moves every trained tensor, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(0.05 * torch.randn_like(parameter))


@pytest.mark.parametrize("base", ["bert", "llama"])
@pytest.mark.parametrize("method", METHODS, ids=IDS)
class TestEveryMethod:
    def test_equals_the_base_before_training(self, make_recipe, method, base):
        _, model, before = injected(make_recipe(adapted(method, base), base))
        assert torch.equal(model(input_ids=IDS_TENSOR).logits, before)

    def test_save_and_load_on_another_seed_gives_equal_logits(
        self, make_recipe, method, base, tmp_path
    ):
        recipe = make_recipe(adapted(method, base), base)
        prepared, model, before = injected(recipe)
        disturb(model)
        trained = model(input_ids=IDS_TENSOR).logits
        assert not torch.allclose(trained, before, atol=1e-3)
        recipe.method.save(model, tmp_path)
        loaded = load_trained_model(tmp_path, recipe, prepared.base, prepared.encoded.head, CPU)
        assert torch.equal(loaded(input_ids=IDS_TENSOR).logits, trained)
        assert not trainable_parameters(loaded)

    def test_the_rehearsal_counts_the_parameters_of_the_real_model(self, make_recipe, method, base):
        prepared, model, _ = injected(make_recipe(adapted(method, base), base))
        counted = sum(p.numel() for p in trainable_parameters(model).values())
        assert prepared.trainable_parameters == counted

    def test_a_damaged_file_is_refused(self, make_recipe, method, base, tmp_path):
        from safetensors.torch import load_file, save_file

        recipe = make_recipe(adapted(method, base), base)
        prepared, model, _ = injected(recipe)
        recipe.method.save(model, tmp_path)
        (file,) = tmp_path.glob("*.safetensors")
        tensors = load_file(file)
        name = next(iter(tensors))
        kept = {n: t for n, t in tensors.items() if n != name}
        for damaged in (kept, {**tensors, "other": tensors[name].clone()}):
            save_file(damaged, file, metadata={"format": "pt"})
            with pytest.raises(AdapterError, match="does not fit the model"):
                load_trained_model(tmp_path, recipe, prepared.base, prepared.encoded.head, CPU)


def test_trainable_parameters_follow_the_formulas(make_recipe):
    r, hidden, inner, layers, labels = 4, 64, 128, 2, 2
    head = hidden * labels + labels
    # q, k, v, o: hidden x hidden; up, down: hidden x inner; pooler: hidden x hidden
    lora = layers * (4 * r * 2 * hidden + 2 * r * (hidden + inner)) + r * 2 * hidden
    assert prepare(make_recipe(LoRA(r=r))).trainable_parameters == lora + head
    assert prepare(make_recipe(HeadOnly())).trainable_parameters == head
    full = prepare(make_recipe(FullFineTuning()))
    assert full.trainable_parameters == full.total_parameters


def test_missing_target_modules_are_named_with_those_that_exist(make_recipe):
    with pytest.raises(MethodError) as caught:
        prepare(make_recipe(LoRA(target_modules=("query", "q_proj", "v_proj"))))
    assert "no layer of BertForSequenceClassification is named `q_proj`, `v_proj`" in str(
        caught.value
    )
    assert "its layers are `dense`, `key`" in caught.value.hint


def test_a_pattern_that_matches_nothing_is_refused(make_recipe):
    with pytest.raises(MethodError, match=r"nothing` matches no layer of Bert") as caught:
        prepare(make_recipe(LoRA(target_modules=r".*\.nothing")))
    assert "a pattern is for full names, such as `bert." in caught.value.hint


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4"])
@pytest.mark.parametrize("base", ["bert", "llama"])
def test_lora_on_a_quantized_base_saves_and_loads(make_recipe, base, quantization, tmp_path):
    recipe = make_recipe(LoRA(r=4), base, quantization=quantization)
    prepared, model, _ = injected(recipe)
    layers = {
        type(module.base_layer).__name__
        for name, module in model.named_modules()
        if hasattr(module, "base_layer") and "pooler" not in name  # it may have to be trained
    }
    assert layers == {"Linear8bitLt" if quantization == "int8" else "Linear4bit"}
    disturb(model)
    trained = model(input_ids=IDS_TENSOR).logits
    recipe.method.save(model, tmp_path)
    loaded = load_trained_model(tmp_path, recipe, prepared.base, prepared.encoded.head, CPU)
    torch.testing.assert_close(loaded(input_ids=IDS_TENSOR).logits, trained)


def dequantize(model):
    """Puts an ordinary linear layer in the place of every 4-bit one."""
    import bitsandbytes as bnb

    for module in model.modules():
        layer = getattr(module, "base_layer", None)
        if isinstance(layer, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            plain = torch.nn.Linear(*weight.shape[::-1], bias=layer.bias is not None)
            plain.weight.data = weight
            if layer.bias is not None:
                plain.bias = layer.bias
            module.base_layer = plain


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
@pytest.mark.parametrize("base", ["bert", "llama"])
def test_gradients_on_a_4_bit_base_are_those_of_the_dequantized_one(
    make_recipe, base, quantization
):
    """Also after an evaluation, where bitsandbytes would swap in kernels without a backward."""
    _, model, _ = injected(make_recipe(LoRA(r=4), base, quantization=quantization))
    disturb(model)
    with torch.inference_mode():
        model(input_ids=IDS_TENSOR)
    found = []
    for _ in range(2):
        model.zero_grad()
        model(input_ids=IDS_TENSOR).logits.logsumexp(-1).sum().backward()
        found.append({n: p.grad.clone() for n, p in trainable_parameters(model).items()})
        dequantize(model)
    for name, gradient in found[0].items():
        assert gradient.any(), name
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-6)


def test_the_head_is_whatever_stands_above_the_trunk(make_recipe):
    prepared = prepare(make_recipe())
    assert empty_model(prepared.base, prepared.encoded.head).head == ("classifier",)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_pooler_without_weights_is_trained_and_saved(make_recipe, bases, tmp_path, quantization):
    """A masked language model has no pooler: it would be random, so it belongs to the head."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = AutoModelForMaskedLM.from_pretrained(bases["bert"])
    model.save_pretrained(tmp_path / "mlm")
    AutoTokenizer.from_pretrained(bases["bert"]).save_pretrained(tmp_path / "mlm")
    recipe = make_recipe(quantization=quantization)
    recipe = recipe.with_(base=recipe.base.with_(name_or_path=str(tmp_path / "mlm")))
    prepared, model, _ = injected(recipe)
    saved = {re.sub(r"^base_model.model.", "", n) for n in trainable_parameters(model)}
    assert any(name.startswith("bert.pooler.modules_to_save") for name in saved)
    disturb(model)
    trained = model(input_ids=IDS_TENSOR).logits
    (tmp_path / "adapter").mkdir()
    recipe.method.save(model, tmp_path / "adapter")
    loaded = load_trained_model(
        tmp_path / "adapter", recipe, prepared.base, prepared.encoded.head, CPU
    )
    assert torch.equal(loaded(input_ids=IDS_TENSOR).logits, trained)


def test_a_prefix_starts_as_words_before_the_text(make_chat):
    """Li & Liang 2021, section 7.4: the keys and values of real words, so that nothing is upset."""
    recipe = make_chat(PrefixTuning(num_virtual_tokens=6))
    prepared = prepare(recipe)
    loaded = load_weights(prepared.base, prepared.encoded.head, torch.float32, CPU, None)
    plain = load_weights(
        prepared.base, prepared.encoded.head, torch.float32, CPU, None
    ).model.eval()
    read = []
    hook = loaded.model.get_input_embeddings().register_forward_hook(
        lambda _, inputs, __: read.append(inputs[0])
    )
    model = recipe.method.inject(loaded.model, prepared.encoded, loaded.head).eval()
    hook.remove()
    [words] = [ids for ids in read if ids.shape == (1, 6)]
    other = load_weights(prepared.base, prepared.encoded.head, torch.float32, CPU, None)
    random = recipe.method.with_(prefix_init="random")
    with torch.no_grad():
        expected = plain(torch.cat([words, IDS_TENSOR], dim=1)).logits[:, 6:]
        found = model(input_ids=IDS_TENSOR, attention_mask=torch.ones_like(IDS_TENSOR)).logits
        elsewhere = random.inject(other.model, prepared.encoded, other.head).eval()(IDS_TENSOR)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(elsewhere.logits, expected, atol=1e-2)
