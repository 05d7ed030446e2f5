"""What bitsandbytes takes of a base: told before weights are loaded, counted in what is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

import peftkit as pk
from peftkit.adapters.loading import OpenedAdapter, load_trained_model
from peftkit.adapters.probes import outputs_of
from peftkit.bases.loaded_model import LoadedModel
from peftkit.bases.opened import OpenedBase
from peftkit.bases.opening import open_base
from peftkit.bases.quantizing import (
    check_quantized,
    count_quantized,
    dequantized,
    keep_differentiable,
    note_on_quantized,
    quantized_empty,
    settle_quantized,
)
from peftkit.deploy.merging.folding import merged_model
from peftkit.deploy.merging.merge import merge_to
from peftkit.deploy.merging.target import check_into
from peftkit.errors import BaseModelError, MethodError
from peftkit.run import run
from peftkit.stages.preparing import prepare
from tests.chat_formats import BY_NAME
from tests.conftest import save_tokenizer

D = 64
CPU = torch.device("cpu")


class OwnLinear(nn.Linear):
    """A subclass, as Falcon's, which bitsandbytes passes over."""


class Experts(nn.Module):
    """Three matrices in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, D, D) * 0.02)

    def forward(self, x):
        return (x[..., None, :] @ self.up.sum(0))[..., 0, :]


class Grid(transformers.PreTrainedConfig):
    model_type = "grid_of_layers"

    def __init__(self, layers=("linear",), **options):
        self.layers = list(layers)
        super().__init__(**options)


def layer_of(kind: str) -> nn.Module:
    return {
        "linear": lambda: nn.Linear(D, D),
        "wide": lambda: nn.Linear(D, D, bias=False),
        "conv1d": lambda: Conv1D(D, D),
        "subclass": lambda: OwnLinear(D, D),
        "experts": Experts,
        "norm": lambda: nn.LayerNorm(D),
    }[kind]()


class GridModel(transformers.PreTrainedModel):
    """Layers of the kinds that a configuration names, one after another."""

    config_class = Grid
    base_model_prefix = "trunk"

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(10, D)
        self.trunk = nn.ModuleList(map(layer_of, config.layers))
        self.norm = nn.LayerNorm(D)
        self.score = nn.Linear(D, 2)
        self.post_init()

    def _init_weights(self, module):
        pass

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return None

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.trunk:
            x = x + torch.tanh(layer(x))
        return self.score(self.norm(x))


TAKEN, MATRICES = {"linear", "wide", "conv1d"}, {"experts": 3}
GRID = st.lists(
    st.sampled_from(["linear", "wide", "conv1d", "subclass", "experts", "norm"]),
    min_size=1, max_size=5,
)  # fmt: skip


@given(kinds=GRID, quantization=st.sampled_from(["nf4", "fp4", "int8"]))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_counted_of_shapes_is_what_gets_quantized(kinds, quantization, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    torch.manual_seed(0)
    plain = GridModel(Grid(kinds)).eval()
    plain.save_pretrained(folder)
    spec = pk.Base(name_or_path=str(folder), quantization=quantization)
    base = OpenedBase(spec, folder, Grid(kinds), tokenizer=None)
    with torch.device("meta"):
        empty = LoadedModel(GridModel(Grid(kinds)), ("score",))
    shapes = quantized_empty(base, empty).model
    found = count_quantized(shapes, ("score",))

    taken = sum(D * D for kind in kinds if kind in TAKEN)
    left = {
        f"trunk.{n}.up" if kind == "experts" else f"trunk.{n}": D * D * MATRICES.get(kind, 1)
        for n, kind in enumerate(kinds)
        if kind in ("subclass", "experts")
    }
    assert (found.taken, {n: size for n, (_, size) in found.left.items()}) == (taken, left)
    assert found.unquantized == sorted([*left, "score"])
    assert (note_on_quantized(base, shapes, found) == "") == (not left)
    if taken and 2 * taken >= taken + sum(left.values()):
        check_quantized(base, shapes, found)
    else:
        with pytest.raises(BaseModelError, match=f"cannot be quantized to {quantization}"):
            check_quantized(base, shapes, found)

    options = {"load_in_4bit": True, "bnb_4bit_quant_type": quantization}
    options = {"load_in_8bit": True} if quantization == "int8" else options
    config = transformers.BitsAndBytesConfig(**options, llm_int8_skip_modules=["score"])
    model = GridModel.from_pretrained(folder, quantization_config=config, device_map={"": "cpu"})
    settle_quantized(model, torch.float32)
    keep_differentiable(model)
    assert count_quantized(model, ("score",)) == found
    ids = torch.arange(10)[None]
    with torch.no_grad():
        before = model.eval()(ids)
        back = dequantized(model, torch.float32).eval()
        after = back(ids)
    # int8 rounds what comes into a layer too
    assert (before - after).abs().max() <= (1e-4 if quantization != "int8" else 5e-2)
    assert [type(m) for m in back.trunk] == [type(m) for m in plain.trunk]
    back.save_pretrained(folder / "back")
    again = GridModel.from_pretrained(folder / "back").eval()
    with torch.no_grad():
        assert torch.equal(again(ids), after)


def save_decoder(folder: Path, config_class: str, **size) -> Path:
    tokenizer = BY_NAME["ChatML"].tokenizer()
    config = getattr(transformers, config_class)(
        **size, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def falcon(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "falcon"
    return save_decoder(folder, "FalconConfig", **SIZE, initializer_range=0.08)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_base_that_bitsandbytes_does_not_take_is_refused(falcon, make_chat, quantization):
    asked = make_chat(base={"name_or_path": str(falcon), "quantization": quantization})
    with pytest.raises(BaseModelError) as caught:
        prepare(asked)
    assert "which hold 0 % of the weights of FalconForCausalLM's blocks" in caught.value.message
    assert "the rest is in FalconLinear (`query_key_value`, `dense`" in caught.value.message
    assert "leave `base.quantization` out" in caught.value.hint


def test_experts_in_one_tensor_are_counted(make_chat, tmp_path):
    size = {**SIZE, "num_key_value_heads": 2, "intermediate_size": 128, "num_local_experts": 4}
    folder = save_decoder(tmp_path / "moe", "MixtralConfig", **size)
    asked = make_chat(base={"name_or_path": str(folder), "quantization": "nf4"})
    told = r"11 % of the weights .* MixtralExperts \(`gate_up_proj`, `down_proj`\)"
    with pytest.raises(BaseModelError, match=told):
        prepare(asked)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_an_architecture_that_multiplies_with_the_weight_itself_is_refused(
    make_chat, tmp_path, quantization
):
    size = {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
    folder = save_decoder(tmp_path / "mamba", "MambaConfig", **size)
    lora = pk.LoRA(target_modules="in_proj")
    base = {"name_or_path": str(folder), "quantization": quantization}
    with pytest.raises(BaseModelError) as caught:
        prepare(make_chat(lora, base=base))
    assert "computes with the weight of `backbone.layers.0.mixer.dt_proj` itself" in (
        caught.value.message
    )


def test_files_that_say_quantized_and_are_not(falcon, make_chat, tmp_path):
    """As transformers saves a Falcon that was loaded in 4 bits."""
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    auto = transformers.AutoModelForCausalLM
    auto.from_pretrained(falcon, quantization_config=config).save_pretrained(tmp_path / "base")
    BY_NAME["ChatML"].tokenizer().save_pretrained(tmp_path / "base")
    with pytest.raises(
        BaseModelError, match="says that its weights are quantized to nf4, but none are"
    ):
        prepare(make_chat(base={"name_or_path": str(tmp_path / "base")}))


def test_an_adapter_of_a_base_that_was_not_quantized_after_all_still_loads_and_merges(
    falcon, make_chat, tmp_path
):
    """Earlier versions trained one in float32 and wrote down nf4."""
    base = {"name_or_path": str(falcon)}
    done = run(make_chat(base=base, max_steps=2, task={"samples": 0}), str(tmp_path / "run"))
    adapter = pk.load(str(done.folder))
    said = adapter.base.spec.with_(quantization="nf4")
    recipe = adapter.recipe.with_(base=said)
    opened, head, folder = open_base(said), adapter.record.head, done.folder / "adapter"
    ids = list(range(5, 25))
    expected = outputs_of(adapter.model, ids)
    loaded = load_trained_model(folder, recipe, opened, head, CPU)
    assert torch.equal(outputs_of(loaded, ids), expected)
    merged = merged_model(folder, recipe, opened, head, torch.float32)
    assert (outputs_of(merged, ids) - expected).abs().max() <= 1e-5
    at = OpenedAdapter(folder, adapter.record, recipe, opened)
    with pytest.raises(MethodError, match="bitsandbytes can quantize no layer of"):
        check_into(at, "requantized")
    merged.save_pretrained(tmp_path / "merged")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "merged")
    assert not hasattr(config, "quantization_config")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "gpt2"
    return save_decoder(
        folder, "GPT2Config", n_embd=64, n_layer=2, n_head=4, n_positions=256,
        initializer_range=0.08,
    )  # fmt: skip


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_gpt2_merges_into_its_transposed_layers(gpt2, make_chat, tmp_path, quantization):
    base = {"name_or_path": str(gpt2), "quantization": quantization}
    done = run(make_chat(base=base, max_steps=2, task={"samples": 0}), str(tmp_path / "run"))
    assert done.record.base.unquantized == ("lm_head",)
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    assert report.relative <= report.tolerance
    auto = transformers.AutoModelForCausalLM
    merged = auto.from_pretrained(tmp_path / "merged")
    assert isinstance(merged.transformer.h[0].attn.c_attn, Conv1D)


def test_the_record_names_what_stays_and_a_note_tells_the_share(make_recipe, tmp_path):
    """T5 keeps the second matrix of its feed-forward layers in float32."""
    folder = tmp_path / "t5"
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=80, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, pad_token_id=0,
        eos_token_id=3, decoder_start_token_id=0,
    )  # fmt: skip
    transformers.AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, "bert")
    recipe = make_recipe(quantization="nf4", max_steps=1)
    recipe = recipe.with_(base=recipe.base.with_(name_or_path=str(folder)))
    prepared = prepare(recipe)
    told = "80 % of the weights of T5ForSequenceClassification's blocks are quantized to nf4"
    [note] = [note for note in prepared.ledger.notes if "quantized" in note]
    assert note == f"{told}; Linear (`wo`) stay as they are"
    done = run(recipe, str(tmp_path / "run"))
    kept = done.record.base.unquantized
    stacks = [f"transformer.{s}.block.{n}.layer.{1 if s == 'encoder' else 2}.DenseReluDense.wo"
              for s in ("decoder", "encoder") for n in range(2)]  # fmt: skip
    assert list(kept) == sorted(
        [*stacks, "classification_head.dense", "classification_head.out_proj"]
    )
