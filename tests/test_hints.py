"""Where a method does not fit a base, the hint says something that does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import peftkit as pk
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import MethodError
from peftkit.methods.peft.layers import lora_layers
from peftkit.methods.targets.layers import last_names, linear_names
from peftkit.run import run
from peftkit.stages.preparing import prepare
from tests.chat_formats import BY_NAME
from tests.test_matching import inject, shapes

SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
BASES = {
    "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 2}),
    "falcon": ("FalconConfig", SIZE),
    "phimoe": (
        "PhimoeConfig",
        {**SIZE, "num_key_value_heads": 2, "intermediate_size": 96, "num_local_experts": 4},
    ),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> dict[str, Path]:
    """Bases whose layers are not those of a Llama."""
    tokenizer = BY_NAME["ChatML"].tokenizer()
    folders = {}
    for name, (config_class, size) in BASES.items():
        folders[name] = tmp_path_factory.mktemp("bases") / name
        end = tokenizer.eos_token_id
        config = getattr(transformers, config_class)(
            **size, vocab_size=len(tokenizer), eos_token_id=end, bos_token_id=None
        )
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.fixture
def of_base(odd, make_chat):
    def make(name, method, **training):
        base = {"name_or_path": str(odd[name])}
        return make_chat(method, base=base, task={"samples": 0}, **training)

    return make


def test_all_linear_leaves_out_what_mamba_does_not_bear(of_base, tmp_path):
    prepared = prepare(of_base("mamba", pk.LoRA(r=4)))
    [note] = [note for note in prepared.ledger.notes if "all-linear" in note]
    assert note.startswith("`all-linear` leaves out `dt_proj`, `out_proj`, which MambaForCausalLM")
    assert note.endswith("takes `in_proj`, `x_proj`")
    done = run(of_base("mamba", pk.LoRA(r=4), max_steps=1), str(tmp_path / "run"))
    assert set(last_names(lora_layers(pk.load(str(done.folder)).model))) == {"in_proj", "x_proj"}
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    assert report.relative <= 1e-5


def test_all_linear_leaves_out_a_router(of_base):
    prepared = prepare(of_base("phimoe", pk.LoRA(r=4)))
    assert any("leaves out `router`" in note for note in prepared.ledger.notes)
    config = {"peft_type": "HRA", "target_modules": "all-linear"}
    prepared = prepare(of_base("phimoe", pk.PeftMethod(config=config)))
    assert any("leaves out `router`" in note for note in prepared.ledger.notes)


@pytest.mark.parametrize(
    ("base", "method", "told", "hint"),
    [
        ("mamba", pk.LoRA(target_modules=("in_proj", "out_proj")),
         "PEFT does not adapt `out_proj` of MambaForCausalLM",
         "name layers that it adapts, `in_proj`, `x_proj`, or give `all-linear`"),
        ("mamba", pk.AdaLoRA(target_modules="out_proj"), "does not adapt `out_proj`", "`in_proj`"),
        ("mamba", pk.LoRA(target_modules=("in_proj", "dt_proj")),
         "MambaForCausalLM computes with the weight of", "adapt layers that it calls: `in_proj`"),
        ("mamba", pk.LoRA(target_modules="dt_proj"), "so adapting it has no effect",
         "`in_proj`, `x_proj`"),
        ("mamba", pk.PromptTuning(num_virtual_tokens=2), "put PromptTuning into Mamba", "use LoRA"),
        ("mamba", pk.PrefixTuning(num_virtual_tokens=2), "takes no cache", "use LoRA"),
        ("mamba", pk.IA3(), "are not known", "or use LoRA"),
        ("mamba", pk.BottleneckAdapter(), "no place is known for a houlsby adapter", "or use LoRA"),
        ("mamba", pk.PeftMethod(config={"peft_type": "LORA"}),
         "PEFT has no default `target_modules` of LoRA",
         "give `method.config.target_modules`; the model's linear layers are `in_proj`, `x_proj`"),
        ("falcon", pk.PrefixTuning(num_virtual_tokens=2), "does not fit there", "use LoRA"),
        ("phimoe", pk.LoRA(target_modules="mlp"), "`mlp` is a PhimoeSparseMoeBlock", "`q_proj`"),
    ],
    ids=lambda value: getattr(value, "kind", lambda: str(value)[:20])(),
)  # fmt: skip
def test_a_hint_names_what_works_there(of_base, base, method, told, hint):
    with pytest.raises(MethodError) as caught:
        prepare(of_base(base, method))
    assert told in caught.value.message
    assert hint in caught.value.hint
    named = [n for n in re.findall(r"`(\w+)`", caught.value.hint) if n.endswith("_proj")]
    prepare(of_base(base, pk.LoRA(target_modules=tuple(named)) if named else pk.LoRA()))


def test_a_name_that_is_a_module_with_layers_in_it_is_told_apart(make_chat):
    for names, told, hint in (
        (
            ("mlp",),
            "`mlp` is a LlamaMLP",
            "name the layers in it: `down_proj`, `gate_proj`, `up_proj`",
        ),
        (("q_proj", "norm"), "`norm` is a LlamaRMSNorm", "its layers are `down_proj`, `gate_proj`"),
        (("q_porj",), "is named `q_porj`", "did you mean `q_proj`? its layers are `down_proj`"),
    ):
        with pytest.raises(MethodError) as caught:
            prepare(make_chat(pk.LoRA(target_modules=names)))
        assert told in caught.value.message
        assert hint in caught.value.hint
        assert "embed_tokens" not in caught.value.hint


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (pk.IA3(target_modules="embed_tokens"), "`embed_tokens` is a Embedding"),
        (pk.AdaLoRA(target_modules=("q_proj", "embed_tokens")), "`embed_tokens` is a Embedding"),
        (pk.IA3(target_modules=r".*mlp\..*"), "matches modules that cannot be adapted"),
        (pk.PeftMethod(config={"peft_type": "HRA", "target_modules": ".*mlp.*"}), "(LlamaMLP)"),
        (pk.PeftMethod(config={"peft_type": "VERA", "r": 4, "target_modules": ".*"}), "LlamaModel"),
        (pk.BottleneckAdapter(target_modules=".*"), "has no weights, so it is not a sublayer"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind(),
)
def test_other_methods_say_what_they_cannot_adapt_too(make_chat, method, told):
    with pytest.raises(MethodError) as caught:
        prepare(make_chat(method))
    assert told in caught.value.message
    assert "use LoRA" not in caught.value.hint


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_layer_is_not_trained_whole(make_chat, quantization):
    config = {"peft_type": "LORA", "target_modules": ["q_proj"], "modules_to_save": ["k_proj"]}
    with pytest.raises(MethodError, match="is quantized, and cannot be trained whole") as caught:
        prepare(make_chat(pk.PeftMethod(config=config), base={"quantization": quantization}))
    assert "name it in `method.config.target_modules` instead" in caught.value.hint
    config |= {"target_modules": ["q_proj", "k_proj"], "modules_to_save": ["lm_head"]}
    prepare(make_chat(pk.PeftMethod(config=config), base={"quantization": quantization}))


def test_a_pattern_that_matches_too_much_says_what_and_how_to_do_it(make_chat):
    with pytest.raises(MethodError) as caught:
        prepare(make_chat(pk.LoRA(target_modules=".*mlp.*")))
    assert caught.value.message == (
        "`method.target_modules`: `.*mlp.*` matches modules that cannot be adapted: "
        "`model.layers.0.mlp` (LlamaMLP), `model.layers.0.mlp.act_fn` (SiLUActivation), "
        "`model.layers.1.mlp` (LlamaMLP) and 1 more"
    )
    pattern = r".*mlp.*\.(down_proj|gate_proj|up_proj)"
    assert caught.value.hint == f"`{pattern}` matches only the linear layers there"
    adapted = lora_layers(inject(pk.LoRA(target_modules=pattern)))
    assert set(last_names(adapted)) == {"down_proj", "gate_proj", "up_proj"}
    with pytest.raises(MethodError, match="and 1") as caught:
        prepare(make_chat(pk.LoRA(target_modules=".*")))
    assert caught.value.hint.startswith("`all-linear` takes only the linear layers: `down_proj`")


PIECES = st.sampled_from(
    [".*", "model", r"\.layers", r"\.\d", r"\.1", r"\.self_attn", r"\.mlp", r"\.(q|up)_proj",
     r"\..*norm", r"\.[ko]_proj", "lm_head", "|", r".*\.v_proj"]
)  # fmt: skip


@given(st.lists(PIECES, min_size=1, max_size=5).map("".join))
@settings(max_examples=80, deadline=None)
def test_the_pattern_of_a_hint_adapts_linear_layers_that_were_meant(pattern):
    if pattern.isidentifier():
        return  # it is taken for a name
    try:
        inject(pk.LoRA(target_modules=pattern))
    except MethodError as error:
        told, hint = error.message, error.hint
    else:
        return
    if "matches no layer" in told or "it matches no linear layer" in hint:
        return
    modules = dict(shapes().named_modules())
    meant = [name for name in modules if re.fullmatch(pattern, name)]
    linear = [name for name in linear_names(shapes(), ()) if name in meant]
    linear = linear or [
        name for name in linear_names(shapes(), ()) if any(name.startswith(f"{m}.") for m in meant)
    ]
    if found := re.fullmatch("`(.*)` matches only the linear layers there", hint):
        narrower = found[1]
    else:
        assert hint.startswith("`all-linear` takes only the linear layers"), hint
        narrower = "all-linear"
    adapted = lora_layers(inject(pk.LoRA(target_modules=narrower)))
    assert sorted(adapted) == sorted(linear)
    assert all(isinstance(modules[name], nn.Linear) for name in adapted)
