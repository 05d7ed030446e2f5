"""What cannot work is refused before weights are loaded, with the reason and a way out."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import peftkit as pk
from peftkit.bases.opening import open_base
from peftkit.cli.main import command_line
from peftkit.deploy.merging.folding import merge
from peftkit.errors import BaseModelError, MethodError, PeftkitError, did_you_mean
from peftkit.run import run
from peftkit.stages.preparing import prepare
from tests.conftest import code_of_card
from tests.matrix import TokenLabels


@pytest.fixture
def no_weights(monkeypatch):
    """Loading weights is an error of the test."""
    forbid_weights(monkeypatch)


def forbid_weights(monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", loaded)


CASES = {
    "prefix tuning with activation checkpointing": (
        {"method": pk.PrefixTuning(), "gradient_checkpointing": True},
        "PrefixTuning keeps its prefix in the cache", "use PromptTuning, LoRA",
    ),
    "prompt tuning of a token classifier": (
        {"method": pk.PromptTuning(), "task": TokenLabels()},
        "PromptTuning puts virtual tokens into the text", "use PrefixTuning",
    ),
    "p-tuning of a token classifier": (
        {"method": pk.PTuning(), "task": TokenLabels()},
        "PTuning puts virtual tokens into the text", "use PrefixTuning",
    ),
    "DoRA on int8": (
        {"method": pk.DoRA(), "quantization": "int8"},
        "PEFT has no DoRA layer for int8", 'DoRA with `base.quantization = "nf4"`, or LoRA on int8',
    ),
    "full fine-tuning on nf4": (
        {"method": pk.FullFineTuning(), "quantization": "nf4"},
        "nf4 weights cannot be trained", "use LoRA on nf4",
    ),
    "top layers on int8": (
        {"method": pk.TopLayers(), "quantization": "int8"},
        "int8 weights cannot be trained", "use LoRA on int8",
    ),
    "PiSSA on nf4": (
        {"method": pk.PiSSA(), "quantization": "nf4"},
        "makes a base that nobody else has", "use LoRA or EVA on nf4",
    ),
    "OLoRA on fp4": (
        {"method": pk.OLoRA(), "quantization": "fp4"},
        "makes a base that nobody else has", "use LoRA or EVA on fp4",
    ),
    "HRA on int8": (
        {"method": pk.PeftMethod(config={"peft_type": "HRA"}), "quantization": "int8"},
        "PEFT's HRA is not known to compute correctly on int8 weights", "use LoRA on int8",
    ),
    "DoRA on int8 through PeftMethod": (
        {
            "method": pk.PeftMethod(config={"peft_type": "LORA", "use_dora": True}),
            "quantization": "int8",
        },
        "PEFT has no DoRA layer for int8", "LoRA on int8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_recipes_that_cannot_work_are_refused_when_they_are_built(make_recipe, case):
    fields, reason, way_out = CASES[case]
    with pytest.raises(ValueError) as caught:
        make_recipe(**fields)
    assert reason in str(caught.value)
    assert way_out in str(caught.value)


def test_the_command_line_says_it_in_one_message(make_recipe, in_tmp, capsys):
    value = json.loads(make_recipe(pk.LoRA()).to_json())
    value["method"] = {"kind": "DoRA"}
    value["base"]["quantization"] = "int8"
    (in_tmp / "recipe.json").write_text(json.dumps(value))
    with pytest.raises(SystemExit) as caught:
        command_line(["check", "recipe.json"])
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.count("error:") == 1
    assert "PEFT has no DoRA layer for int8" in error


@pytest.mark.parametrize(
    ("method", "base", "reason"),
    [
        (pk.BitFit(), "llama", "LlamaForSequenceClassification has no biases to train"),
        (pk.TopLayers(k=3), "bert", "`method.k` is 3, but BertForSequenceClassification has 2"),
        (pk.PrefixTuning(num_virtual_tokens=62), "bert", "62 virtual tokens leave no room"),
        (
            pk.BottleneckAdapter(target_modules="nothing_like_it"), "bert",
            "no layer of BertForSequenceClassification is named `nothing_like_it`",
        ),
        (
            pk.BottleneckAdapter(target_modules=r".*nothing"), "bert",
            "nothing` matches no layer of BertForSequenceClassification",
        ),
        (
            pk.BottleneckAdapter(placement="parallel", target_modules=r".*\.output\.dense"), "bert",
            "does not fit there: RuntimeError",
        ),
        (pk.IA3(target_modules=("key", "valeu")), "bert", "no layer of .* is named `valeu`"),
        (
            pk.PeftMethod(config={"peft_type": "VERA", "target_modules": ["query", "valeu"]}),
            "bert", "no layer of .* is named `valeu`",
        ),
        (
            pk.PeftMethod(config={
                "peft_type": "LORA", "target_modules": ["query"], "modules_to_save": ["poolr"],
            }),
            "bert", "the model has no `poolr`",
        ),
        (pk.PiSSA(r=48), "llama", "`model.layers.0.self_attn.k_proj` has 64 inputs and 32 outputs"),
        (pk.OLoRA(r=48), "llama", "which is too few for rank 48"),
        (pk.EVA(r=40, rho=2), "bert", "which is too few for rank 80"),
        (pk.PiSSA(target_modules=("word_embeddings",)), "bert", "is not a linear layer"),
        (
            pk.PromptTuning(prompt_tuning_init="TEXT", prompt_tuning_init_text="warm qwerty"),
            "bert", "the base does not know all of `warm qwerty`",
        ),
        (pk.AdaLoRA(target_modules=("quary",)), "bert", "no layer .* is named `quary`"),
        (pk.PeftMethod(config={"peft_type": "OFFT"}), "bert", "`OFFT`, which PEFT does not have"),
        (
            pk.PeftMethod(config={"peft_type": "OFT", "oft_block_sise": 8}), "bert",
            "`method.config.oft_block_sise`: OFTConfig has no such field",
        ),
        (
            pk.PeftMethod(config={"peft_type": "LOHA", "r": 0, "target_modules": "all-linear"}),
            "bert", "PEFT cannot put LOHA",
        ),
    ],
)  # fmt: skip
def test_architectures_without_what_a_method_needs_are_refused_before_loading(
    make_recipe, no_weights, method, base, reason
):
    with pytest.raises(PeftkitError, match=reason):
        prepare(make_recipe(method, base))


@pytest.mark.parametrize(
    ("name", "names", "guess"),
    [
        ("relation", ["Translation", "RelationExtraction"], "RelationExtraction"),
        ("text", ["TextClassification", "TextRegression"], ""),  # which one?
        ("f1", ["accuracy", "macro_f1"], "macro_f1"),
        ("loora", ["LoRA", "DoRA"], "LoRA"),
    ],
)
def test_a_guess_at_what_was_meant(name, names, guess):
    assert did_you_mean(name, names) == (f"did you mean `{guess}`?" if guess else "")


def test_did_you_mean_for_fields_and_kinds_of_peft():
    with pytest.raises(MethodError) as caught:
        pk.PeftMethod(config={"peft_type": "OFT", "oft_block_sise": 8})._peft_config("SEQ_CLS")
    assert "oft_block_size" in caught.value.hint


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "at least 1 item"),
        ({"r": 8}, "needs a `peft_type`"),
        ({"peft_type": "OFT", "task_type": "SEQ_CLS"}, "`task_type` is set by peftkit"),
        ({"peft_type": "LILY"}, "an answer depends on the other texts"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa"}, "use PiSSA"),
        ({"peft_type": "LORA", "init_lora_weights": "eva"}, "OLoRA or EVA"),
        ({"peft_type": "ADALORA"}, "use AdaLoRA"),
        ({"peft_type": "CPT"}, "use PromptTuning"),
        ({"peft_type": "P_TUNING"}, "`num_virtual_tokens` is None"),
        ({"peft_type": "P_TUNING", "num_virtual_tokens": "many"}, "is 'many', not a positive"),
        ({"peft_type": "OFT", "r": print}, "cannot be recorded"),
    ],
)
def test_wrong_peft_configurations_are_refused_when_they_are_built(config, reason):
    with pytest.raises(ValueError, match=reason):
        pk.PeftMethod(config=config)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"double_quant": True}, "`double_quant` is for nf4 and fp4"),
        ({"added_tokens": ("<a>", "<a>")}, "'<a>' is empty, given twice"),
        ({"added_tokens": ("", " <b>")}, "'', ' <b>' is empty, given twice"),
    ],
)
def test_wrong_bases_are_refused_when_they_are_built(fields, reason):
    with pytest.raises(ValueError, match=reason):
        pk.Base(name_or_path="x", **fields)


def test_a_token_that_the_vocabulary_has_is_not_added(bases):
    with pytest.raises(BaseModelError, match="`film` is in the vocabulary already"):
        open_base(pk.Base(name_or_path=str(bases["bert"]), added_tokens=("<order>", "film")))


def test_ia3_in_4_bit_is_not_merged(make_recipe, tmp_path, monkeypatch, capsys):
    recipe = make_recipe(pk.IA3(), quantization="nf4", max_steps=1)
    done = run(recipe, str(tmp_path / "run"))

    def loaded(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("peftkit.deploy.merging.folding.load_weights", loaded)
    with pytest.raises(MethodError, match="PEFT cannot fold that into nf4 weights") as caught:
        merge(str(done.folder))
    assert "use LoRA, which merges into the dequantized nf4 weights" in caught.value.message
    command_line(["check", str(done.folder / "recipe.json"), "--json"])
    assert "cannot fold that into nf4" in json.loads(capsys.readouterr().out)["merging_refused"]


def quantized_checkpoint(bases, folder, quantization, kind="llama"):
    """A checkpoint that was quantized by bitsandbytes before it was saved."""
    from transformers import AutoModel, AutoTokenizer, BitsAndBytesConfig

    options = (
        {"load_in_8bit": True}
        if quantization == "int8"
        else {"load_in_4bit": True, "bnb_4bit_quant_type": quantization}
    )
    model = AutoModel.from_pretrained(
        bases[kind], quantization_config=BitsAndBytesConfig(**options), dtype="float32"
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bases[kind]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_base_that_is_quantized_already_is_used_as_it_is(
    make_recipe, bases, tmp_path, quantization, kind
):
    folder = quantized_checkpoint(bases, tmp_path / "base", quantization, kind)
    recipe = make_recipe(pk.LoRA(r=2), kind, max_steps=2)
    recipe = recipe.with_(base=pk.Base(name_or_path=str(folder)))
    done = run(recipe, str(tmp_path / "run"))
    assert done.record.recipe.read().base.quantization == quantization
    ours = pk.load(str(done.folder)).model
    kinds = {type(getattr(m, "base_layer", m)).__name__ for m in ours.modules()}
    assert ("Linear8bitLt" if quantization == "int8" else "Linear4bit") in kinds
    card = (done.folder / "adapter/README.md").read_text()
    assert "BitsAndBytesConfig" not in card  # the files say it themselves
    found = {}
    exec(code_of_card(done.folder / "adapter", folder)[0], found)
    ids = torch.tensor([[5, 9, 11, 3]])
    with torch.no_grad():
        found["model"](input_ids=ids)  # bitsandbytes would repack at the first
    expected = ours(input_ids=ids).logits
    torch.testing.assert_close(found["model"](input_ids=ids).logits, expected, atol=1e-5, rtol=0)


def test_a_quantized_base_is_refused_for_methods_that_need_another(
    make_recipe, bases, tmp_path, monkeypatch
):
    folder = quantized_checkpoint(bases, tmp_path / "base", "nf4")
    forbid_weights(monkeypatch)
    plain = make_recipe(pk.FullFineTuning(), "llama")
    with pytest.raises(MethodError, match="nf4 weights cannot be trained"):
        prepare(plain.with_(base=pk.Base(name_or_path=str(folder))))
    asked = pk.Base(name_or_path=str(folder), quantization="int8")
    with pytest.raises(
        BaseModelError, match="quantized to nf4 already, and the recipe asks for int"
    ):
        prepare(plain.with_(method=pk.LoRA(), base=asked))


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "compressed-tensors"])
def test_other_quantizations_are_refused_by_name(bases, tmp_path, method):
    shutil.copytree(bases["llama"], tmp_path / "base")
    file = tmp_path / "base/config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    file.write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match=f"quantized with {method.upper()}") as caught:
        open_base(pk.Base(name_or_path=str(tmp_path / "base")))
    assert "name the original checkpoint" in caught.value.hint


def test_the_guard_against_loading_weights_fires(make_recipe, no_weights, tmp_path):
    with pytest.raises(AssertionError, match="weights were loaded"):
        run(make_recipe(max_steps=1), str(tmp_path / "run"))


def test_pissa_and_olora_take_no_dropout(make_recipe):
    with pytest.raises(ValueError, match=r"leave `method\.lora_dropout` out"):
        make_recipe(pk.PiSSA(lora_dropout=0.1))


def test_ia3_wants_both_lists():
    with pytest.raises(ValueError, match="give both"):
        pk.IA3(feedforward_modules=("dense",))


def test_half_a_family_is_no_family(bases, tmp_path, make_recipe):
    """Mixtral has Llama's names of keys and values, and experts for the feed-forward matrix: half
    of the method would be put in without a word.
    """
    from transformers import AutoTokenizer, MixtralConfig, MixtralModel

    config = MixtralConfig(
        hidden_size=64, intermediate_size=64, num_local_experts=2, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=80, pad_token_id=0,
    )  # fmt: skip
    MixtralModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bases["bert"]).save_pretrained(tmp_path)
    base = pk.Base(name_or_path=str(tmp_path))
    with pytest.raises(MethodError, match="are not known"):
        prepare(make_recipe(pk.IA3()).with_(base=base))
    with pytest.raises(MethodError, match="no place is known"):
        prepare(make_recipe(pk.BottleneckAdapter()).with_(base=base))
