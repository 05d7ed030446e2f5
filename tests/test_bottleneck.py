"""The bottleneck adapter: plain PEFT loads it, and it computes what the papers' layers do."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import peftkit as pk
from peftkit.adapters.loading import load_trained_model
from peftkit.run import run
from peftkit.stages.preparing import prepare
from tests.conftest import code_of_card
from tests.test_methods import IDS_TENSOR, disturb, injected

PLACEMENTS = ["houlsby", "pfeiffer", "parallel"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bases, reviews):
    """A run of each placement and precision: (placement, quantization) -> its adapter folder."""
    made = {}

    def make(placement: str, quantization: str) -> Path:
        if (placement, quantization) not in made:
            recipe = pk.Recipe(
                base=pk.Base(name_or_path=str(bases["bert"]), quantization=quantization),
                task=pk.TextClassification(data=pk.Data(path=str(reviews))),
                method=pk.BottleneckAdapter(placement=placement, reduction_factor=4),
                training=pk.Training(learning_rate=1e-2, num_epochs=2, batch_size=16),
            )
            folder = tmp_path_factory.mktemp("bottleneck") / "run"
            made[placement, quantization] = run(recipe, str(folder)).folder / "adapter"
        return made[placement, quantization]

    return make


FRESH = """
import contextlib, json, sys, torch, traceback
given = json.loads(sys.argv[1])
import peftkit
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known
answers = {"known_to_peft_at_first": "BOTTLENECK" in known}
try:
    exec(given["without_import"], {})
except Exception:
    answers["without_import"] = traceback.format_exc()
from peftkit.cli.main import command_line
answers["predict"] = 0
with contextlib.redirect_stdout(sys.stderr):
    try:
        command_line(["predict", given["run"], "--text", "a film"])
    except SystemExit as end:
        answers["predict"] = end.code
ids, answers["logits"] = torch.tensor(given["ids"]), []
for code in given["codes"]:
    found = {}
    exec(code, found)
    with torch.no_grad():
        found["model"](input_ids=ids)  # bitsandbytes would repack at the first
    answers["logits"].append(found["model"](input_ids=ids).logits.tolist())
