"""LoRA of some blocks, with ranks and alphas of their own, goes wherever LoRA goes."""

from __future__ import annotations

import json

import pytest
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import peftkit as pk
from peftkit.adapters.probes import outputs_of
from peftkit.cli.main import command_line
from peftkit.deploy.exporting.export import export
from peftkit.deploy.exporting.gguf.reading import read_gguf
from peftkit.deploy.merging.merge import merge_to
from peftkit.deploy.rewinding.rewind import rewind
from peftkit.methods.fast_layers import exact
from peftkit.methods.lora_linear import fused_lora_layers
from peftkit.methods.peft.layers import lora_layers
from peftkit.recipe import Recipe
from peftkit.run import run
from peftkit.stages.measuring import measured_method, names_blocks
from peftkit.stages.preparing import prepare
from tests.engines import engine_of
from tests.test_fast_paths import EXACT, compare, inject, setting

METHOD = pk.LoRA(
    r=4, lora_alpha=8, layers_to_transform=(1,), rank_pattern={"q_proj": 8, "mlp.down_proj": 2},
    alpha_pattern={"q_proj": 4, r"self_attn\..*": 6},
)  # fmt: skip
LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
IDS = list(range(5, 30))


@pytest.fixture(scope="module")
def trained(chat_base, talks, tmp_path_factory):
    """A run of it on the tiny chat base."""
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(chat_base)),
        task=pk.Chat(data=pk.Conversations(path=str(talks)), samples=0),
        method=METHOD,
        training=pk.Training(learning_rate=1e-2, max_steps=6, batch_size=8),
    )
    return run(recipe, str(tmp_path_factory.mktemp("runs") / "run")).folder


def test_what_was_trained_is_what_was_asked_for(trained):
    tensors = load_file(trained / "adapter/adapter_model.safetensors")
    ranks = {
        name.removeprefix("base_model.model.model.").removesuffix(".lora_A.weight"): len(tensor)
        for name, tensor in tensors.items()
        if name.endswith("lora_A.weight")
    }
    expected = {"self_attn.q_proj": 8, "mlp.down_proj": 2}
    parts = [f"self_attn.{n}_proj" for n in "qkvo"] + [
        f"mlp.{n}_proj" for n in ("gate", "up", "down")
    ]
    assert ranks == {f"layers.1.{part}": expected.get(part, 4) for part in parts}
    config = json.loads((trained / "adapter/adapter_config.json").read_text())
    assert (config["layers_to_transform"], sorted(config["target_modules"])) == ([1], LINEAR)
    recipe = Recipe.from_json((trained / "recipe.json").read_text())
    assert recipe.method == METHOD
    model = pk.load(str(trained)).model
    layers = lora_layers(model).items()
    scales = {name.rsplit(".", 1)[-1]: layer.scaling["default"] for name, layer in layers}
    assert scales == {"q_proj": 0.5, "down_proj": 4, "k_proj": 1.5, "v_proj": 1.5, "o_proj": 1.5,
                      "gate_proj": 2, "up_proj": 2}  # fmt: skip


def test_it_merges_and_is_written_with_one_rank_and_one_alpha(trained, chat_base, tmp_path):
    expected = outputs_of(pk.load(str(trained)).model, IDS)
    report = merge_to(str(trained), str(tmp_path / "merged"))
    assert report.relative <= 1e-5
    vllm = export(str(trained), "vllm", str(tmp_path / "vllm"))
    assert vllm.checked["r"] == 8
    config = json.loads((tmp_path / "vllm/adapter_config.json").read_text())
    assert not any(map(config.get, ("rank_pattern", "alpha_pattern", "layers_to_transform")))
    assert all(name.startswith("model.layers.1.") for name in config["target_modules"])
    for folder in (trained / "adapter", tmp_path / "vllm"):
        alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(chat_base), folder)
        assert (outputs_of(alone.eval(), IDS) - expected).abs().max() <= 1e-4

    export(str(trained), "gguf-lora", str(tmp_path / "lora.gguf"))
    found = read_gguf(tmp_path / "lora.gguf")
    alpha = found.fields["adapter.lora.alpha"]
    tensors = load_file(trained / "adapter/adapter_model.safetensors")
    for part, name, scale in (("mlp.down_proj", "ffn_down", 4), ("mlp.up_proj", "ffn_up", 2)):
        b = tensors[f"base_model.model.model.layers.1.{part}.lora_B.weight"].numpy()
        written = found.values(f"blk.1.{name}.weight.lora_b")
        assert written * (alpha / b.shape[1]) == pytest.approx(b * scale, rel=1e-5)