import peft, importlib
importlib.reload(peftkit.peft_plugin)
answers["known_to_peft"] = "BOTTLENECK" in known
answers["placement"] = peft.get_peft_config({"peft_type": "BOTTLENECK"}).placement
print(json.dumps(answers))
"""
"""In this order: what the plugin registers in PEFT stays in a process."""
QUANTIZED = [*product(PLACEMENTS, ("none", "int8", "nf4"))]


@pytest.fixture(scope="module")
def fresh(trained, bases):
    """What a new process answers, in which nothing is registered in PEFT."""
    codes = []
    for placement, quantization in QUANTIZED:
        adapter = trained(placement, quantization)
        (code,) = code_of_card(adapter, bases["bert"])
        assert code.startswith("import peftkit.peft_plugin\n")
        named = code.replace(f'"{adapter}")', f'"{adapter}", adapter_name="customer_service")')
        assert named != code
        codes += [code, named]
    (code,) = code_of_card(trained("houlsby", "none"), bases["bert"])
    given = {
        "without_import": code.replace("import peftkit.peft_plugin\n", ""),
        "run": str(trained("pfeiffer", "none").parent),
        "ids": IDS_TENSOR.tolist(),
        "codes": codes,
    }
    command = [sys.executable, "-c", FRESH, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_plain_peft_gives_equal_logits_by_the_cards_own_code(trained, fresh):
    """Under another adapter name too, where names nested deeper than PEFT expects would be left at
    random in silence.
    """
    expected = []
    for placement, quantization in QUANTIZED:
        model = pk.load(str(trained(placement, quantization).parent)).model
        expected += 2 * [model(input_ids=IDS_TENSOR).logits]
    logits = torch.tensor(fresh["logits"])
    torch.testing.assert_close(logits, torch.stack(expected), rtol=0, atol=1e-5)


def test_a_new_process_loads_it_with_peftkit(fresh):
    assert fresh["predict"] == 0


def test_without_the_import_the_cards_hint_names_peft_s_error(trained, fresh):
    error = fresh["without_import"].strip().splitlines()[-1]
    assert error == "KeyError: 'BOTTLENECK'"
    assert error in (trained("houlsby", "none") / "README.md").read_text()


def delta(layer, x):
    """`scaling * up(f(down(x)))`, with the layer's own weights."""
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    inner = F.relu(F.linear(x, down.weight, down.bias))
    return layer.scaling["default"] * F.linear(inner, up.weight, up.bias)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_block_of_bert_computes_the_papers_formula(make_recipe, placement):
    """Houlsby: after both sublayers; Pfeiffer: on norm(y + x), added before the norm, as AdapterHub
    does it; parallel: from the input of the feed-forward sublayer.
    """
    method = pk.BottleneckAdapter(placement=placement, reduction_factor=4, scaling=2.0)
    _, model, _ = injected(make_recipe(method))
    disturb(model)
    block = model.base_model.model.bert.encoder.layer[0]
    torch.manual_seed(3)
    hidden = torch.randn(1, 5, 64)
    attended = block.attention.self(hidden)[0]
    out, ffn = block.attention.output, block.output
    if placement == "houlsby":
        y = out.dense.base_layer(attended)
        x = out.LayerNorm(y + delta(out.dense, y) + hidden)
        y = ffn.dense.base_layer(block.intermediate(x))
        expected = ffn.LayerNorm(y + delta(ffn.dense, y) + x)
    else:
        x = out(attended, hidden)
        inner = ffn.base_layer
        y = inner.dense(block.intermediate(x))
        read = x if placement == "parallel" else inner.LayerNorm(y + x)
        expected = inner.LayerNorm(y + x + delta(ffn, read))
    found = block(hidden)
    found = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_block_of_llama_computes_the_papers_formula(make_recipe, placement):
    method = pk.BottleneckAdapter(placement=placement, reduction_factor=4, scaling=2.0)
    _, model, _ = injected(make_recipe(method, "llama"))
    disturb(model)
    block = model.base_model.model.model.layers[0]
    torch.manual_seed(3)
    hidden = torch.randn(1, 5, 64)
    place = model.base_model.model.model.rotary_emb(hidden, torch.arange(5)[None])
    attended = block.self_attn(
        block.input_layernorm(hidden), position_embeddings=place, attention_mask=None
    )[0]
    x = hidden + attended  # houlsby's own adapter is inside o_proj
    normed = block.post_attention_layernorm(x)
    if placement == "houlsby":
        mlp = block.mlp
        y = mlp.down_proj.base_layer(mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed))
        expected = x + y + delta(mlp.down_proj, y)
    elif placement == "parallel":
        expected = x + block.mlp.base_layer(normed) + delta(block.mlp, normed)
    else:
        out = x + block.mlp(normed)
        expected = out + delta(block, out)
    found = block(hidden, position_embeddings=place, attention_mask=None)
    found = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_importing_peftkit_registers_nothing_and_the_plugin_does(fresh):
    assert not fresh["known_to_peft_at_first"]
    assert fresh["known_to_peft"]
    assert fresh["placement"] == "houlsby"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"placement": "sideways"}, "`placement` is `sideways`, not one of"),
        ({"non_linearity": "softmax9"}, "`non_linearity` is `softmax9`"),
        ({"reduction_factor": 0}, "`reduction_factor` is 0, not positive"),
    ],
)
def test_wrong_configurations_are_refused_by_the_plugin_too(fields, reason):
    from peftkit.peft_plugin import BottleneckConfig

    with pytest.raises(ValueError, match=reason):
        BottleneckConfig(**fields)


def test_it_never_merges(make_recipe, tmp_path):
    recipe = make_recipe(pk.BottleneckAdapter())
    prepared, model, _ = injected(recipe)
    recipe.method.save(model, tmp_path)
    loaded = load_trained_model(
        tmp_path, recipe, prepared.base, prepared.encoded.head, torch.device("cpu")
    )
    with pytest.raises(ValueError, match="is not linear, and cannot be merged"):
        loaded.merge_and_unload()
    assert "keep the adapter" in recipe.method.refuses_merging(recipe.base)


def test_an_unknown_architecture_asks_for_target_modules(make_recipe, bases, tmp_path):
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    config = DistilBertConfig(dim=64, n_layers=2, n_heads=4, hidden_dim=128, vocab_size=80)
    DistilBertModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bases["bert"]).save_pretrained(tmp_path)
    recipe = make_recipe(pk.BottleneckAdapter(placement="pfeiffer"))
    recipe = recipe.with_(base=pk.Base(name_or_path=str(tmp_path)))
    with pytest.raises(pk.PeftkitError, match="give `target_modules`"):
        prepare(recipe)
    named = recipe.with_(
        method=pk.BottleneckAdapter(placement="pfeiffer", target_modules=("lin2",))
    )
    inner = 64 // 16
    assert prepare(named).trainable_parameters == 2 * (2 * 64 * inner + inner + 64) + (
        64 * 64 + 64 + 64 * 2 + 2
    )