def test_it_is_rewound_and_gone_on_with(trained, tmp_path):
    done = rewind(str(trained), (0.5, 1.0), chosen=0.5, output=str(tmp_path / "rewound"))
    assert done.report.written
    recipe = Recipe.from_json((trained / "recipe.json").read_text())
    again = recipe.with_(start_from=str(trained), training=recipe.training.with_(max_steps=1))
    assert prepare(again).start is not None
    wrong = again.with_(method=METHOD.with_(rank_pattern={"q_proj": 8}))
    with pytest.raises(pk.PeftkitError, match="`rank_pattern` is"):
        prepare(wrong)


def test_pissa_saves_twice_the_ranks(make_recipe, tmp_path):
    method = pk.PiSSA(r=2, rank_pattern={"query": 4}, alpha_pattern={"key": 6})
    done = run(make_recipe(method, max_steps=2), str(tmp_path / "run"))  # it checks what it saves
    config = json.loads((done.folder / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) == (4, {"query": 8})
    assert (config["lora_alpha"], config["alpha_pattern"]) == (32, {"key": 12})
    assert done.record.probes.max_difference <= 1e-5


@pytest.mark.parametrize(
    ("method", "field"),
    [(pk.PiSSA(r=400), "r"), (pk.PiSSA(r=2, rank_pattern={"query": 400}), "rank_pattern")],
    ids=["r", "rank_pattern"],
)
def test_a_rank_beyond_a_layer_blames_the_field_that_gives_it(make_recipe, method, field):
    with pytest.raises(
        pk.PeftkitError, match=f"^error: `method.{field}`: `.*query` .* for rank 400"
    ):
        prepare(make_recipe(method))


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_layers_of_their_own_rank_and_alpha_compute_as_peft_does(layout):
    model, encoded = setting("llama", "AutoModelForCausalLM")
    model = inject(METHOD.with_(layers_to_transform=(0, 2)), model, encoded)
    engine = engine_of(model, encoded.head, layout)
    compare(engine, encoded, METHOD)
    ours = outputs_of(model, IDS)
    with exact(fused_lora_layers(model)):
        compare(engine, encoded, METHOD)
        assert (outputs_of(model, IDS) - ours).abs().max() <= EXACT


def test_the_command_line_and_older_recipes(make_chat, tmp_path, capsys):
    old = json.loads(make_chat().to_json())
    for name in ("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"):
        del old["method"][name]
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(old))
    assert Recipe.from_json(file.read_text()) == make_chat()
    options = ["--method.layers-to-transform", "0", "1", "--method.rank-pattern", "q_proj", "2"]
    command_line(["check", str(file), *options, "--json"])
    found = json.loads(capsys.readouterr().out)
    width, inner = 64, 128
    of_block = 4 * (4 * width + 2 * (width + 32) + 3 * (width + inner)) - 2 * (2 * width)
    assert found["trainable_parameters"] == 2 * of_block


def test_small_copies_have_the_blocks_that_are_adapted(make_chat):
    assert names_blocks(METHOD)
    assert names_blocks(pk.PeftMethod(config={"peft_type": "LORA", "layers_to_transform": [0]}))
    assert names_blocks(pk.LoRA(rank_pattern={r"layers\.0\..*": 2}))
    assert names_blocks(pk.LoRA(target_modules=r".*layers\.(0|1)\..*proj"))
    assert not names_blocks(
        pk.LoRA(target_modules=("fc1", "dense_4h_to_h"), rank_pattern={"fc1": 2})
    )
    base = prepare(make_chat(METHOD)).base
    assert measured_method(METHOD, base) == METHOD
    deep = pk.LoRA(layers_to_transform=(20,), rank_pattern={"q_proj": 2, "layers.3.mlp": 1})
    base.config.num_hidden_layers = 40
    assert measured_method(deep, base) == pk.LoRA(rank_pattern={"q_proj": 2})
